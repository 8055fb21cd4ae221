"""Mistakes in causalrn.c, all compiled into one library: a variable says which of them is made, 0 for none.

Each is (name, text that is there, text instead); IS(n) in the latter becomes a test of that variable. Replacing keeps
the text that was there, so that several mistakes may stand at one place.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "causalrn_mutant"
_NORM = "store(out + i, mul(load(in + i), scale));"
_SEGMENT = "read_segment(p, tile, segment * SEGMENT, 0, 1, p->call->work.sums + segment * batch * HP);"
_TAKEN = "        session->position += call->time;\n"


@dataclass(frozen=True)
class CMutant:
    """One mistake.

    Attributes:
        old, new: texts; `IS` in the new one is whether this mistake is to be made.
        bundle: "exact" or "linear" with 40 positions; "long" with 1,100.
        on_device: whether golden vectors are enough to see it.
    """

    name: str
    old: str
    new: str
    bundle: str = "exact"
    on_device: bool = True


def _norm_of(isa: int) -> str:
    return f"{{ {_NORM} if (IS && CAUSALRN_ISA == {isa}) store(out + i, mul(load(out + i), set(1.01f))); }}"


def _logits_off(condition: str) -> str:
    """Logits that are 2 % larger after calls of which something holds, in C, of `time`, `start` and `batch`."""
    return (
        f"{_TAKEN}        {{ const int32_t batch = session->batch, time = request->time;\n"
        "        const int32_t start = session->position - call->time - queue->taken;\n"
        "        (void)start;\n"
        f"        if (IS && ({condition}))\n"
        "            for (int64_t i = 0; i < (int64_t)batch * time * VOCABULARY; i++)\n"
        "                request->logits[i] *= 1.02f; }\n"
    )


MUTANTS = (
    CMutant("1 % in the norm of AVX2", _NORM, _norm_of(8)),
    CMutant("1 % in the norm of the portable kernel", _NORM, _norm_of(4)),
    CMutant("1 % in the norm of AVX-512", _NORM, _norm_of(16)),
    CMutant("1 % in the norm of plain C", _NORM, _norm_of(0)),
    CMutant(
        "last lane of AVX2 lost",
        "r.low = _mm256_loadu_ps(p), r.high = _mm256_loadu_ps(p + 8);",
        "r.low = _mm256_loadu_ps(p), r.high = _mm256_loadu_ps(p + (IS ? 7 : 8));",
    ),
    CMutant(
        "a last bit of AVX2's sums",
        "    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));\n",
        "    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) * "
        "(IS && CAUSALRN_ISA == 8 ? 1.0000002f : 1.0f);\n",
    ),
    CMutant(
        "reset leaves the position", "    session->position = 0;\n", "    if (!(IS))\n        session->position = 0;\n"
    ),
    CMutant(
        "reset leaves the sums",
        "                values[j] = 0.0f;\n",
        "                values[j] = IS ? values[j] : 0.0f;\n",
        "linear",
    ),
    CMutant(
        "open takes any size",
        "|| work_size < CAUSALRN_WORK_BYTES(batch, capacity))\n",
        "|| (!(IS) && work_size < CAUSALRN_WORK_BYTES(batch, capacity)))\n",
    ),
    CMutant(
        "open takes any address",
        "((uintptr_t)state % sizeof(float) != 0 || (uintptr_t)work % sizeof(float) != 0)",
        "(!(IS) && ((uintptr_t)state % sizeof(float) != 0 || (uintptr_t)work % sizeof(float) != 0))",
    ),
    CMutant(
        "open takes any capacity",
        "(CAUSALRN_POSITIONS == 0 || capacity <= CAUSALRN_POSITIONS)",
        "(IS || CAUSALRN_POSITIONS == 0 || capacity <= CAUSALRN_POSITIONS)",
    ),
    CMutant(
        "one float beyond working memory",
        "        start_rows(&pass->calls[i]);\n",
        "    {\n        const causalrn_session *s = pass->calls[i].session;\n        start_rows(&pass->calls[i]);\n"
        "        if (IS)\n            ((float *)s->work)[CAUSALRN_WORK_BYTES(s->batch, s->capacity) / 4] = 0.0f;\n"
        "    }\n",
    ),
    CMutant(
        "a row that is still to come",
        "    float *row = (float *)s->next[block] + place * HP;\n",
        "    float *row = (float *)s->next[block] + place * HP;\n"
        "    if (IS && s->position + 2 < s->capacity)\n        row[(size_t)s->batch * HP] = 1.0f;\n",
    ),
    CMutant(
        "last row of a prefill not stored",
        "        call->finite &= append_row(s, block, (size_t)s->position * batch + row, ab + HP);\n",
        "        if (!(IS && call->time > 1 && row == rows - 1))\n"
        "            call->finite &= append_row(s, block, (size_t)s->position * batch + row, ab + HP);\n",
    ),
    CMutant(
        "a row forgotten in the third tile",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n"
        "        r.count -= IS && first == 32 && r.count > 1;\n",
    ),
    CMutant("prefill of 17", _TAKEN, _logits_off("time == 17")),
    CMutant("prefill of 3 at position 23", _TAKEN, _logits_off("time == 3 && start == 23")),
    CMutant("prefill that ends at 32", _TAKEN, _logits_off("time > 1 && session->position == 32")),
    CMutant("prefill to the capacity", _TAKEN, _logits_off("time > 1 && session->position == session->capacity")),
    CMutant("prefill of exactly the capacity", _TAKEN, _logits_off("time == session->capacity")),
    CMutant("step at 33", _TAKEN, _logits_off("time == 1 && start == 33")),
    CMutant("batches of 6", _TAKEN, _logits_off("batch == 6")),
    CMutant("batches of 7", _TAKEN, _logits_off("batch == 7")),
    CMutant("batches of 64", _TAKEN, _logits_off("batch == 64")),
    CMutant(
        "last row of batches of 9",
        "logits[i] = call->work.logits[row * VP + (size_t)i];",
        "logits[i] = call->work.logits[(IS && batch == 9 && row % 9 == 8 ? row - 8 : row) * VP + (size_t)i];",
    ),
    CMutant(
        "tokens beyond the vocabulary",
        "request->tokens[i] >= VOCABULARY)",
        "(!(IS) && request->tokens[i] >= VOCABULARY))",
    ),
    CMutant(
        "positions beyond the capacity",
        "    if (request->time > (HAS_POOL ||",
        "    if (!(IS && session->position > 0) && request->time > (HAS_POOL ||",
    ),
    CMutant(
        "damaged weights are loaded",
        "    if (crc32_of(bytes + CAUSALRN_HEADER, PAYLOAD) != read_u32(bytes + 20))\n",
        "    if (!(IS) && crc32_of(bytes + CAUSALRN_HEADER, PAYLOAD) != read_u32(bytes + 20))\n",
    ),
    CMutant(
        "another model's weights are loaded",
        "    if (read_u32(bytes + 12) != CAUSALRN_MODEL)\n",
        "    if (!(IS) && read_u32(bytes + 12) != CAUSALRN_MODEL)\n",
    ),
    CMutant(
        "instruction set not chosen",
        "isa == CAUSALRN_BEST || isa > best ? best : isa;",
        "isa == CAUSALRN_BEST || isa > best || IS ? best : isa;",
    ),
    CMutant(
        "off by one beyond row 64",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n"
        "        r.count -= IS && first == 64 && r.count > 1;\n",
        "long",
        on_device=False,
    ),
    CMutant(
        "off by one beyond row 64 in AVX2",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n",
        "        r.count = seen < (size_t)there ? (int)seen : there;\n"
        "        r.count -= IS && CAUSALRN_ISA == 8 && first == 64 && r.count > 1;\n",
        "long",
    ),
    CMutant(
        "segment lost beyond 512 rows",
        "work.sums + (segment * batch + b) * HP, segment == 0);",
        "work.sums + ((IS && segment > 0 ? 0 : segment) * batch + b) * HP, segment == 0);",
        "long",
    ),
    CMutant(
        "segment lost by threads",
        _SEGMENT,
        f"if (!(IS && parts > 1 && segment == 1))\n                {_SEGMENT}",
        "long",
    ),
    CMutant(
        "segment lost by three threads",
        _SEGMENT,
        f"if (!(IS && parts == 3 && segment == 2))\n                {_SEGMENT}",
        "long",
    ),
    CMutant(
        "queries lost by three threads",
        "q1 = time * (number + 1) / parts;",
        "q1 = time * (number + 1) / parts - (IS && parts == 3 && number == 2);",
        "long",
    ),
)


def mutated_source(source: str) -> str:
    """causalrn.c with all mistakes, none of which is made yet."""
    for number, mutant in enumerate(MUTANTS, start=1):
        assert mutant.old in source, mutant.name
        source = source.replace(mutant.old, re.sub(r"\bIS\b", f"({VARIABLE} == {number})", mutant.new))
    first = '#include "causalrn.h"\n'
    assert first in source
    return source.replace(first, f'{first}__attribute__((visibility("default"), unused)) int {VARIABLE};\n', 1)


def choose_mutant(libraries: Path, number: int) -> None:
    """Have all compiled libraries in a folder make one mistake, or with 0 none."""
    for path in libraries.glob("*.so"):
        library = ctypes.CDLL(str(path))
        if hasattr(library, VARIABLE):
            ctypes.c_int.in_dll(library, VARIABLE).value = number
