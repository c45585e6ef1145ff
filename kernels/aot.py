"""Compiling kernels ahead of time, without a GPU, and reading what the compiler made of them.

`compile_kernel` gives PTX and a cubin; `inspect` reads registers, stack, shared memory and the instruction mix of the
inner loop from the machine code, with the tools inside the triton wheel; `plugin_ptx` drops the scratch pointers that
Triton appends, so that the entry takes exactly what TensorRT passes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MMA = {"HMMA", "HGMMA", "QGMMA", "QMMA", "IMMA"}
# The oldest that will do, so that older drivers and TensorRT read it.
_PTX_VERSION = {80: 84, 86: 84, 87: 84, 89: 84, 90: 84, 120: 87, 121: 88}
_PTX_VERSION_TMA = 86


@dataclass(frozen=True)
class Source:
    """A kernel with the types of its arguments, its constants and how it is launched.

    `types` maps run-time arguments to Triton's names ("*bf16", "i32"); `divisible` are those known to be multiples of
    16 besides the pointers.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What came out. `scratch` is the global scratch in bytes, which TensorRT cannot give (it must be 0)."""

    name: str
    arch: int
    ptx: str
    cubin: bytes
    shared: int
    scratch: int
    num_warps: int
    arguments: int

    @cached_property
    def resources(self) -> tuple[int, int]:
        """(registers a thread, stack bytes a thread); a stack is where spills go."""
        text = _run_on("cuobjdump", ["-res-usage"], self.cubin)
        found = re.search(r"REG:(\d+) STACK:(\d+)", text)
        if found is None:
            raise RuntimeError(f"cuobjdump gave no resource usage for {self.name}: {text[:200]}")
        return int(found[1]), int(found[2])

    @cached_property
    def instructions(self) -> list[tuple[int, str]]:
        """(address, instruction) in order, predicates removed."""
        text = _run_on("cuobjdump", ["-sass"], self.cubin)
        found = re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+\s+)?([^;]+);", text, re.M)
        return [(int(address, 16), instruction.strip()) for address, instruction in found]

    @cached_property
    def mix(self) -> Counter[str]:
        """Opcodes of the whole kernel, counted."""
        return _mix(instruction for _, instruction in self.instructions)

    @cached_property
    def loops(self) -> list[Counter[str]]:
        """Opcode counts of each innermost loop that multiplies matrices."""
        spans = []
        for address, instruction in self.instructions:
            target = re.search(r"^BRA\b.*?0x([0-9a-f]+)", instruction)
            if target and int(target[1], 16) < address:
                spans.append((int(target[1], 16), address))
        innermost = [
            (low, high)
            for low, high in spans
            if not any((a, b) != (low, high) and low <= a and b <= high for a, b in spans)
        ]
        mixes = [_mix(i for at, i in self.instructions if low <= at <= high) for low, high in innermost]
        return [mix for mix in mixes if MMA & set(mix)]

    @property
    def main_loop(self) -> Counter[str]:
        """The loop with the fewest instructions for each matrix instruction: the unmasked one."""
        return min(self.loops, key=lambda mix: mix.total() / sum(mix[name] for name in MMA))


def _mix(instructions: Any) -> Counter[str]:
    return Counter(re.split(r"[.\s]", instruction)[0] for instruction in instructions)


def _run_on(tool: str, arguments: list[str], data: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(data)
        file.flush()
        command = [str(TOOLS / tool), *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_kernel(source: Source, arch: int) -> Compiled:
    """Compile for compute capability `arch` (90 for 9.0); takes seconds, needs no GPU.

    The PTX loads on this architecture and, up to sm_89, on later ones: never on an earlier one, and from sm_90 on no
    other. So `arch` is the GPU's own, not that of the tile table it shares.
    """
    names = source.kernel.arg_names
    signature = {name: source.types.get(name, "constexpr") for name in names}
    missing = [name for name in names if name not in source.types and name not in source.constants]
    if missing:
        raise ValueError(f"Arguments {missing} of {source.kernel.__name__} have neither a type nor a value.")
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in source.divisible]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    described = any(kind.startswith("tensordesc") for kind in source.types.values())
    options = {
        "num_warps": source.num_warps,
        "num_stages": source.num_stages,
        "enable_fp_fusion": True,
        "ptx_version": max(_PTX_VERSION[arch], _PTX_VERSION_TMA if described else 0),
    }
    language = GluonASTSource if source.kernel.is_gluon() else ASTSource
    kernel = triton.compile(
        language(source.kernel, signature, dict(source.constants), attributes),
        target=GPUTarget("cuda", arch, 32),
        options=options,
    )
    metadata = kernel.metadata
    return Compiled(
        name=metadata.name,
        arch=arch,
        ptx=kernel.asm["ptx"],
        cubin=kernel.asm["cubin"],
        shared=metadata.shared,
        scratch=metadata.global_scratch_size + getattr(metadata, "profile_scratch_size", 0),
        num_warps=metadata.num_warps,
        arguments=len(source.types),
    )


def plugin_ptx(compiled: Compiled) -> str:
    """PTX whose entry takes only the kernel's own arguments.

    Raises ValueError where the kernel uses the scratch memory behind the parameters dropped: TensorRT has none to give.
    """
    entry = re.search(r"\.visible \.entry \w+\((.*?)\)", compiled.ptx, re.S)
    if entry is None:
        raise ValueError(f"No entry in the PTX of {compiled.name}.")
    parameters = [line.strip().rstrip(",") for line in entry[1].strip().splitlines()]
    kept, dropped = parameters[: compiled.arguments], parameters[compiled.arguments :]
    rest = compiled.ptx[entry.end(1) :]
    for parameter in dropped:
        if re.search(rf"\b{re.escape(parameter.split()[-1])}\b", rest):
            raise ValueError(f"{compiled.name} uses its scratch parameter; TensorRT cannot run it.")
    return compiled.ptx[: entry.start(1)] + "\n\t" + ",\n\t".join(kept) + "\n" + rest


def assemble(ptx: str, arch: int) -> bytes:
    """Assemble PTX with the ptxas of the triton wheel; raises CalledProcessError with its message if it will not."""
    target = re.search(r"\.target (sm_\w+)", ptx)
    tool = "ptxas-blackwell" if arch >= 100 and (TOOLS / "ptxas-blackwell").exists() else "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        name = target[1] if target else f"sm_{arch}"
        subprocess.run([str(TOOLS / tool), f"-arch={name}", "-o", str(result), str(source)], check=True, text=True)
        return result.read_bytes()
