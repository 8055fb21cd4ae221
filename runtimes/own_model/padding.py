"""The level `padding`: rows with padding on their left, and a mask that says so, against the rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from causalrn.model.own.copying import modules_of
from causalrn.model.own.forms import RecurrentForms, mask_name
from causalrn.runtimes.own_model.function_levels import MOST_STEPS, by_steps
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.parting import Parting, compare_calls
from causalrn.runtimes.own_model.recording import recorded
from causalrn.runtimes.own_model.sessions import numbers
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.snapshot import FloatArray, IntArray


def check_padding(forms: RecurrentForms, oracle: OwnOracle, case: Case) -> list[LevelResult]:
    """Check what takes a mask.

    Args:
        oracle: copies in float64, in which the first module is looked for that tells rows with padding apart.
    """
    takes_mask = {"parallel": mask_name(forms.parallel), "prefill": mask_name(forms.prefill)}
    return [_check(form, forms, oracle, case) for form, name in takes_mask.items() if name]


@dataclass(frozen=True)
class _Padded:
    """Rows of tokens [B, T] behind different numbers of others, which a mask takes out: int64 [B, T + 1]."""

    alone: IntArray
    tokens: IntArray
    mask: IntArray
    pads: tuple[int, ...]

    @classmethod
    def of(cls, alone: IntArray) -> _Padded:
        count, width = len(alone), alone.shape[1] + 1
        pads = tuple(min(1 + 2 * row, width - 1) for row in range(count))
        tokens, mask = np.zeros((count, width), np.int64), np.zeros((count, width), np.int64)
        for row, pad in enumerate(pads):
            tokens[row, :pad], tokens[row, pad:] = alone[row, -1], alone[row, : width - pad]
            mask[row, pad:] = 1
        return cls(alone, tokens, mask, pads)

    def errors(self, padded: FloatArray, alone: FloatArray) -> FloatArray:
        """The largest difference at each position of the rows alone, [T]."""
        errors = np.zeros(alone.shape[1])
        for row, pad in enumerate(self.pads):
            found = np.abs(padded[row, pad:] - alone[row, : padded.shape[1] - pad]).max(-1)
            errors[: len(found)] = np.maximum(errors[: len(found)], found)
        return errors

    def pairs(self, padded: Tensor, alone: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What belongs to tokens that are there, in both runs."""
        width, count = self.tokens.shape[1], len(self.pads)
        if padded.ndim != alone.ndim or len(padded) != count or len(alone) != count:
            return []
        found = []
        for axis in range(1, padded.ndim):
            if (padded.shape[axis], alone.shape[axis]) != (width, width - 1):
                continue
            one, two = padded.movedim(axis, 1), alone.movedim(axis, 1)
            if one.shape[2:] == two.shape[2:]:
                there = [one[row, pad:].flatten() for row, pad in enumerate(self.pads)]
                others = [two[row, : width - pad].flatten() for row, pad in enumerate(self.pads)]
                found.append((torch.cat(there), torch.cat(others)))
        return found


def _run(form: str, forms: RecurrentForms, tokens: IntArray, mask: IntArray | None) -> FloatArray:
    given = torch.from_numpy(tokens), None if mask is None else torch.from_numpy(mask)
    with torch.inference_mode():
        if form == "parallel":
            return numbers(forms.whole(*given))
        return numbers(forms.prefill_once(given[0], forms.initial(len(tokens)), torch.tensor(0), given[1])[0])


def _check(form: str, forms: RecurrentForms, oracle: OwnOracle, case: Case) -> LevelResult:
    rows = _Padded.of(case.reference.tokens[:, :MOST_STEPS])
    padded = _run(form, forms, rows.tokens, rows.mask)
    errors = rows.errors(padded, case.reference.logits[:, : rows.alone.shape[1]])
    words = f"{len(rows.pads)} rows with padding on their left"
    result = by_steps("padding", form, errors, case, words)
    if result.passed:
        return result
    if np.array_equal(padded, _run(form, forms, rows.tokens, np.ones_like(rows.mask))):
        words = f"{words}, whose mask {form} ignores"
    parting = _parting(form, oracle, rows)
    if not parting.module:
        return replace(result, summary=words)
    return replace(result, summary=f"{words}: {parting.describe()}", tensor=parting.module)


def _parting(form: str, oracle: OwnOracle, rows: _Padded) -> Parting:
    """The first module that gives something else for tokens behind padding."""
    modules = modules_of(oracle.forms)
    with recorded(modules) as padded:
        _run(form, oracle.forms, rows.tokens, rows.mask)
    with recorded(modules) as alone:
        _run(form, oracle.forms, rows.alone, None)
    return compare_calls(oracle, 0, padded, alone, rows.pairs)
