"""Triton's programs compiled ahead of time, for GPUs that need not be here: registers, spills, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from causalrn.model.operators import triton_passes
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.triton_kernels import Blocks, compile_constants

PASSES = ("sums", "step", "gradients of q", "gradients of k")
_MANY = 1000
_TENSORS = ("q", "k", "gradient", "out")
_NUMBERS = ("share", "eps")


@dataclass(frozen=True)
class Build:
    """What a program takes as it was assembled, and what its loop executes.

    Attributes:
        registers: per thread, 255 at most.
        spill_bytes: of a thread's stack, which holds nothing but values that registers had no room for.
        shared_bytes: per program.
        instructions: of a warp in the loop where no pair is masked, per 32 channels of a pair; of these, `special` are
            for the unit that computes 16 exponentials, roots or reciprocals per cycle, an eighth of the others' rate.
    """

    width: int
    capability: int
    rows: str
    queries: int
    keys: int
    warps: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: float | None
    special: float | None


def build(name: str, width: int, capability: int, dtype: str, function: PairFunction, *, counted: bool = True) -> Build:
    """Compile one of `PASSES` for rows of `width` channels and a capability such as 80; dtype as Triton spells it.

    Counting instructions takes as long as compiling.
    """
    blocks = Blocks.of(width, backward="gradients" in name)
    owned, met = blocks.sides(1 if name == "step" else _MANY)
    queries, keys = (met, owned) if name == "gradients of k" else (owned, met)
    program = triton_passes.walk_over_queries if name == "gradients of k" else triton_passes.walk_over_keys
    options = {**compile_constants(function, blocks), "QUERIES": queries, "KEYS": keys}
    if name != "gradients of k":
        options["BACKWARD"] = name == "gradients of q"
    constants = {key: value for key, value in options.items() if key.isupper()}
    signature = {key: _type_of(key, constants, dtype) for key in program.arg_names}
    divisible = {
        (place,): [["tt.divisibility", 16]] for place, key in enumerate(program.arg_names) if _divides(key, width)
    }
    compiled = triton.compile(
        ASTSource(program, signature, constants, divisible),
        GPUTarget("cuda", capability, 32),
        {key: value for key, value in options.items() if key not in constants},
    )
    binary, shared_bytes = compiled.asm["cubin"], compiled.metadata.shared
    usage = dict(re.findall(r"\b(REG|STACK):(\d+)", _dump(binary, "-res-usage")))
    sizes = (width, capability, name, queries, keys, blocks.warps, int(usage["REG"]), int(usage["STACK"]), shared_bytes)
    if not counted:
        return Build(*sizes, None, None)
    per_lane = queries * keys * width / (32 * blocks.warps)
    return Build(*sizes, *(round(count / per_lane, 2) for count in _loop(_dump(binary, "-sass"))))


def _type_of(key: str, constants: dict, dtype: str) -> str:
    if key in constants:
        return "constexpr"
    return f"*{dtype}" if key in _TENSORS else "fp32" if key in _NUMBERS else "i32"


def _divides(key: str, width: int) -> bool:
    """What a launch with contiguous tensors finds to be a multiple of 16: places in memory, strides, the width."""
    strides = key.endswith(("_batch", "_time", "_head", "_part")) or key == "width"
    return key in _TENSORS or (strides and width % 16 == 0)


def _dump(binary: bytes, *options: str) -> str:
    """What the tool that Triton brings says of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _loop(listing: str) -> tuple[int, int]:
    """Instructions of the shortest loop, and those among them for the special function unit."""
    lines = [(int(place, 16), text) for place, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    loops = []
    for place, text in lines:
        jump = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < place:
            body = [other for at, other in lines if int(jump[1], 16) <= at <= place]
            loops.append((len(body), sum("MUFU" in other for other in body)))
    return min(loop for loop in loops if loop[1])
