"""Constants folded and what the exporter repeats written once.

`torch.onnx.export(optimize=True)` is onnxscript's whole set of rules. One of those, which makes a split of two slices,
looks through the whole graph for every node of it, and no graph here has its pattern: it alone took half of the ten
minutes that exporting `m1`'s denoiser took (`puppet`'s: 15.6 s in place of 4.5). So the rules here are those that find
something.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

ROUNDS = 2  # a rule makes constants to fold
RULES = (
    rules.squeeze_reshape_1d_rule, rules.unsqueeze_unsqueeze_rule, rules.materialize_reshape_shape_rule,
    rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule, rules.max_min_rule,
    rules.add_0_rule, rules.sub_0_rule, rules.mul_by_1_rule, rules.div_by_1_rule,
)  # fmt: skip


def simplify(model: ir.Model) -> None:
    """In place; the model computes the same."""
    common.InlinePass()(model)
    for _ in range(ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True)
        RewritePass(RULES)(model)
        common.RemoveUnusedNodesPass()(model)
    for final in (
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        final(model)
