"""One process or several: what `torchrun` sets up, and averaging of gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Rank of this process among `count`, and its device."""

    rank: int
    count: int
    device: torch.device

    def share(self, batch: int) -> tuple[int, slice]:
        """A batch's rows, as many as it takes for every process to have equally many, and which are this process's."""
        size = -(-batch // self.count)
        return size * self.count, slice(self.rank * size, (self.rank + 1) * size)

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.count
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def divide(self, work: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """`work` on a stack of items [N,...], shared out among the processes; `work` keeps their shape and type."""
        if self.count == 1:
            return work(items)
        results = torch.zeros_like(items)
        if self.rank < len(items):
            results[self.rank :: self.count] = work(items[self.rank :: self.count])
        dist.all_reduce(results)
        return results

    def agree(self, stop: bool) -> bool:
        """True in every process as soon as it is in one."""
        if self.count == 1:
            return stop
        flag: Tensor = torch.tensor(float(stop), device=self.device)
        dist.all_reduce(flag)
        return bool(flag.item())

    def first(self, value: float) -> float:
        """Process 0's value, in every process."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block in process 0 before the others."""
        if self.count > 1 and self.rank:
            dist.barrier()
        yield
        if self.count > 1 and not self.rank:
            dist.barrier()


def start() -> Processes:
    """Joins the processes that a launcher started, if one did; each takes a GPU of its own where there are GPUs."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count > 1 and not dist.is_initialized():
        # one process renders the clips and the others wait: longer than the usual minutes
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    return Processes(rank, count, device)
