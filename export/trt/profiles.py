"""Which sizes to compile for: optimization profiles that follow from the state contract and from what a user asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.engine_spec import Profile, Range
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import CompileError
from causalrn.model.state import derive_state
from causalrn.training.card import card_of

_NO_ROWS: Range = (0, 0, 0)


@dataclass(frozen=True)
class Sizes:
    """What a user asks for.

    Attributes:
        growing: of a growing pool, ranges of rows that a step reads, its own included: (1, opt, max) first, and each
            beginning one row after the one before.
        capacities: of a fixed pool, row counts to compile steps for; the session moves up from one to the next.
        max_batch: most sequences.
        prefill_chunk: most tokens taken at once; None takes what the bundle says.
    """

    growing: tuple[Range, ...] = ()
    capacities: tuple[int, ...] = ()
    max_batch: int = 16
    prefill_chunk: int | None = None

    def chunk(self, bundle: Bundle) -> int:
        """Most tokens taken at once: never more than there are positions."""
        chunk, capacity = self.prefill_chunk or bundle.manifest.prefill_chunk, bundle.manifest.state.capacity
        return chunk if capacity is None else min(chunk, capacity)


def choose_profiles(bundle: Bundle, sizes: Sizes) -> dict[str, tuple[Profile, ...]]:
    """The profiles of each graph's engine.

    Raises:
        CompileError: another target than ONNX; or sizes that contradict the bundle's state, or that are missing.
    """
    if bundle.manifest.target != "onnx":
        raise CompileError(f"{bundle.path}: a bundle for {bundle.manifest.target}: compile takes ONNX bundles")
    _refuse_forms(bundle)
    step, prefill = _row_ranges(bundle, sizes)
    chunk = sizes.chunk(bundle)
    alone, together = (1, 1, 1), (2, sizes.max_batch, sizes.max_batch)
    batches = [alone, together] if sizes.max_batch > 1 else [alone]
    profiles = {
        "step": tuple(Profile(batch, (1, 1, 1), rows) for rows in step for batch in batches),
        "prefill": tuple(Profile((1, 1, sizes.max_batch), (1, chunk, chunk), rows) for rows in prefill),
    }
    return {name: those for name, those in profiles.items() if name in bundle.manifest.graphs}


def _refuse_forms(bundle: Bundle) -> None:
    """Refuse what sessions of engines do not feed, or do not take over."""
    if bundle.manifest.is_ort_format:
        raise CompileError(f"{bundle.path}: only onnxruntime reads its graphs: compile the bundle in ONNX")
    if bundle.manifest.index_type != "int64":
        raise CompileError(
            f"{bundle.path}: its tokens are {bundle.manifest.index_type}: export with `index_type` int64"
        )
    if bundle.manifest.state.gives_fixed_pools:
        raise CompileError(f"{bundle.path}: it gives whole pools, and engines take new rows: export without `present`")


def compiled_state(bundle: Bundle, sizes: Sizes) -> StateSpec:
    """The bundle's state, with the capacity that the profiles leave."""
    manifest = bundle.manifest
    state, first = manifest.state, manifest.state.tensors[0]
    if not sizes.growing:
        return state
    return derive_state(card_of(bundle).block_config, state.pool, sizes.growing[-1][2], first.dtype)


def _row_ranges(bundle: Bundle, sizes: Sizes) -> tuple[list[Range], list[Range]]:
    """Rows that steps and prefills are handed."""
    state = bundle.manifest.state
    if state.is_own and state.has_pool:
        raise CompileError(
            f"{bundle.path}: the state of this model grows by itself: of models that users bring, those become engines "
            "whose state has a constant size"
        )
    if state.pool == "concat":
        raise CompileError(
            f"{bundle.path}: a concatenated pool would be copied at every step: export it with `pool` fixed, or growing"
        )
    for option, wanted, kind in (("`profile`", sizes.growing, "growing"), ("`capacity`", sizes.capacities, "fixed")):
        if wanted and state.pool != kind:
            what = f"a pool that is {state.pool}" if state.has_pool else "a state of constant size and no pool"
            raise CompileError(f"{bundle.path}: {option} is for pools that are {kind}, and it has {what}: leave it out")
    if not state.has_pool:
        return [_NO_ROWS], [_NO_ROWS]
    if state.pool == "fixed":
        rows: list[Range] = [(size, size, size) for size in _capacities(bundle, sizes.capacities)]
        return rows, rows
    ranges = _growing_ranges(bundle, sizes.growing)
    # a step's rows are the past and its own slot, so as many as its number; a prefill is handed the past alone
    return list(ranges), [(low - 1, likely - 1, high - 1) for low, likely, high in ranges]


def _capacities(bundle: Bundle, wanted: Sequence[int]) -> list[int]:
    whole = bundle.manifest.state.capacity
    assert whole is not None
    late = [size for size in wanted if not 2 <= size <= whole]
    if late:
        raise CompileError(f"`capacity` {late[0]}: the pool of {bundle.path} holds {whole} rows; take 2 to {whole}")
    return sorted({*wanted, whole})


def _growing_ranges(bundle: Bundle, ranges: Sequence[Range]) -> Sequence[Range]:
    most = bundle.manifest.state.capacity
    if not ranges:
        end = 1024 if most is None else most
        raise CompileError(
            f"{bundle.path}: a growing pool needs `profile`, MIN/OPT/MAX rows that steps read, e.g. "
            f"1/{max(1, end // 2)}/{end}; or export it with `pool` fixed"
        )
    start = 1
    for low, likely, high in ranges:
        shown = f"`profile` {low}/{likely}/{high}"
        if low != start:
            raise CompileError(f"{shown} begins at {low} instead of {start}: profiles follow one another from 1 on")
        if not low <= likely <= high:
            raise CompileError(f"{shown}: the three numbers have to be in ascending order")
        if most is not None and high > most:
            raise CompileError(f"{shown}: the model has {most} positions; end there or before")
        start = high + 1
    return ranges
