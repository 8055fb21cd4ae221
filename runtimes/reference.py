"""References that sessions are compared with: the float64 oracle's logits and the float64 recurrent states.

Made from a checkpoint (needs torch), or read from a bundle's golden vectors (needs numpy only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from causalrn.card import ModelCard
from causalrn.errors import BundleError, CheckpointError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session import Array, FloatArray, IntArray, Session, Snapshot

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.model import SequenceModel

GOLDEN_NAME = "golden.safetensors"
_GOLDEN_ROWS, _GOLDEN_TOKENS = 2, 48

States = Mapping[int, Mapping[str, Array]]


@dataclass(frozen=True)
class Reference:
    """What the right answer is.

    Attributes:
        tokens: int64 [B, T].
        logits: the oracle's, float64 [B, T, V].
        states: by position, the float64 recurrent state by tensor name.
        recurrent_error: largest difference of the float64 recurrent form's logits from the oracle's, relative to the
            largest |logit|: what vouches for the states.
    """

    tokens: IntArray
    logits: FloatArray
    states: States
    recurrent_error: float

    @property
    def largest_logit(self) -> float:
        """Largest |logit|."""
        return float(np.abs(self.logits).max())


@dataclass(frozen=True)
class Golden:
    """Golden vectors of a bundle: a reference, and what the runtime that wrote the bundle said itself.

    Attributes:
        recorded_logits: float32 [B, T, V], step by step.
        recorded_states: by position, the runtime's own state: what a device resumes from.
    """

    reference: Reference
    recorded_logits: FloatArray
    recorded_states: States


def sample_tokens(card: ModelCard, rng: np.random.Generator, count: int, steps: int) -> IntArray:
    """Token sequences to compare on, int64 [count, steps]: sequences of the task in half of the rows, else random."""
    tokens = rng.integers(0, card.config.vocabulary, (count, steps), dtype=np.int64)
    if card.task is not None and card.task.has_source:
        rows = (count + 1) // 2
        sequences = card.task.sample(rng, rows, held_out=True).inputs[:, :steps]
        tokens[:rows, : sequences.shape[1]] = sequences
    return tokens


def state_positions(steps: int) -> tuple[int, ...]:
    """Positions at which states are compared: in the middle, and before the last step.

    Not after the last one: no logits read what it leaves behind, so nothing would vouch for the reference's state.
    """
    return tuple(sorted({max(1, steps // 2), max(1, steps - 1)}))


def make_reference(model: SequenceModel, card: ModelCard, tokens: IntArray) -> Reference:
    """Compute a reference from a model in parallel form.

    Raises:
        CheckpointError: the float64 recurrent form does not reproduce the oracle, so that its states prove nothing.
    """
    import torch

    from causalrn.cell import RecurrentCell
    from causalrn.runtimes.torch_sessions import RecurrentSession, forward_in_batches
    from causalrn.tolerances import TOLERANCES

    logits = forward_in_batches(model.oracle(), tokens)
    session = RecurrentSession(RecurrentCell.from_model(model, dtype=torch.float64), card)
    recurrent, states = drive_in_steps(session, tokens, state_positions(tokens.shape[1]))
    largest = float(np.abs(logits).max())
    error = float(np.abs(recurrent - logits).max())
    bound = TOLERANCES["float64", "recurrent"].logit_bound(largest)
    if not error <= bound:
        raise CheckpointError(
            f"the float64 recurrent form is {error:.1e} from the oracle (allowed {bound:.1e}): these weights are so "
            "ill-conditioned that no recurrent state can be vouched for"
        )
    return Reference(tokens, logits, states, error / largest if largest else error)


def compared_states(session: CellSession, states: States) -> States:
    """The states without tensors that hold rounding errors only."""
    names = {tensor.name for tensor in session.spec.tensors if not tensor.is_remainder}
    return {p: {name: value for name, value in tensors.items() if name in names} for p, tensors in states.items()}


def drive_in_steps(session: Session, tokens: IntArray, positions: tuple[int, ...]) -> tuple[FloatArray, States]:
    """Run step by step from a fresh state: logits [B, T, V], and the states at `positions`."""
    session.reset(len(tokens))
    logits: list[FloatArray] = []
    states: dict[int, dict[str, Array]] = {}
    for index in range(tokens.shape[1]):
        logits.append(session.step(tokens[:, index]))
        if index + 1 in positions:
            states[index + 1] = dict(session.snapshot().tensors)
    return np.stack(logits, axis=1), states


def golden_tokens(card: ModelCard, capacity: int | None) -> IntArray:
    """The token sequences of golden vectors: the same for every export of a model."""
    steps = min(capacity or _GOLDEN_TOKENS, _GOLDEN_TOKENS)
    return sample_tokens(card, np.random.default_rng(0), _GOLDEN_ROWS, steps)


def save_golden(folder: Path, reference: Reference, session: Session) -> None:
    """Write golden vectors into a bundle's folder, recording what `session` (the bundle's own) says."""
    middle = state_positions(reference.tokens.shape[1])[:1]
    logits, states = drive_in_steps(session, reference.tokens, middle)
    tensors: dict[str, Array] = {
        "tokens": reference.tokens,
        "oracle.logits": reference.logits,
        "oracle.recurrent_error": np.array([reference.recurrent_error]),
        "recorded.logits": logits,
    }
    for position in middle:
        for name, value in reference.states[position].items():
            tensors[f"oracle.state.{position}.{name}"] = value.astype(np.float32)
        for name, value in states[position].items():
            tensors[f"recorded.state.{position}.{name}"] = value
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    (folder / GOLDEN_NAME).write_bytes(content)


def load_golden(path: Path) -> Golden:
    """Read a bundle's golden vectors.

    Raises:
        BundleError: the file is corrupt or of another version.
    """
    try:
        tensors = load_file(path)
        reference = Reference(
            tensors["tokens"],
            tensors["oracle.logits"],
            _states_below(tensors, "oracle.state."),
            float(tensors["oracle.recurrent_error"][0]),
        )
        return Golden(reference, tensors["recorded.logits"], _states_below(tensors, "recorded.state."))
    except (SafetensorError, ValueError, KeyError, IndexError, OSError) as error:
        raise BundleError(f"{path}: malformed golden vectors ({error}): export the bundle again") from None


def recorded_snapshot(golden: Golden, owner: str) -> Snapshot:
    """The recorded mid-sequence state, to resume from."""
    (position,) = golden.recorded_states
    logits = golden.recorded_logits[:, position - 1]
    return Snapshot(position, len(golden.reference.tokens), golden.recorded_states[position], logits, owner)


def _states_below(tensors: Mapping[str, Array], prefix: str) -> States:
    states: dict[int, dict[str, Array]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            position, name = key.removeprefix(prefix).split(".", 1)
            states.setdefault(int(position), {})[name] = value
    return states
