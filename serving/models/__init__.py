"""The server's python models, one file each. Triton loads copies of these files; only inside the server they import."""
