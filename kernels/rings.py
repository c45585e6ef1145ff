"""The loading side of the warp-specialised kernels, in Gluon: rings of key and value blocks in shared memory.

One warp fills them with the bulk copy engine; a barrier for each place says when it is full, another when every group
of warps that computes has done with it. The ragged rests of both segments come first, then their whole blocks, so that
the long loop of those who compute has nothing to mask.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

GROUP_ROWS = gl.constexpr(64)  # queries of a group of four warps: what one instruction of the matrix unit takes


@gluon.jit
def allocate(described, GROUPS: gl.constexpr, STAGES: gl.constexpr):
    """Buffers and barriers as (queries, their barrier, keys, full, empty, values, full, empty).

    `described` are descriptors of the queries, (keys, values) and the references' (keys, values).
    """
    q_desc, k_desc, v_desc = described[0], described[1][0], described[1][1]
    barrier: gl.constexpr = mbarrier.MBarrierLayout()
    queries = gl.allocate_shared_memory(q_desc.dtype, [GROUPS] + q_desc.block_type.shape, q_desc.layout)  # noqa: RUF005
    keys = gl.allocate_shared_memory(k_desc.dtype, [STAGES] + k_desc.block_type.shape, k_desc.layout)  # noqa: RUF005
    values = gl.allocate_shared_memory(v_desc.dtype, [STAGES] + v_desc.block_type.shape, v_desc.layout)  # noqa: RUF005
    q_full = gl.allocate_shared_memory(gl.int64, [1], barrier)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    mbarrier.init(q_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=GROUPS)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_empty.index(stage), count=GROUPS)
    fence_async_shared()
    return queries, q_full, keys, k_full, k_empty, values, v_full, v_empty


@gluon.jit
def place(p_out, heads, tokens, first, valid, SIZE: gl.constexpr):
    """Where a program's queries are, (batch, head, first row), and each group's output: (pointer, row stride, rows)."""
    batch, head = gl.program_id(1) // heads, gl.program_id(1) % heads
    out_row = heads * SIZE
    p_out += (batch.to(gl.int64) * tokens + first) * out_row + head * SIZE
    below = p_out + GROUP_ROWS * out_row
    return (batch, head, first), (p_out, out_row, valid), (below, out_row, valid - GROUP_ROWS)


@gluon.jit
def _fetch(segment, buffers, batch, head, row, index, STAGES: gl.constexpr, TRANSPOSED: gl.constexpr):
    """One block of keys and of values, as soon as their places are free."""
    k_desc, v_desc = segment
    _, _, keys, k_full, k_empty, values, v_full, v_empty = buffers
    stage = index % STAGES
    free = (index // STAGES + 1) & 1
    mbarrier.wait(k_empty.index(stage), free)
    mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(k_desc, [batch, head, row, 0], k_full.index(stage), keys.index(stage))
    mbarrier.wait(v_empty.index(stage), free)
    mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
    if TRANSPOSED:
        tma.async_copy_global_to_shared(v_desc, [batch, head, 0, row], v_full.index(stage), values.index(stage))
    else:
        tma.async_copy_global_to_shared(v_desc, [batch, head, row, 0], v_full.index(stage), values.index(stage))


@gluon.jit
def load(
    described, buffers, rows, lengths, spans,
    BLOCK_N: gl.constexpr, GROUPS: gl.constexpr, STAGES: gl.constexpr, TRANSPOSED: gl.constexpr,
):  # fmt: skip
    """All of the loader's work for the queries at `rows` (batch, head, first); values are [B,H,D,N] with TRANSPOSED.

    With `spans` (pointer to first rows and lengths, how many) only those keys, and all references.
    """
    q_desc, segment, references = described
    batch, head, first = rows
    key_tokens, reference_tokens = lengths
    mbarrier.expect(buffers[1], GROUPS * q_desc.block_type.nbytes)
    for group in gl.static_range(GROUPS):
        row = first + group * GROUP_ROWS
        tma.async_copy_global_to_shared(q_desc, [batch, head, row, 0], buffers[1], buffers[0].index(group))
    whole, reference_whole = key_tokens // BLOCK_N * BLOCK_N, reference_tokens // BLOCK_N * BLOCK_N
    index = 0
    if spans is None:  # noqa: SIM102 (the compiler's to decide, the next one the program's)
        if whole < key_tokens:
            _fetch(segment, buffers, batch, head, whole, index, STAGES, TRANSPOSED)
            index += 1
    if reference_whole < reference_tokens:
        _fetch(references, buffers, batch, head, reference_whole, index, STAGES, TRANSPOSED)
        index += 1
    if spans is None:
        for row in range(0, whole, BLOCK_N):
            _fetch(segment, buffers, batch, head, row, index, STAGES, TRANSPOSED)
            index += 1
    else:
        for block in range(spans[1]):
            _fetch(segment, buffers, batch, head, gl.load(spans[0] + 2 * block), index, STAGES, TRANSPOSED)
            index += 1
    for row in range(0, reference_whole, BLOCK_N):
        _fetch(references, buffers, batch, head, row, index, STAGES, TRANSPOSED)
        index += 1


@gluon.jit
def store(out, values, layout: gl.constexpr):
    """[64, D] rows of a group's output `out`, as `place` describes it."""
    p_out, out_row, valid = out
    row = gl.arange(0, values.shape[0], gl.SliceLayout(1, layout))
    lane = gl.arange(0, values.shape[1], gl.SliceLayout(0, layout))
    pointers = p_out + gl.expand_dims(row, 1) * out_row + gl.expand_dims(lane, 0)
    gl.store(pointers, values.to(p_out.dtype.element_ty), mask=gl.expand_dims(row < valid, 1))


def layout(element_bits: int) -> gl.NVMMASharedLayout:
    """Of every buffer: rows as the matrix unit reads them without bank conflicts."""
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=element_bits, rank=4)


def describe(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    """A descriptor of a tensor of four dimensions for copies of `block`."""
    return TensorDescriptor.from_tensor(tensor, block, layout(8 * tensor.element_size()))


Segment = tuple[Tensor, Tensor]  # keys and values


def describe_segments(
    q: Tensor, segment: Segment, references: Segment, k_block: list[int], v_block: list[int]
) -> tuple[TensorDescriptor, ...]:
    """Descriptors of q, k, v and the references' k and v. A descriptor of nothing cannot be made; a segment of no keys
    is never read, so the other stands for it."""
    if not segment[0].shape[2]:
        segment = references
    elif not references[0].shape[2]:
        references = segment
    tensors = (*segment, *references)
    blocks = (k_block, v_block, k_block, v_block)
    return (describe(q, [1, 1, GROUP_ROWS.value, q.shape[3]]), *map(describe, tensors, blocks))
