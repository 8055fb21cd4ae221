"""What tests build again and again: random models that use their history, golden cases, driving a cell by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causalrn.model.cell import RecurrentCell
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.official import build_official, rename_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.training.tasks import IGNORE, CopyTask

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"

ABLATIONS = {
    f"ablation_{code}_{activation}_post-{post}": {
        "readout": readout,
        "activation": activation,
        "post_norm": post == "yes",
        "head_scale": "none",
    }
    for code, readout in (("exact", "exact"), ("approx", "linear"), ("no", "plain"))
    for activation in ("exp", "relu")
    for post in ("yes", "no")
}
GOLDEN_CASES: dict[str, dict[str, Any]] = {
    "exact": {"readout": "exact"},
    "exact_wide_hidden": {"readout": "exact"},
    "exact_heads2": {"readout": "exact", "heads": 2},
    "exact_rms": {"readout": "exact", "norm": "rms"},
    "linear": {"readout": "linear"},
    "transformer": {},
    "linear_transformer": {},
    **ABLATIONS,
}
EPS_CASES: dict[str, dict[str, Any]] = {
    "eps_exact": {"readout": "exact", "norm_eps": 1e-5},
    "eps_exact_heads2": {"readout": "exact", "heads": 2, "norm_eps": 1e-2},
    "eps_exact_rms": {"readout": "exact", "norm": "rms", "norm_eps": 1e-2},
    "eps_linear": {"readout": "linear", "norm_eps": 1e-2},
    "eps_transformer": {"heads": 2, "norm_eps": 1e-2},
    "eps_ablation_exact": {"readout": "exact", "head_scale": "none", "norm_eps": 1e-2},
    "eps_ablation_exact_post-no": {"readout": "exact", "post_norm": False, "norm_eps": 1e-2},
    "eps_ablation_approx": {"readout": "linear", "head_scale": "none", "norm_eps": 1e-2},
    "eps_ablation_no": {"readout": "plain", "norm_eps": 1e-2},
}
"""A norm with an eps, as `normalization_eps` of the official code."""


def official_state(name: str) -> dict[str, torch.Tensor]:
    """A golden model's state dict under its official keys."""
    data = np.load(GOLDEN / f"{name}.npz")
    return {key.partition(":")[2]: torch.from_numpy(data[key]) for key in data.files if ":" in key}


def official_keys(model: SequenceModel) -> dict[str, torch.Tensor]:
    """A model's weights as the paper's training script would save them."""
    names = (("blocks.", "block_all."), ("wte.", "pre_block.wte."), ("wpe.", "pre_block.wpe."))
    state = {name.replace("head.", "post_block.fc_cls."): value.clone() for name, value in model.state_dict().items()}
    for ours, theirs in names:
        state = {theirs + name.removeprefix(ours) if name.startswith(ours) else name: state[name] for name in state}
    return state


def trained_to_copy(config: ModelConfig, length: int, *, enough: float, most: int = 800) -> SequenceModel:
    """A model that copies better than chance, after a second or so: trained until its loss is small enough."""
    torch.manual_seed(0)
    model, task = SequenceModel(config), CopyTask(length)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(most):
        examples = task.draw("train", 64, 0, step)
        logits, targets = model(torch.from_numpy(examples.inputs)), torch.from_numpy(examples.targets)
        loss = torch.nn.functional.cross_entropy(logits.mT, targets, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss < enough:
            return model.eval()
    raise AssertionError(f"a loss of {loss:.3f} after {most} steps: no model to test with")


def golden_case(name: str) -> tuple[SequenceModel, torch.Tensor, torch.Tensor]:
    """A golden model, its tokens [B, T] and its float64 logits."""
    data = np.load(GOLDEN / f"{name}.npz")
    model = build_official(rename_official(official_state(name), name), **(GOLDEN_CASES | EPS_CASES)[name])
    return model, torch.from_numpy(data["tokens"]), torch.from_numpy(data["logits_fp64"])


class OnDemand(dict[str, Any]):
    """By name what a function makes of it, which is called when the name is first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Any:
        """Make it."""
        return self.setdefault(name, self._make(name))


def random_model(seed: int = 0, **options: Any) -> SequenceModel:
    """Unit-gain weights and non-zero biases: with the official initialisation deleting all history barely shows."""
    sizes = {"vocabulary": 29, "embedding": 32, "hidden": 32, "blocks": 2, "capacity": 40}
    kind = TransformerConfig if "attention" in options else CausalRNConfig
    config = kind(**{**sizes, **options})
    model = SequenceModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3
            parameter.normal_(0, std, generator=generator)
    return model.eval()


def overflowing_model(**options: Any) -> SequenceModel:
    """Token 28 gives NaN or infinity; no other one does."""
    model = random_model(readout="plain", post_norm=False, **options)
    with torch.no_grad():
        model.wte.weight[28, 3] = 100.0  # nearly all of LN0's sqrt(E) in one channel, which
        model.blocks[0].fc_1.weight[0, 3] = 12.0  # exp then drives beyond the root of float32's range
    return model


def model_beyond_float16(**options: Any) -> SequenceModel:
    """Token 28 gives rows of -110,000; no other one is above 10,000."""
    model = random_model(**options)
    with torch.no_grad():
        model.wte.weight[:, 3] = model.wpe.weight[:, 3] = 0.0
        model.wte.weight[28, 3] = 100.0  # nearly all of LN0's sqrt(E) in one channel
        model.blocks[0].fc_2.weight[0, 3] = -2e4
    return model


RECITED = "né€😀".encode() + b"\xc3(\xe2\x82\xff" + "a€".encode() + b"\xf0\x9f\x98"
"""Characters of one to four bytes, two that break off inside, a byte that is none, and one that never ends."""


def reciting_model() -> SequenceModel:
    """A model of bytes that says RECITED, whatever it is given: at position p its p-th byte."""
    sizes = {"vocabulary": 256, "embedding": 64, "hidden": 32, "blocks": 1, "capacity": 60}
    model = SequenceModel(CausalRNConfig(readout="linear", **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for position, byte in enumerate(RECITED):
            model.wpe.weight[position, position] = 1.0
            model.head.weight[byte, position] = 1.0
        for position in range(len(RECITED), 60):
            model.wpe.weight[position, 63] = 1.0
    return model.eval()


def random_tokens(config: ModelConfig, batch: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(config.vocabulary, (batch, time), generator=torch.Generator().manual_seed(seed))


def run_cell(cell: RecurrentCell, tokens: torch.Tensor, splits: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Drive a cell by hand through chunks of the given lengths: logits [B, T, V], and the final state.

    Independent of the sessions' buffers: growing pools are concatenated, a step's zero row appended.
    """
    spec, batch, position = cell.spec, tokens.shape[0], 0
    sizes = {"t": 0, "B": batch}
    shapes = [[sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape] for tensor in spec.tensors]
    state = [torch.zeros(shape, dtype=cell.dtype) for shape in shapes]
    logits = []
    for length in splits:
        given = state
        if length == 1 and spec.pool == "growing":
            given = [torch.cat([pool, pool.new_zeros(1, *pool.shape[1:])]) for pool in state]
        with torch.no_grad():
            out, *new = cell(tokens[:, position : position + length], torch.tensor(position), *given)
        logits.append(out)
        for index, (tensor, value) in enumerate(zip(spec.tensors, new, strict=True)):
            if tensor.update == "replace":
                state[index] = value
            elif spec.pool == "fixed":
                state[index] = state[index].clone()
                state[index][position : position + length] = value
            else:
                state[index] = torch.cat([state[index], value])
        position += length
    return torch.cat(logits, 1), state


def relative_error(value: torch.Tensor | np.ndarray[Any, Any], expected: torch.Tensor | np.ndarray[Any, Any]) -> float:
    """Largest |difference| over the largest |expected value|; NaN stays NaN, and fails every comparison."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    assert value.shape == expected.shape
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def gradients_of(model: SequenceModel) -> torch.Tensor:
    """All gradients of a model as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
