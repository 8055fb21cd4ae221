"""What transformers_survey.py measures of one architecture: each check gives a number, or the first line of the error.

    python benchmarks/transformers_checks.py ARCHITECTURE

It prints JSON.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' tiny models

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from causalrn.adapters.cache_layers import GROWING_AXES
from causalrn.adapters.kept_float64 import NARROW
from causalrn.adapters.transformers import recurrent
from causalrn.model.own.forms import RecurrentForms
from tests.adapters.form_runs import (
    SPLITS,
    compare_chunks,
    compare_padded,
    difference,
    find_first_difference,
    run_chunks,
    sample_tokens,
)
from tests.adapters.tiny_models import VOCABULARY, build_model

BATCH, ONNX_STEPS = 2, 12


def cell(check: Callable[[], Any]) -> Any:
    """What a check gives, or the first line of its error's cause."""
    try:
        return check()
    except Exception as raised:  # whatever a library raises is a result here
        error: BaseException = raised
        while error.__cause__ is not None:
            error = error.__cause__
        return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:160]}"


def tokens_of(batch: int = BATCH) -> torch.Tensor:
    return sample_tokens(VOCABULARY, batch)


class Casts(TorchDispatchMode):
    """Counts operations that make a narrower dtype of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.dtype == torch.float64 for tensor in inputs):
            for leaf in tree_leaves(output):
                if isinstance(leaf, torch.Tensor) and leaf.dtype in NARROW:
                    name = f"{func} -> {str(leaf.dtype).removeprefix('torch.')}"
                    self.counts[name] = self.counts.get(name, 0) + 1
        return output


def count_casts(plain: RecurrentForms) -> dict[str, int]:
    with Casts() as casts:
        plain.parallel(tokens_of())
    return casts.counts


class FlatStep(torch.nn.Module):
    """A step whose state is a flat list of tensors, as graphs have it."""

    def __init__(self, forms: Any, spec: Any) -> None:
        super().__init__()
        self.forms, self.spec = forms, spec

    def forward(self, tokens, position, *leaves):
        logits, state = self.forms(tokens, tree_unflatten(list(leaves), self.spec), position)
        return (logits, *tree_leaves(state))


def growing_axes(state: Any) -> list[int | None]:
    """Of every tensor, the axis of rows."""
    return [GROWING_AXES.get(name) for layer in state["layers"] for name in layer]


def export_step(architecture: str, folder: Path) -> float:
    """The largest difference of an exported step in onnxruntime, over steps from a fresh state; batch 3, then 1."""
    import onnxruntime

    forms = recurrent(build_model(architecture))
    *_, (_, traced) = run_chunks(forms, tokens_of()[:, :3], [1, 1, 1])
    leaves, spec = tree_flatten(traced)
    free = torch.export.Dim.DYNAMIC
    dynamic = [{0: free} | ({axis: free} if axis else {}) for axis in growing_axes(traced)]
    program = torch.onnx.export(
        FlatStep(forms.step.__self__, spec),
        (tokens_of()[:, 3], torch.tensor(3), *leaves),
        dynamo=True,
        dynamic_shapes=({0: free}, None, tuple(dynamic)),
        input_names=["tokens", "position", *(f"past.{index}" for index in range(len(leaves)))],
        external_data=False,
        verbose=False,
    )
    program.save(str(folder / "step.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "step.onnx"), providers=["CPUExecutionProvider"])
    return max(_run_graph(session, forms, batch) for batch in (3, 1))


def _run_graph(session: Any, forms: RecurrentForms, batch: int) -> float:
    state, worst = forms.initial_state(batch), 0.0
    arrays = [tensor.numpy() for tensor in tree_leaves(state)]
    names = {value.name for value in session.get_inputs()}
    for position in range(ONNX_STEPS):
        tokens = tokens_of(batch)[:, position]
        feeds = {"tokens": tokens.numpy(), "position": np.array(position)}
        feeds |= {f"past.{index}": array for index, array in enumerate(arrays)}
        logits, *arrays = session.run(None, {name: array for name, array in feeds.items() if name in names})
        expected, state = forms.step_once(tokens, state, torch.tensor(position))
        worst = max(worst, difference(torch.from_numpy(logits), expected))
    return worst


def padded_rows(model: Any, steps: bool) -> float:
    return compare_padded(recurrent(model, padding=True), tokens_of(), steps=steps)


def survey(architecture: str) -> dict[str, Any]:
    """All checks of one architecture."""
    single = build_model(architecture)
    double = copy.deepcopy(single).double()
    forms = {
        "float32": recurrent(single),
        "float64": recurrent(double),
        "float64, as it is": recurrent(double, keep_float64=False),
    }
    rows: dict[str, Any] = {name: {} for name in forms}
    for name, own in forms.items():
        for check, sizes in SPLITS.items():
            rows[name][check] = cell(partial(compare_chunks, own, tokens_of(), sizes))
    for name, model in (("float32", single), ("float64", double)):
        for check, steps in (("padded", False), ("padded_then_steps", True)):
            rows[name][check] = cell(partial(padded_rows, model, steps))
    exact, plain = forms["float64"], forms["float64, as it is"]
    rows["first_difference"] = {
        check: cell(partial(find_first_difference, exact, tokens_of(), sizes)) for check, sizes in SPLITS.items()
    }
    rows["state"] = sorted({name for layer in exact.initial_state(1)["layers"] for name in layer})
    rows["casts"] = cell(lambda: count_casts(plain))
    rows["cast_error"] = cell(lambda: difference(plain.parallel(tokens_of()), exact.parallel(tokens_of())))
    with tempfile.TemporaryDirectory() as folder:
        rows["onnx"] = cell(lambda: export_step(architecture, Path(folder)))
    return rows


def main() -> None:
    """Print what was measured."""
    warnings.simplefilter("ignore")  # that fast kernels are missing, and what tracing finds
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps(survey(sys.argv[1])))


if __name__ == "__main__":
    main()
