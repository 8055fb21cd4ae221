"""References that were computed before, kept beside compiled code. Needs torch.

Verifying a second bundle of a RUN, or the same one again, asks for the values of the same weights at the same tokens.
The key is a hash of all that they depend on: weights, card, tokens, positions, and what computes them (this toolkit's
source, the versions of PyTorch and numpy, the processor's kind). What is kept carries its own hash, is this user's
alone, and is read as numbers; of 512 MiB what was not used for longest goes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

import causalrn
from causalrn.bundle.json_values import json_text, to_json
from causalrn.bundle.state_spec import StateSpec
from causalrn.compiling.code_cache import cache_folder, find_entry, keep_entry, work_folder
from causalrn.errors import RuntimeUnavailableError
from causalrn.model.operators import c_library
from causalrn.runtimes.parity.drift import LongReference
from causalrn.runtimes.parity.reference import Bounds, Reference, States
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import ModelCard

_SUFFIX = ".reference"
_MOST_BYTES = 512 << 20
_PARALLEL = "parallel "


class KeptArrays:
    """Arrays that depend on a model and on tokens: where they are kept.

    Args:
        what: they are, and what else they depend on.
        sha256: of the model's weights.
        card: of the model.
        tokens: int64 [B, T].
    """

    def __init__(self, what: str, sha256: str, card: ModelCard, tokens: IntArray) -> None:
        given = [what, sha256, json_text(to_json(card)), str(tokens.shape), tokens.tobytes().hex()]
        self._key = hashlib.sha256("\n".join([*given, *_computed_by()]).encode()).hexdigest()[:32]
        try:
            self._folder: Path | None = cache_folder()
        except RuntimeUnavailableError:  # nowhere can anything be kept
            self._folder = None

    def find(self) -> Mapping[str, Array] | None:
        """What is kept; None for nothing, or for what is damaged."""
        if self._folder is None:
            return None
        with contextlib.suppress(OSError, SafetensorError):
            path = find_entry(self._folder, self._key, _SUFFIX)
            if path is not None:
                found: Mapping[str, Array] = load(path.read_bytes())
                os.utime(path)  # what is used stays
                return found
        return None

    def keep(self, arrays: Mapping[str, Array]) -> None:
        """Keep them, if they are not too large; without room they are computed next time, too."""
        if self._folder is None or sum(array.nbytes for array in arrays.values()) > _MOST_BYTES // 4:
            return
        with contextlib.suppress(OSError):
            with work_folder(self._folder) as work:
                made = work / f"made{_SUFFIX}"
                save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, made)
                keep_entry(made, self._folder, self._key, _SUFFIX)
            _forget_oldest(self._folder)

    def found_or_made(self, make: Callable[[], Mapping[str, Array]]) -> Mapping[str, Array]:
        """What is kept, or what is made now and kept."""
        found = self.find()
        if found is None:
            found = make()
            self.keep(found)
        return found


def kept_reference(
    make: Callable[[], Reference],
    sha256: str,
    card: ModelCard,
    spec: StateSpec,
    tokens: IntArray,
    positions: Sequence[int],
) -> Reference:
    """A reference that is kept, or that is made now and kept.

    Args:
        make: computes it.
        sha256, card, tokens: as for :class:`KeptArrays`.
        spec: state contract of its states.
        positions: of its states.
    """
    kept = KeptArrays(f"reference at {list(positions)}", sha256, card, tokens)
    return _reference(kept.found_or_made(lambda: _arrays(make())), spec, tokens)


class KeptLongReference(LongReference):
    """A long run that is kept, or that is computed now, and kept once it has come to its end.

    Args:
        long: computes it.
        kept: where it is kept.
    """

    def __init__(self, long: LongReference, kept: KeptArrays) -> None:
        self.tokens = long.tokens
        self._long, self._kept, self._found = long, kept, kept.find()
        self._parts: list[tuple[FloatArray, FloatArray]] = []
        self._end = 0

    def advance(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """See :meth:`LongReference.advance`."""
        self._end = end
        if self._found is not None:
            return self._found["logits"][start:end], self._found["bounds"][start:end]
        self._parts = [*(self._parts if start else []), self._long.advance(start, end)]
        return self._parts[-1]

    def state(self) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        """See :meth:`LongReference.state`; of a kept run that is broken off, it is not known."""
        is_whole = self._end == self.tokens.shape[1]
        if self._found is not None:
            return self._kept_state(self._found) if is_whole else ({}, {})
        state, limits = self._long.state()
        if is_whole:
            logits, bounds = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
            tensors = {f"state {name}": np.asarray(state[name]) for name in limits}
            self._kept.keep(
                {"logits": logits, "bounds": bounds, **tensors}
                | {f"bound {name}": np.array(limit) for name, limit in limits.items()}
            )
        return state, limits

    @staticmethod
    def _kept_state(found: Mapping[str, Array]) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        limits = {name: float(limit) for name, limit in _under("bound ", found).items()}
        return _under("state ", found), limits


@functools.cache
def _computed_by() -> tuple[str, ...]:
    """What gives the numbers: this toolkit as it is, what it calls, and the processor."""
    package, digest = Path(causalrn.__file__).parent, hashlib.sha256()
    for path in _sources(package):
        digest.update(path.relative_to(package).as_posix().encode() + b"\n")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    kernel = c_library.why_not("cpu", torch.float64) or "c"
    capability = torch.backends.cpu.get_cpu_capability()
    return digest.hexdigest(), torch.__version__, np.__version__, platform.machine(), capability, kernel


def _sources(package: Path) -> list[Path]:
    """All source of the package; rooms are links in a checkout, which `rglob` does not follow."""
    folders = os.walk(package, followlinks=True)
    return sorted(
        Path(folder, name) for folder, _, names in folders for name in names if name.endswith((".py", ".c", ".h"))
    )


def _forget_oldest(folder: Path) -> None:
    """Delete what was not used for longest, until the rest is small enough."""
    kept = sorted(((path.stat(), path) for path in folder.glob(f"*{_SUFFIX}")), key=lambda found: -found[0].st_mtime)
    size = 0
    for status, path in kept:
        size += status.st_size
        if size > _MOST_BYTES:
            path.unlink(missing_ok=True)


# --- as arrays ------------------------------------------------------------------------------------------------------


def _arrays(reference: Reference) -> dict[str, Array]:
    """All of a reference but its tokens and its contract; of pools, whose rows stay, the last ones only."""
    arrays = {"logits": reference.logits, "recurrent_error": np.array(reference.recurrent_error)}
    arrays |= {f"stream {index}": stream for index, stream in enumerate(reference.streams)}
    arrays |= _bound_arrays(reference.bounds)
    if reference.parallel_bounds is not None:
        arrays |= {_PARALLEL + name: array for name, array in _bound_arrays(reference.parallel_bounds).items()}
    last = max(reference.states, default=0)
    for position, tensors in reference.states.items():
        if position == last or not reference.spec.keeps_rows:
            arrays |= {f"state {position} {name}": tensor for name, tensor in tensors.items()}
    arrays["positions"] = np.array(sorted(reference.states), np.int64)
    return arrays


def _bound_arrays(bounds: Bounds) -> dict[str, Array]:
    arrays = {"bound logits": bounds.logits, "bound streams": bounds.streams}
    return arrays | {f"bound state {name}": np.array(bound) for name, bound in bounds.states.items()}


def _reference(arrays: Mapping[str, Array], spec: StateSpec, tokens: IntArray) -> Reference:
    """The other way round."""
    streams = [arrays[f"stream {index}"] for index in range(len(_under("stream ", arrays)))]
    parallel = _under(_PARALLEL, arrays)
    return Reference(
        tokens,
        arrays["logits"],
        streams,
        _states(arrays, spec),
        spec,
        _bounds(arrays),
        float(arrays["recurrent_error"]),
        _bounds(parallel) if parallel else None,
    )


def _states(arrays: Mapping[str, Array], spec: StateSpec) -> States:
    positions = [int(position) for position in arrays["positions"]]
    names = [tensor.name for tensor in spec.tensors]
    if not spec.keeps_rows:
        return {at: {name: arrays[f"state {at} {name}"] for name in names} for at in positions}
    last = max(positions, default=0)
    return {at: {name: arrays[f"state {last} {name}"][:at] for name in names} for at in positions}


def _bounds(arrays: Mapping[str, Array]) -> Bounds:
    states = {name: float(bound) for name, bound in _under("bound state ", arrays).items()}
    return Bounds(arrays["bound logits"], arrays["bound streams"], states)


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
