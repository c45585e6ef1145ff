"""What the kernels are timed against: FlexAttention's masks against the references; what the face kernel must beat."""

from __future__ import annotations

from typing import Any

import torch

from dreamactor.benchmark import gpu_peers, gpu_plot, gpu_report
from dreamactor.kernels import reference
from dreamactor.kernels.sliding_tiles import sliding_tiles


def test_flex_sees_what_the_sparse_kernel_sees() -> None:
    """The peer's block mask against the reference, on ragged tiles."""
    from torch.nn.attention.flex_attention import flex_attention

    layout = sliding_tiles((3, 5, 6), (2, 4, 4), (1, 1, 3))
    q, k, v = torch.randn(3, 1, 2, 90, 64).unbind()
    k_reference, v_reference = torch.randn(2, 1, 2, 21, 64).unbind()
    mask = gpu_peers.block_mask(layout, 21, "cpu")
    joined = (q, torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2))
    found: Any = flex_attention(*joined, block_mask=mask, scale=0.125)
    expected = reference.sparse_attention(q, k, v, k_reference, v_reference, layout.index, layout.offsets, 0.125)
    torch.testing.assert_close(found.transpose(1, 2).flatten(2), expected, rtol=1e-4, atol=1e-5)


def test_flex_sees_what_the_face_kernel_sees() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = torch.randn(1, 2, 5 * 7, 64), *torch.randn(2, 1, 2, 5 * 4, 64).unbind()
    found: Any = flex_attention(q, k, v, block_mask=gpu_peers.frame_mask(5, 7, 4, 1, "cpu"), scale=0.125)
    expected = reference.face_attention(q, k, v, 5, 1, 0.125)
    torch.testing.assert_close(found.transpose(1, 2).flatten(2), expected, rtol=1e-4, atol=1e-5)


def test_the_face_kernel_is_judged_against_the_best_there_is() -> None:
    case = {
        "kernel": "face_attention",
        "size": 128,
        "label": "x",
        "tiles": {"a": {"passed": True, "ms": 1.0, "gbps": 1.0}},
    }
    peers = {name: {"ms": 3.5} for name in gpu_plot.MASKED} | {"compiled reference": {"ms": 0.5}}
    for flex, met in ((3.1, True), (2.9, False)):
        report = {"kernels": [case | {"peers": peers | {"masked flex": {"ms": flex}}}]}
        gpu_report.judge(report)
        (goal,) = (goal for goal in gpu_plot.goals(report) if goal["kernel"] == "face_attention")
        assert goal["met"] is met
