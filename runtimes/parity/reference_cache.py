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
from causalrn.runtimes.parity.reference import Bounds, Reference, States
from causalrn.runtimes.snapshot import Array, IntArray
from causalrn.training.card import ModelCard

_SUFFIX = ".reference"
_MOST_BYTES = 512 << 20
_PARALLEL = "parallel "


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
        sha256: of the weights.
        card: of the model.
        spec: state contract of its states.
        tokens: int64 [B, T].
        positions: of its states.
    """
    arrays = kept_arrays(lambda: _arrays(make()), f"reference at {list(positions)}", sha256, card, tokens)
    return _reference(arrays, spec, tokens)


def kept_arrays(
    make: Callable[[], Mapping[str, Array]], what: str, sha256: str, card: ModelCard, tokens: IntArray
) -> Mapping[str, Array]:
    """Arrays that are kept, or that are made now and kept, if they are not too large.

    Args:
        make: computes them.
        what: they are: one word for each kind.
        sha256, card, tokens: as for :func:`kept_reference`.
    """
    try:
        folder = cache_folder()
    except RuntimeUnavailableError:  # nowhere can anything be kept
        return make()
    key = _key(what, sha256, card, tokens)
    with contextlib.suppress(OSError, SafetensorError):
        path = find_entry(folder, key, _SUFFIX)
        if path is not None:
            found = load(path.read_bytes())
            os.utime(path)  # what is used stays
            return found
    arrays = make()
    if sum(array.nbytes for array in arrays.values()) <= _MOST_BYTES // 4:
        with contextlib.suppress(OSError):  # it is full: they are computed next time, too
            _keep(arrays, folder, key)
    return arrays


def _key(what: str, sha256: str, card: ModelCard, tokens: IntArray) -> str:
    """The hash of all that the values depend on."""
    given = [what, sha256, json_text(to_json(card)), str(tokens.shape), tokens.tobytes().hex()]
    return hashlib.sha256("\n".join([*given, *_computed_by()]).encode()).hexdigest()[:32]


@functools.cache
def _computed_by() -> tuple[str, ...]:
    """What gives the numbers: this toolkit as it is, what it calls, and the processor."""
    package = Path(causalrn.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\n")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    kernel = c_library.why_not("cpu", torch.float64) or "c"
    capability = torch.backends.cpu.get_cpu_capability()
    return digest.hexdigest(), torch.__version__, np.__version__, platform.machine(), capability, kernel


def _keep(arrays: Mapping[str, Array], folder: Path, key: str) -> None:
    with work_folder(folder) as work:
        made = work / f"made{_SUFFIX}"
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, made)
        keep_entry(made, folder, key, _SUFFIX)
    _forget_oldest(folder)


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
    streams = [arrays[f"stream {index}"] for index in range(sum(name.startswith("stream ") for name in arrays))]
    parallel = {name.removeprefix(_PARALLEL): array for name, array in arrays.items() if name.startswith(_PARALLEL)}
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
    states = {
        name.removeprefix("bound state "): float(array)
        for name, array in arrays.items()
        if name.startswith("bound state ")
    }
    return Bounds(arrays["bound logits"], arrays["bound streams"], states)
