"""Golden vectors: a reference that travels inside a bundle, so that a device can check itself without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from causalrn.card import ModelCard
from causalrn.errors import BundleError
from causalrn.runtimes.parity.reference import (
    Bounds,
    Reference,
    States,
    is_pool,
    run_in_chunks,
    sample_tokens,
    state_positions,
)
from causalrn.runtimes.session import Array, FloatArray, IntArray, Session, Snapshot

GOLDEN_NAME = "golden.safetensors"
_ROWS, _TOKENS = 2, 48


@dataclass(frozen=True)
class Golden:
    """Golden vectors of a bundle: a reference, and what the runtime that wrote the bundle said itself.

    Attributes:
        recorded_logits: float32 [B, T, V], step by step.
        recorded_states: at one position in the middle, the runtime's own state: what a device resumes from.
    """

    reference: Reference
    recorded_logits: FloatArray
    recorded_states: States

    def recorded_snapshot(self, owner: str) -> Snapshot:
        """The recorded mid-sequence state, to resume from."""
        (position,) = self.recorded_states
        logits = self.recorded_logits[:, position - 1]
        return Snapshot(position, len(self.reference.tokens), self.recorded_states[position], logits, owner)


def golden_tokens(card: ModelCard, capacity: int | None) -> IntArray:
    """The token sequences of golden vectors: the same for every export of a model."""
    return sample_tokens(card, np.random.default_rng(0), _ROWS, min(capacity or _TOKENS, _TOKENS))


def save_golden(folder: Path, reference: Reference, session: Session) -> None:
    """Write golden vectors into a bundle's folder, recording what `session` (the bundle's own) says."""
    middle = state_positions(reference.steps)[-2:-1] or (1,)
    recorded = run_in_chunks(session, reference.tokens, [1] * reference.steps, middle)
    bounds = reference.bounds
    tensors: dict[str, Array] = {
        "tokens": reference.tokens,
        "oracle.logits": reference.logits,
        "oracle.streams": np.stack(reference.streams).astype(np.float32),
        "oracle.positions": np.array(sorted(reference.states)),
        "oracle.recurrent_error": np.array([reference.recurrent_error]),
        "bound.logits": bounds.logits,
        "bound.streams": bounds.streams,
        **{f"bound.state.{name}": np.array([bound]) for name, bound in bounds.states.items()},
        **_named("oracle.state.", _without_prefixes(reference.states), np.float32),
        "recorded.logits": recorded.logits,
        **_named("recorded.state.", recorded.states, np.float32),
    }
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    (folder / GOLDEN_NAME).write_bytes(content)


def load_golden(path: Path) -> Golden:
    """Read a bundle's golden vectors.

    Raises:
        BundleError: the file is corrupt or of another version.
    """
    try:
        tensors = load_file(path)
        bounds = Bounds(
            tensors["bound.logits"],
            tensors["bound.streams"],
            {name: float(value[0]) for name, value in _below(tensors, "bound.state.").items()},
        )
        reference = Reference(
            tensors["tokens"],
            tensors["oracle.logits"],
            list(tensors["oracle.streams"]),
            _with_prefixes(_states(tensors, "oracle.state."), tensors["oracle.positions"].tolist()),
            bounds,
            float(tensors["oracle.recurrent_error"][0]),
        )
        return Golden(reference, tensors["recorded.logits"], _states(tensors, "recorded.state."))
    except KeyError as error:
        raise BundleError(f"{path}: golden vectors of another version (no {error}): export the bundle again") from None
    except (SafetensorError, ValueError, IndexError, OSError) as error:
        raise BundleError(f"{path}: malformed golden vectors ({error}): export the bundle again") from None


def _without_prefixes(states: States) -> States:
    """Pools once, at their longest: the earlier ones are its first rows."""
    last = max(states)
    return {
        position: {name: value for name, value in tensors.items() if position == last or not is_pool(name)}
        for position, tensors in states.items()
    }


def _with_prefixes(states: States, positions: Sequence[int]) -> States:
    longest = {name: value for name, value in states[max(states)].items() if is_pool(name)}
    return {
        position: {**states.get(position, {}), **{name: pool[:position] for name, pool in longest.items()}}
        for position in positions
    }


def _named(prefix: str, states: States, dtype: type) -> dict[str, Array]:
    return {
        f"{prefix}{position}.{name}": value.astype(dtype)
        for position, tensors in states.items()
        for name, value in tensors.items()
    }


def _below(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _states(tensors: Mapping[str, Array], prefix: str) -> States:
    states: dict[int, dict[str, Array]] = {}
    for key, value in _below(tensors, prefix).items():
        position, name = key.split(".", 1)
        states.setdefault(int(position), {})[name] = value
    return states
