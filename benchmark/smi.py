"""What nvidia-smi says. Nothing but the standard library: the kernels' timings run where little else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence


def query_gpu(fields: Sequence[str]) -> dict[str, str] | None:
    """What nvidia-smi says of the first GPU of CUDA_VISIBLE_DEVICES, or of the machine; None without one.

    Numbers in that variable are nvidia-smi's where the GPUs are equal or CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    tool, chosen = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if tool is None or not chosen:
        return None
    query = [tool, f"--id={chosen}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = done.stdout.strip().splitlines()
    if done.returncode or not rows:
        return None
    return dict(zip(fields, (value.strip() for value in rows[0].split(",")), strict=False))
