"""A TensorRT set in the harness: the GPU's own time, and its networks under the GPU's roof. Not run on a GPU.

The sessions are ours. Driver and TensorRT are a small library in C, whose clock goes on by a copy and by an engine's
run, and a few classes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamactor import paths
from dreamactor.benchmark import gpu_timing, sections
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.count import count
from dreamactor.benchmark.device_clock import DeviceClock
from dreamactor.benchmark.engine_sets import Sets
from dreamactor.benchmark.html import write_html
from dreamactor.benchmark.settings import Settings
from dreamactor.engines import cuda, open_engines, tensorrt
from dreamactor.engines.manifest import Manifest, NetworkRecord
from dreamactor.engines.tensorrt import TensorRTSession
from dreamactor.engines.trust import sha256
from dreamactor.interfaces import Size, random_inputs
from dreamactor.presets import preset

TINY = preset("tiny")
RUN = 7.0  # milliseconds of the library's clock; a copy is 100
DRIVER = """
#include <stdlib.h>
#include <string.h>
static float now = 0;
static int open_events = 0;
void run(float milliseconds) { now += milliseconds; }
int left_open(void) { return open_events; }
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
int cuCtxSetCurrent(void *c) { return c ? 0 : 201; }
int cuStreamCreate(void **s, unsigned f) { *s = (void *)2; return 0; }
int cuStreamDestroy_v2(void *s) { return 0; }
int cuStreamSynchronize(void *s) { return 0; }
int cuMemAlloc_v2(size_t *p, size_t n) { *p = (size_t)calloc(n, 1); return 0; }
int cuMemFree_v2(size_t p) { free((void *)p); return 0; }
int cuMemcpyHtoDAsync_v2(size_t d, void *h, size_t n, void *s) { memcpy((void *)d, h, n); run(100); return 0; }
int cuMemcpyDtoHAsync_v2(void *h, size_t d, size_t n, void *s) { memcpy(h, (void *)d, n); run(100); return 0; }
int cuGetErrorString(int e, char **t) { *t = "no"; return 0; }
int cuEventCreate(void **e, unsigned f) { if (f) return 1; open_events++; *e = calloc(1, sizeof(float)); return 0; }
int cuEventRecord(void *e, void *s) { if (s != (void *)2) return 400; *(float *)e = now; return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { *ms = *(float *)b - *(float *)a; return 0; }
int cuEventDestroy_v2(void *e) { open_events--; free(e); return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "driver.so", folder / "driver.c"], check=True)
    library = ctypes.CDLL(str(folder / "driver.so"))
    library.run.argtypes = [ctypes.c_float]
    return library


class Engine:
    """A deserialised plan of `record`'s interface; it is its own context, and a run of it takes RUN milliseconds."""

    refittable, streamable_weights_size, num_optimization_profiles = False, 0, 1

    def __init__(self, record: NetworkRecord, driver: Any) -> None:
        self.specs = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        self.modes = {spec.name: spec in record.outputs for spec in self.specs.values()}
        self.num_io_tensors, self.driver = len(self.specs), driver

    def create_execution_context(self) -> Engine:
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.specs[name].dtype

    def get_tensor_mode(self, name: str) -> bool:
        return self.modes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(max(size, 1) for size in self.specs[name].shape) if self.modes[name] else self.specs[name].shape

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple[tuple[int, ...], ...]:
        rank = len(self.specs[name].shape)
        return (rank * (0,), rank * (1,), rank * (10**6,))

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.driver.run(RUN)
        return True


@pytest.fixture
def manifest(tiny_engines: Path) -> Manifest:
    return open_engines(tiny_engines, networks=[]).manifest


@pytest.fixture
def sessions(driver: Any, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, TensorRTSession]]:
    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    found: dict[str, TensorRTSession] = {}
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    for name, record in manifest.networks.items():
        engine = Engine(record, driver)
        trt = SimpleNamespace(
            ILogger=ILogger, TensorIOMode=SimpleNamespace(INPUT=False, OUTPUT=True), nptype=np.dtype,
            Runtime=lambda logger, engine=engine: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        )  # fmt: skip
        monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime, trt=trt: trt)
        found[name] = TensorRTSession(b"plan", name, "tensorrt")
    yield found
    for session in found.values():
        session.close()


@pytest.fixture
def bench(
    sessions: dict[str, TensorRTSession], manifest: Manifest, tiny_engines: Path, tiny_onnx: dict[str, Path]
) -> Bench:
    """A run whose one set is of TensorRT in FP16, built from the tiny preset's ONNX."""
    records = {
        name: dataclasses.replace(record, runtime="tensorrt", source_sha256=sha256(tiny_onnx[name]))
        for name, record in manifest.networks.items()
    }
    known = dataclasses.replace(manifest, target="sm89", precision="fp16", networks=records)
    engines = dataclasses.replace(open_engines(tiny_engines, networks=[]), manifest=known, sessions=sessions)
    return Bench(Settings(engines=tiny_engines, quick=True), Sets({"fp16-sm89": tiny_engines}, {"fp16-sm89": engines}))


def test_the_clock_leaves_copies_out(sessions: dict[str, TensorRTSession], driver: Any) -> None:
    session, given = sessions["denoiser"], random_inputs(TINY, "denoiser", Size.of(TINY), 0)
    plain = session._context
    clock = DeviceClock(session)
    assert driver.left_open() == 2
    clock.around(lambda: session.run(given))()
    assert clock._taken == [pytest.approx(RUN / 1e3, rel=1e-3)]
    clock.close()
    assert driver.left_open() == 0
    assert session._context is plain
    assert session.run(given).keys() == {spec.name for spec in session.outputs}


def test_engines_have_a_time_of_their_own_on_the_gpu(bench: Bench) -> None:
    for block in range(2):
        sections.engines(bench, block)
    for network in bench.main.sessions:
        whole, alone = (bench.timings[f"{kind}/{network}/fp16-sm89"] for kind in ("engine", "device"))
        assert alone.seconds == pytest.approx(2 * bench.settings.each_moment * [RUN / 1e3], rel=1e-3)
        assert [sample.block for sample in alone.samples] == [sample.block for sample in whole.samples]
        assert whole.seconds != alone.seconds


def test_networks_are_put_under_the_gpus_roof(
    bench: Bench, tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {name: dataclasses.replace(r, files=2 * r.files) for name, r in bench.main.manifest.networks.items()}
    assert all(
        record.is_stripped for record in records.values()
    )  # TensorRT's own profiler needs the GPU and is left out
    stripped = dataclasses.replace(bench.main, manifest=dataclasses.replace(bench.main.manifest, networks=records))
    bench = dataclasses.replace(bench, sets=Sets(bench.sets.folders, {"fp16-sm89": stripped}))
    sections.engines(bench, 0)

    sections.limits(bench)  # PyTorch here is the CPU's, or the GPU's for real
    if not torch.cuda.is_available():
        assert "PyTorch for CUDA" in bench.report["not_run"].pop("operations and limits")
        assert bench.report["limits"] == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    peaks = {"bf16_tflops": 100.0, "fp8_tflops": 200.0, "copy_gbps": 1000.0}
    monkeypatch.setattr(gpu_timing, "peaks", lambda: peaks)
    sections.limits(bench)

    found = bench.report["limits"]
    assert "profile a set built without --strip" in bench.report["not_run"].pop("profiles")
    assert bench.report["not_run"] == {}
    assert found["peaks"]["operations"] == 100e12
    assert "bf16 product" in found["peaks"]["how"]
    assert set(found["networks"]) == set(bench.main.sessions)
    for network, row in found["networks"].items():
        given = random_inputs(TINY, network, Size.of(TINY), 3)
        assert row["seconds"] == pytest.approx(RUN / 1e3, rel=1e-3)
        assert row["mfu"] == pytest.approx(row["operations"] / (RUN / 1e3) / 100e12, rel=1e-3)
        assert 0.4 < row["moved"] / count(tiny_onnx[network], given).moved < 0.8  # floats of 2 bytes, the rest as it is
    assert "by the GPU&#x27;s own time" in write_html(
        {**bench.to_dict(), "environment": {"processor": "x", "cores": 2}}
    )

    monkeypatch.setattr(paths, "ENGINES", Path("nowhere"))
    sections._roofs(bench, sections.measure_gpu_peaks("fp8"), sections._sources(bench))
    assert bench.report["limits"]["peaks"]["operations"] == 200e12
    assert bench.report["limits"]["networks"] == {}
    assert "in no store" in bench.report["not_run"]["limit of denoiser"]
