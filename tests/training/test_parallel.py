"""Two processes, started as torchrun starts them, train one set of weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.networks import load
from dreamactor.training.parallel import Processes

SCRIPT = """
import hashlib, sys
from dataclasses import replace
from pathlib import Path
from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.recipe import recipe
from dreamactor.training.train import Run

recipe = replace(recipe("tiny", sys.argv[2]), clips=3, validation_clips=1)
run = Run(preset("tiny"), Path(sys.argv[1]), recipe, mocap_folder(), lambda line: None)
run.go(float("inf"))
digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in run.networks.state_dict().values())).hexdigest()
print(f"rank={run.processes.rank} of={run.processes.count} weights={digest}\\n", end="", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["whole", "further"])
def test_two_processes_keep_the_same_weights(new_run: Callable[[str], Path], tmp_path: Path, recipe: str) -> None:
    script, folder = tmp_path / "both.py", new_run("run")
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(folder), recipe], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"rank=(\d) of=2 weights=(\w{64})", done.stdout)
    assert {rank for rank, _ in found} == {"0", "1"}
    assert len({weights for _, weights in found}) == 1
    assert load(folder / "checkpoint").preset.name == "tiny"
    for split in ("clips_train", "clips_val"):
        assert np.fromfile(folder / split / "latents" / "there.bin", bool).all()  # each clip by one of the two


def test_each_process_takes_its_rows() -> None:
    """As many each, so that gradients of equal weight are averaged; a batch that does not divide is filled up."""
    three = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for batch, expected in ((9, three), (7, three), (2, [[0], [1], [2]])):
        found = [Processes(rank, 3, torch.device("cpu")).share(batch) for rank in range(3)]
        assert [list(range(count))[share] for count, share in found] == expected
