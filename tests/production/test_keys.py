"""Keys of the store: what they hold, and the memory of hashes behind them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dreamactor.engines.gpu import Gpu
from dreamactor.engines.target import Target
from dreamactor.production import keys as keys_module
from dreamactor.production.keys import _EXPORT, _JUDGE, _LOWER, Keys, _file_hash
from dreamactor.production.request import make_request


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("kernels/reference.py", _EXPORT),  # its norms are exported into the ONNX
        ("dreamactor/presets.py", _EXPORT),
        ("dreamactor/fidelity.py", _LOWER),
        ("export/recipe.py", _LOWER),
        ("dreamactor/production/beside.py", _JUDGE),
        ("dreamactor/production/gate.py", _JUDGE),
        ("engines/verify.py", _JUDGE),
    ],
)
def test_code_that_shapes_the_result_is_in_its_key(path: str, group: tuple[str, ...]) -> None:
    assert any(fnmatch(path, pattern) for pattern in group)


def test_every_pattern_of_code_finds_a_file(tmp_path: Path) -> None:
    groups = [value for name, value in vars(keys_module).items() if name.startswith("_") and isinstance(value, tuple)]
    assert len(groups) == 7
    for pattern in (pattern for group in groups for pattern in group):
        assert list(keys_module.paths.SOURCE.glob(pattern)), pattern


def test_engines_that_were_timed_on_one_gpu_are_not_another_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "fp16", "sm89", output=tmp_path / "set", store=tmp_path / "store")

    def key(name: str, target: Target) -> object:
        monkeypatch.setattr(keys_module, "local_gpu", lambda: Gpu(name, "sm89", 2**34, "13.0"))
        keys = Keys(replace(request, target=target))
        return keys.engine("denoiser", keys.precision("denoiser"), "11.4")

    native, rtx = Target("tensorrt", "tensorrt", "sm89"), Target("rtx", "tensorrt_rtx", "sm89")
    assert key("NVIDIA L4", native) != key("NVIDIA L40S", native)
    assert key("NVIDIA L4", rtx) == key("NVIDIA L40S", rtx)  # chooses its kernels where it runs


def test_hashes_are_remembered_where_they_can_be(tmp_path: Path) -> None:
    weights, store = tmp_path / "weights", tmp_path / "store"
    weights.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert _file_hash(weights, store) == expected
    assert [path.name for path in store.iterdir()] == ["hashes.json"]
    memory = json.loads((store / "hashes.json").read_text())
    (store / "hashes.json").write_text(json.dumps(dict.fromkeys(memory, "remembered")))
    assert _file_hash(weights, store) == "remembered"
    (store / "hashes.json").write_text("3")
    assert _file_hash(weights, store) == expected
    assert _file_hash(weights, Path("/dev/null/store")) == expected  # nothing can be kept there
