"""Runs of a model's recurrent form in chunks, compared with its parallel form: for tests, and for the survey."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from causalrn.model.own.forms import RecurrentForms

LENGTH, HALF, PADDED = 24, 12, 5
SPLITS = {
    "step": [1] * LENGTH,
    "prefill_then_steps": [HALF, *[1] * HALF],
    "chunked_prefill": [HALF, LENGTH - HALF],
}
VISIBLE = 1e-7
"""A relative difference in float64 that is no rounding."""


def sample_tokens(vocabulary: int, batch: int) -> Tensor:
    """Int64 [batch, LENGTH], always the same; without the ids that models take for padding, begin and end."""
    return torch.randint(3, vocabulary, (batch, LENGTH), generator=torch.Generator().manual_seed(1))


def difference(output: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest |expected| unless all is zero; NaN where there is one."""
    largest = float(expected.double().abs().max())
    return float((output.double() - expected.double()).abs().max()) / (largest or 1.0)


def run_chunks(forms: RecurrentForms, tokens: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Any]]:
    """Logits [B, T, V] and state after every chunk; a chunk of one token is a step."""
    state, start = forms.initial_state(len(tokens)), 0
    for size in sizes:
        chunk, position = tokens[:, start : start + size], torch.tensor(start)
        if size == 1:
            logits, state = forms.step_once(chunk[:, 0], state, position)
            logits = logits[:, None]
        else:
            logits, state = forms.prefill_once(chunk, state, position)
        start += size
        yield logits, state


def compare_chunks(forms: RecurrentForms, tokens: Tensor, sizes: Sequence[int]) -> float:
    """How far the logits of chunks are from the parallel form's."""
    output = torch.cat([logits for logits, _ in run_chunks(forms, tokens, sizes)], dim=1)
    return difference(output, forms.parallel(tokens))


def compare_padded(forms: RecurrentForms, tokens: Tensor, *, steps: bool) -> float:
    """A batch whose last row is padded on the left, against this row alone in parallel form."""
    mask = torch.ones_like(tokens)
    mask[-1, :PADDED] = 0
    expected = forms.parallel(tokens[-1:, PADDED:])
    if not steps:
        return difference(forms.parallel(tokens, mask)[-1:, PADDED:], expected)
    state = forms.initial_state(len(tokens))
    logits, state = forms.prefill_once(tokens[:, :HALF], state, torch.tensor(0), mask[:, :HALF])
    outputs = [logits]
    for position in range(HALF, LENGTH):
        logits, state = forms.step_once(tokens[:, position], state, torch.tensor(position))
        outputs.append(logits[:, None])
    return difference(torch.cat(outputs, dim=1)[-1:, PADDED:], expected)


def find_first_difference(forms: RecurrentForms, tokens: Tensor, sizes: Sequence[int]) -> str:
    """Where logits, and where the state, begin to differ from one prefill of the same tokens; "" where they do not."""
    found: list[str] = []
    start = 0
    expected = forms.parallel(tokens)
    for logits, state in run_chunks(forms, tokens, sizes):
        apart = (logits - expected[:, start : start + logits.shape[1]]).abs().amax(dim=(0, 2)) / expected.abs().max()
        if bool((apart > VISIBLE).any()) and not found:
            found.append(f"logits at position {start + int((apart > VISIBLE).nonzero()[0])}")
        start += logits.shape[1]
        if start > 1:
            ((_, whole),) = run_chunks(forms, tokens[:, :start], [start])
            if name := _first_tensor(state, whole):
                return ", ".join([*found, f"{name} after {start} tokens"])
    return ", ".join(found)


def _first_tensor(state: Any, expected: Any) -> str:
    for index, layer in enumerate(expected["layers"]):
        for name, tensor in layer.items():
            if tensor.numel() and not difference(state["layers"][index][name], tensor) <= VISIBLE:
                return f"{name} of layer {index}"
    return ""
