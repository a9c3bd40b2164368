"""What Triton makes of the package's kernels for GPUs that need not be there: registers, and what does not fit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

CAPABILITIES = (80, 90)


class Compiled(NamedTuple):
    """A kernel for a compute capability: registers of a thread, and bytes of the stack that they spill to."""

    kernel: str
    capability: int
    registers: int
    stack: int


def build(kernel: Any, types: str | dict[str, str], *, warps: int, stages: int = 3, **constants: object) -> None:
    """Print a line for each of :data:`CAPABILITIES`; within what :func:`compiled` runs.

    ``types`` are those of the arguments that are not constants: in order, or by name, float32 tables if not named.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    names = [name for name in kernel.arg_names if name not in constants]
    given = dict(zip(names, types.split(), strict=True)) if isinstance(types, str) else types
    signature = {name: given.get(name, "*fp32") for name in names} | dict.fromkeys(constants, "constexpr")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for capability in CAPABILITIES:
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        options = {"num_warps": warps, "num_stages": stages}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"])
            file.flush()
            told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", told)[-1]
        print("compiled", kernel.__name__, capability, registers, stack)


def compiled(code: str, cache: Path) -> list[Compiled]:
    """What a program that calls :func:`build` compiles, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), str(here), environment.get("PYTHONPATH", "")]
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    program = [sys.executable, "-c", f"from gpu_code import build\n{code}"]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    lines = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("compiled ")]
    return [Compiled(kernel, *map(int, numbers)) for kernel, *numbers in lines]
