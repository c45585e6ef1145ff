"""Whether a kernel can run on given tensors, and with which tile; where it cannot on a GPU, that is said once."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch
from torch import Tensor

from dreamactor.kernels import tiles
from dreamactor.kernels.tiles import Tile

logger = logging.getLogger("dreamactor.kernels")
HALF = (torch.bfloat16, torch.float16)
FP8_SINCE = 89  # the first compute capability whose conversions to E4M3 are instructions; sm_86 shares sm_89's tiles
_ROWS = 128  # the most rows a kernel's block has; their offsets within it are int32


@functools.cache
def _architecture(index: int) -> tuple[int | None, str]:
    """(table architecture, what is in the way) of a CUDA device."""
    if importlib.util.find_spec("triton") is None:
        return None, "triton is not installed"
    if torch.version.hip is not None:
        return None, "the kernels are for NVIDIA GPUs"
    found = capability(torch.device("cuda", index))
    key = tiles.table_key(found)
    return key, "" if key is not None else f"there is no tile table for compute capability {found / 10}"


@functools.cache
def capability(device: torch.device) -> int:
    """The compute capability of a CUDA device itself: 86 for 8.6, whose tiles are sm_89's."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def _say_once(kernel: str, reason: str, level: int = logging.WARNING) -> None:
    logger.log(level, "%s runs on PyTorch's own operators: %s.", kernel, reason)


def architecture(device: torch.device) -> int:
    """The table architecture of a CUDA device that has one."""
    key, reason = _architecture(device.index or 0)
    if key is None:
        raise RuntimeError(f"No kernel runs here: {reason}.")
    return key


def pick(kernel: str, size: int, *tensors: Tensor, fp8: bool = False, refused: str = "") -> Tile | None:
    """The tile `kernel` runs with on these tensors, or None where the reference must.

    None without a word off CUDA; on CUDA the reason is logged once. `size` is the head size, or for row kernels the
    channels. Descriptor tiles are passed over where a tensor's strides do not suit them. With `fp8` the kernel
    converts to E4M3; `refused` is what the caller knows against it.
    """
    if not tensors[0].is_cuda:
        return None
    arch, reason = _architecture(tensors[0].device.index or 0)
    candidates: tuple[Tile, ...] = ()
    if arch is not None and refused:
        reason = refused
    elif arch is not None and fp8 and capability(tensors[0].device) < FP8_SINCE:
        reason = f"E4M3 needs compute capability {FP8_SINCE / 10}, this GPU has {capability(tensors[0].device) / 10}"
    elif arch is not None:
        candidates, reason = _candidates(kernel, arch, size, tensors)
    for tile in candidates:
        if not tile.specialized or all(_describable(tensor) for tensor in tensors):
            return tile
    _say_once(kernel, reason)
    return None


def _candidates(kernel: str, arch: int, size: int, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tile, ...], str]:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1 or tensors[0].dtype not in HALF:
        return (), f"its inputs are {', '.join(sorted(map(str, dtypes)))}, not all bfloat16 or all float16"
    if any(tensor.stride(-2) * _ROWS >= 2**31 for tensor in tensors):
        return (), f"its rows lie {max(tensor.stride(-2) for tensor in tensors)} elements apart, too far for int32"
    known = tiles.sizes(kernel, arch)
    if kernel == "modulate_norm":  # any number of channels up to the largest: the table has size classes
        entry = min((entry for entry in known if entry >= size), default=None)
    else:
        entry = size if size in known else None
    if entry is None:
        return (), f"sm_{arch} has tiles for sizes {known}, not {size}"
    return tiles.tiles(kernel, arch, entry), ""


def _describable(tensor: Tensor) -> bool:
    """Whether a tensor descriptor can be made: 16-byte aligned start and strides."""
    width = tensor.element_size()
    strides = tensor.stride()[:-1]
    return tensor.data_ptr() % 16 == 0 and all(stride > 0 and stride * width % 16 == 0 for stride in strides)


def by_operator(kernel: str, *tensors: Tensor | None) -> bool:
    """Whether the operator is called: on CUDA without gradients; with them, the reference, which is said once."""
    if tensors[0] is None or not tensors[0].is_cuda:
        return False
    if not needs_gradient(*tensors):
        return True
    if not torch.compiler.is_compiling():  # a compiler would stumble over the log
        _say_once(kernel, "its inputs need gradients", logging.INFO)
    return False


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a backward pass, which only the references have."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
