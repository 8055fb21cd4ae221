"""Golden vectors: a reference that travels inside a bundle, so that a device can check itself without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.tensor_files import check_tensor_file
from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.compiling.processor import processor_family
from causalrn.errors import BundleError
from causalrn.model.config import Configuration
from causalrn.runtimes.parity.calls.table import CallTable, table_of, table_of_reference
from causalrn.runtimes.parity.late_windows import LateWindows, check_late
from causalrn.runtimes.parity.reference import (
    Bounds,
    Reference,
    States,
    batch_axes_of,
    joined_rows,
    run_in_chunks,
    sample_tokens,
    state_positions,
)
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.training.card import ModelCard, card_of

GOLDEN_NAME = "golden.safetensors"
_ROWS, _TOKENS = 2, 48
_RECORDED_ON = "recorded.processor_family"
"""A tensor of the name's ASCII codes: safetensors has no text."""


@dataclass(frozen=True)
class Golden:
    """Golden vectors of a bundle: a reference, and the own outputs of the runtime that wrote the bundle.

    Attributes:
        late: rows of tokens as long as the capacity, with the oracle's logits at some positions; None in bundles of
            earlier versions.
        recorded_logits: float32 [B, T, V], step by step.
        recorded_states: at one position in the middle, the runtime's own state as it stores it: what a device resumes
            from.
        recorded_on: family of processors that they were recorded on
            (:mod:`causalrn.compiling.processor`); None where an earlier version wrote them.
    """

    reference: Reference
    recorded_logits: FloatArray
    recorded_states: States
    recorded_on: str | None = None
    late: LateWindows | None = None

    def call_table(self) -> CallTable:
        """What calls are compared with: late rows, or the reference's where these know nothing below the capacity."""
        capacity = self.reference.spec.capacity
        if self.late is None or (capacity is not None and self.late.positions[0] >= capacity):
            return table_of_reference(self.reference)
        return table_of(self.late.tokens, self.late.positions, self.late.logits, self.reference)

    def recorded_snapshot(self, owner: str) -> Snapshot:
        """The recorded mid-sequence state, to resume from."""
        (position,) = self.recorded_states
        logits = self.recorded_logits[:, position - 1]
        return Snapshot(position, len(self.reference.tokens), self.recorded_states[position], logits, owner)


def golden_tokens(card: ModelCard, capacity: int | None) -> IntArray:
    """The token sequences of golden vectors: the same for every export of a model."""
    return sample_tokens(card, np.random.default_rng(0), _ROWS, min(capacity or _TOKENS, _TOKENS))


def save_golden(folder: Path, reference: Reference, session: Session, late: LateWindows | None = None) -> FloatArray:
    """Write golden vectors into a bundle's folder; gives the logits of `session`, the bundle's own: [B, T, V]."""
    (middle,) = state_positions(reference.steps)[-2:-1] or (1,)
    logits, state = _record(session, reference.tokens, middle)
    bounds = reference.bounds
    tensors: dict[str, Array] = {
        "tokens": reference.tokens,
        "oracle.logits": reference.logits,
        "oracle.streams": _stacked(reference.streams, reference.logits).astype(np.float32),
        "oracle.positions": np.array(sorted(reference.states)),
        "oracle.recurrent_error": np.array([reference.recurrent_error]),
        "bound.logits": bounds.logits,
        "bound.streams": bounds.streams,
        **{f"bound.state.{name}": np.array([bound]) for name, bound in bounds.states.items()},
        **_named("oracle.state.", _without_prefixes(_in_float32(reference.states), reference.spec)),
        "recorded.logits": logits,
        **_named("recorded.state.", {middle: state}),
        _RECORDED_ON: np.frombuffer(processor_family().encode("ascii", "replace"), np.int8),
    }
    if late is not None:
        tensors |= {"late.tokens": late.tokens, "late.positions": late.positions, "late.logits": late.logits}
    content = save({name: np.asarray(value, order="C") for name, value in tensors.items()})
    (folder / GOLDEN_NAME).write_bytes(content)
    return logits


def _stacked(streams: Sequence[FloatArray], logits: FloatArray) -> FloatArray:
    """[N + 1, B, T, E]; N + 1 and E are 0 where a model shows none."""
    return np.stack(streams) if streams else np.zeros((0, *logits.shape[:2], 0))


def _record(session: Session, tokens: IntArray, middle: int) -> tuple[FloatArray, Mapping[str, Array]]:
    """Logits step by step, and the state in the middle, from which the rest was resumed; in groups of `max_batch`."""
    logits, states, most = [], [], session.max_batch or len(tokens)
    for first in range(0, len(tokens), most):
        rows = tokens[first : first + most]
        before = run_in_chunks(session, rows[:, :middle], [1] * middle)
        snapshot, rest = session.snapshot(), rows.shape[1] - middle
        after = run_in_chunks(session, rows[:, middle:], [1] * rest, start=snapshot)
        logits.append(np.concatenate([before.logits, after.logits], axis=1))
        states.append(snapshot.tensors)
    axes = batch_axes_of(session)
    together = {name: joined_rows([state[name] for state in states], axes[name]) for name in states[0]}
    return np.concatenate(logits), together


def load_golden(bundle: Bundle) -> Golden:
    """Read a bundle's golden vectors.

    Raises:
        BundleError: the file is corrupt, of another version, or does not fit the bundle.
    """
    path = bundle.file(GOLDEN_NAME)
    check_tensor_file(path, "file of golden vectors", "export the bundle again", BundleError)
    try:
        golden = _read(load_file(path), bundle.manifest.state)
        _check(golden, card_of(bundle).config)
        return golden
    except KeyError as error:
        raise BundleError(f"{path}: golden vectors of another version (no {error}): export the bundle again") from None
    except (SafetensorError, ValueError, IndexError, TypeError, OSError) as error:
        raise BundleError(f"{path}: malformed golden vectors ({error}): export the bundle again") from None


def _read(tensors: Mapping[str, Array], spec: StateSpec) -> Golden:
    bounds = Bounds(
        tensors["bound.logits"],
        tensors["bound.streams"],
        {name: float(value[0]) for name, value in _below(tensors, "bound.state.").items()},
    )
    reference = Reference(
        tensors["tokens"],
        tensors["oracle.logits"],
        list(tensors["oracle.streams"]),
        _with_prefixes(_states(tensors, "oracle.state."), tensors["oracle.positions"].tolist(), spec),
        spec,
        bounds,
        float(tensors["oracle.recurrent_error"][0]),
    )
    codes = tensors.get(_RECORDED_ON)
    recorded_on = None if codes is None else codes.astype(np.uint8).tobytes().decode("ascii")
    if recorded_on is not None and not re.fullmatch(r"[!-~ ]{1,64}", recorded_on):
        raise ValueError("a family of processors that cannot be")
    late = None
    if "late.tokens" in tensors:
        late = LateWindows(tensors["late.tokens"], tensors["late.positions"], tensors["late.logits"])
    return Golden(reference, tensors["recorded.logits"], _states(tensors, "recorded.state."), recorded_on, late)


def _check(golden: Golden, config: Configuration) -> None:
    """Check that everything is there, has the shape that the bundle gives it, and is a finite number.

    Raises:
        ValueError: something is not.
    """
    reference, spec = golden.reference, golden.reference.spec
    batch, steps = reference.tokens.shape
    tokens = reference.tokens
    if tokens.dtype != np.int64 or batch < 1 or steps < 2 or steps > (spec.capacity or steps):
        raise ValueError(f"tokens {tokens.dtype} {list(tokens.shape)}")
    if tokens.min() < 0 or tokens.max() >= config.vocabulary:
        raise ValueError("tokens outside the vocabulary")
    (recorded,) = golden.recorded_states
    if not reference.states or not all(0 < position < steps for position in (*reference.states, recorded)):
        raise ValueError("positions outside the sequences")
    _expect("logits", reference.logits, (batch, steps, config.vocabulary))
    _expect("recorded logits", golden.recorded_logits, (batch, steps, config.vocabulary))
    streams = _stacked(reference.streams, reference.logits)
    _expect("streams", streams, (config.streams, batch, steps, config.stream_width))
    _expect("bounds of logits", reference.bounds.logits, (steps,), positive=True)
    _expect("bounds of streams", reference.bounds.streams, (config.streams, steps), positive=True)
    _expect_states("recorded ", golden.recorded_states, spec.tensors, batch, stored=True)
    kept = [tensor for tensor in spec.tensors if not tensor.is_scale]
    _expect_states("", reference.states, kept, batch)
    errors = [reference.bounds.states[tensor.name] for tensor in kept if not tensor.is_remainder]
    _expect("bounds of states", np.array(errors), (len(errors),), positive=True)
    _expect("recurrent error", np.array(reference.recurrent_error), ())
    if reference.recurrent_error < 0 or not reference.largest_logit > 0:
        raise ValueError("logits that are all zero, or a negative error")
    if golden.late is not None:
        check_late(golden.late, tokens, config)


def _expect_states(
    prefix: str, states: States, tensors: Sequence[StateTensor], batch: int, *, stored: bool = False
) -> None:
    """Check that there are these tensors at every position and no others, with `stored` in the dtype that they name."""
    for position, values in states.items():
        for tensor in tensors:
            shape = tensor.given(batch=batch, rows=position)  # a fixed pool is kept without its empty rows
            dtype = tensor.dtype if stored else None
            _expect(f"{prefix}{tensor.name}", values[tensor.name], shape, dtype=dtype)
        if len(values) > len(tensors):
            raise ValueError(f"{prefix}states that the bundle does not have")


def _expect(
    name: str, value: Array, shape: tuple[int, ...], *, positive: bool = False, dtype: str | None = None
) -> None:
    """Check an array of numbers: of one dtype, or where that is None of any floating-point type.

    Raises:
        ValueError: another shape or dtype, NaN or infinity, or not positive where it has to be.
    """
    if value.shape != shape or (value.dtype.kind != "f" if dtype is None else value.dtype != dtype):
        raise ValueError(f"{name} {value.dtype} {list(value.shape)}, expected {list(shape)}")
    if not np.isfinite(value).all() or (positive and not (value > 0).all()):
        raise ValueError(f"{name} with values that cannot be")


def _pools(spec: StateSpec) -> set[str]:
    return {tensor.name for tensor in spec.tensors if tensor.is_pool and not spec.is_own}


def _without_prefixes(states: States, spec: StateSpec) -> States:
    """Pools once, at their longest: the earlier ones are its first rows."""
    last, pools = max(states), _pools(spec)
    return {
        position: {name: value for name, value in tensors.items() if position == last or name not in pools}
        for position, tensors in states.items()
    }


def _with_prefixes(states: States, positions: Sequence[int], spec: StateSpec) -> States:
    pools = _pools(spec)
    longest = {name: value for name, value in states[max(states)].items() if name in pools}
    return {
        position: {**states.get(position, {}), **{name: pool[:position] for name, pool in longest.items()}}
        for position in positions
    }


def _in_float32(states: States) -> States:
    return {
        position: {name: value.astype(np.float32) for name, value in tensors.items()}
        for position, tensors in states.items()
    }


def _named(prefix: str, states: States) -> dict[str, Array]:
    return {
        f"{prefix}{position}.{name}": value for position, tensors in states.items() for name, value in tensors.items()
    }


def _below(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _states(tensors: Mapping[str, Array], prefix: str) -> States:
    states: dict[int, dict[str, Array]] = {}
    for key, value in _below(tensors, prefix).items():
        position, name = key.split(".", 1)
        states.setdefault(int(position), {})[name] = value
    return states
