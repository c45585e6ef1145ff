"""Networks to ONNX files: opset 23, free frames, height and width, checked before they are handed on."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamactor.errors import InputError
from dreamactor.export.graphs import graph
from dreamactor.interfaces import NETWORKS
from dreamactor.networks import Networks
from dreamactor.presets import Preset

OPSET = 23
# What an exported graph says about its nodes; the rest is the exporter's own, with source paths of this machine.
METADATA = ("namespace", "pkg.torch.onnx.name_scopes")


def export_network(preset: Preset, weights: Mapping[str, Tensor], name: str, path: Path) -> Path:
    """Writes network `name` to `path` and returns it; weights above 256 MiB go to `<path>.data` beside it.

    `weights` are float32, named as in `Networks.state_dict()`; each is read as it is written and not kept, so that
    those of `StoredWeights` need no memory. The file passes `onnx.checker`; attention is the operator
    `dreamactor::FlashAttention` with a function body of standard operators, so every runtime can run it. Nodes say
    which module they came from and nothing of this machine. Raises InputError when the folder of `path` cannot be made.
    """
    from dreamactor.export.fold import fold_weights
    from dreamactor.export.simplify import simplify
    from dreamactor.export.weights import LARGE
    from dreamactor.kernels.onnx import attach_functions

    _make_folder(path.parent)
    with FakeTensorMode() as mode:  # weights without values: the graph does not depend on them
        networks = Networks(preset).eval()
    item = graph(networks, name)
    with _quiet(), mode:
        program = torch.onnx.export(
            item.module,
            (),
            kwargs={key: mode.from_tensor(value) for key, value in item.inputs.items()},
            input_names=list(item.inputs),
            output_names=list(item.outputs),
            opset_version=OPSET,
            dynamic_shapes=dict(item.dynamic),
            dynamo=True,
            optimize=False,
        )
        assert program is not None
    with _quiet(), _values(program.model, weights):
        fold_weights(program.model)  # before what follows, which would keep in memory what it folds
        simplify(program.model)
        attach_functions(program)
        strip_metadata(program.model)
        size = sum(p.numel() * p.element_size() for p in item.module.parameters())
        program.save(str(path), external_data=size > LARGE)
    onnx.checker.check_model(str(path))
    return path


@contextlib.contextmanager
def _values(model: ir.Model, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Every parameter has its values, to be read when they are written, within the block and not after it: the
    simplifier's rules remember what they saw last for as long as the process lives."""
    given = [weights]
    for name, value in model.graph.initializers.items():
        if name in weights and value.shape is not None:

            def read(name: str = name) -> ir.Tensor[Any]:
                return ir.Tensor(given[0][name].detach().numpy(), name=name)

            value.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=value.shape, name=name)
    try:
        yield
    finally:
        given.clear()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): give another folder.") from error


def strip_metadata(model: ir.Model) -> None:
    """Drops, in place, all that the exporter noted but METADATA."""
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for part in parts:
        values = [*part.inputs, *part.outputs, *(value for node in part for value in node.outputs)]
        if isinstance(part, ir.Graph):
            values += part.initializers.values()
        for item in (model, part, *values, *part):
            item.doc_string = None
            for key in [key for key in item.metadata_props if key not in METADATA]:
                del item.metadata_props[key]


def export_all(
    preset: Preset, weights: Mapping[str, Tensor], folder: Path, on_start: Callable[[str], None] | None = None
) -> dict[str, Path]:
    """Exports every network to `folder/<name>.onnx`; `on_start` hears of each before it begins."""
    paths = {}
    _make_folder(folder)  # before the minutes of work
    for name in NETWORKS:
        if on_start is not None:
            on_start(name)
        paths[name] = export_network(preset, weights, name, folder / f"{name}.onnx")
    return paths


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress and deprecation notes off the screen; its errors still raise."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
