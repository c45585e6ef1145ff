"""The commands of `dreamactor`, a file each: `configure` names the arguments, `run` does the work and imports late."""
