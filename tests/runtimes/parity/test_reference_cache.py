"""References that are kept: the same bits, under a key of all that they depend on, and never needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.compiling import code_cache
from causalrn.errors import FallbackWarning, RuntimeUnavailableError
from causalrn.runtimes.parity import reference_cache
from causalrn.runtimes.parity.oracle import CheckpointOracle, Oracle, OracleLongReference
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.training.card import ModelCard
from causalrn.workflows.quantize_bundle import reference_logits
from tests.builders import random_model, random_tokens

STEPS = 12


def oracle(seed: int = 0, sha256: str = "weights", **options: object) -> CheckpointOracle:
    model = random_model(seed, **options)
    return CheckpointOracle(model, ModelCard(model.config), sha256=sha256)


def reference(of: CheckpointOracle, seed: int = 0, positions: tuple[int, ...] = state_positions(STEPS)) -> Reference:
    return of.reference(random_tokens(of.card.config, 2, STEPS, seed).numpy(), positions)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("CAUSALRN_CACHE", str(folder))
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each reference that is computed."""
    count: list[int] = []
    compute = Oracle.reference

    def counting(self: Oracle, *arguments: object) -> Reference:
        count.append(1)
        return compute(self, *arguments)

    monkeypatch.setattr(Oracle, "reference", counting)
    return count


def assert_equal(one: Reference, other: Reference) -> None:
    assert (one.tokens == other.tokens).all()
    assert (one.logits == other.logits).all()
    assert all((a == b).all() for a, b in zip(one.streams, other.streams, strict=True))
    assert one.spec == other.spec
    assert one.recurrent_error == other.recurrent_error
    for mine, theirs in ((one.bounds, other.bounds), (one.parallel_bounds, other.parallel_bounds)):
        assert (mine.logits == theirs.logits).all()
        assert (mine.streams == theirs.streams).all()
        assert mine.states == theirs.states
    assert one.states.keys() == other.states.keys()
    for position, tensors in one.states.items():
        assert tensors.keys() == other.states[position].keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == other.states[position][name].dtype
            assert tensor.shape == other.states[position][name].shape
            assert (tensor == other.states[position][name]).all()


@pytest.mark.parametrize("options", [{}, {"readout": "linear"}, {"readout": "plain"}, {"heads": 2}], ids=str)
def test_kept_reference_has_the_same_bits(options: dict[str, object], computed: list[int]) -> None:
    first, again = (reference(oracle(**options)) for _ in range(2))
    assert len(computed) == 1
    assert_equal(first, again)
    assert_equal(first, reference(oracle(sha256="", **options)))
    assert len(computed) == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda: reference(oracle(1, sha256="other weights")),
        lambda: reference(oracle(), seed=1),
        lambda: reference(oracle(), positions=(1, 3)),
        lambda: reference(oracle(activation="relu")),
    ],
    ids=["weights", "tokens", "positions", "card"],
)
def test_whatever_differs_is_computed(ask: Callable[[], Reference], computed: list[int]) -> None:
    reference(oracle())
    ask()
    assert len(computed) == 2


def test_another_version_computes_its_own(monkeypatch: pytest.MonkeyPatch, computed: list[int]) -> None:
    reference(oracle())
    monkeypatch.setattr(reference_cache, "_computed_by", lambda: ("another source",))
    reference(oracle())
    assert len(computed) == 2


def test_source_of_every_room_is_part_of_the_version() -> None:
    """Rooms may be links: what draws errors is below one of them."""
    names = {path.name for path in reference_cache._sources(Path(causalrn.__file__).parent)}
    assert {"oracle.py", "noise.py", "noisy_pair_sum.c", "folding.py", "reference_cache.py"} <= names


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_file_is_not_believed(folder: Path, damage: Callable[[bytes], bytes], computed: list[int]) -> None:
    first = reference(oracle())
    (kept,) = folder.glob("*.reference")
    kept.write_bytes(damage(kept.read_bytes()))
    assert_equal(first, reference(oracle()))
    assert len(computed) == 2
    assert_equal(first, reference(oracle()))
    assert len(computed) == 2


@pytest.mark.parametrize("fault", ["full", "no folder"])
def test_nothing_needs_the_cache(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device") if fault == "full" else RuntimeUnavailableError("nowhere")

    expected = reference(oracle(sha256=""))
    monkeypatch.setattr(reference_cache, "keep_entry" if fault == "full" else "cache_folder", fail)
    for _ in range(2):
        assert_equal(expected, reference(oracle()))


def test_oldest_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch, computed: list[int]) -> None:
    reference(oracle(), seed=0)
    (kept,) = folder.glob("*.reference")
    monkeypatch.setattr(reference_cache, "_MOST_BYTES", 5 * kept.stat().st_size)
    (folder / "compiled-code.so").write_bytes(b"x")
    for seed in range(1, 8):
        reference(oracle(), seed=seed)
        reference(oracle(), seed=0)  # what is used stays
    assert len(computed) == 8
    assert len([*folder.glob("*.reference")]) == 5
    assert (folder / "compiled-code.so").exists()


def test_what_is_too_large_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cache, "_MOST_BYTES", 4096)
    reference(oracle())
    assert not [*folder.glob("*.reference")]


def long_run(of: CheckpointOracle, stretches: int = 4, seconds: float = 60.0) -> tuple[Any, Any]:
    tokens = random_tokens(of.card.config, 1, 40, 5).numpy()
    long = of.long_reference(reference(of), tokens, seconds)
    parts = [long.advance(10 * start, 10 * start + 10) for start in range(stretches)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)], long.state()


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_kept_long_run_has_the_same_bits(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it is computed again")

    (logits, bounds), (state, limits) = long_run(oracle(readout=readout))
    monkeypatch.setattr(OracleLongReference, "advance", never)
    (kept_logits, kept_bounds), (kept_state, kept_limits) = long_run(oracle(readout=readout))
    assert (logits == kept_logits).all()
    assert (bounds == kept_bounds).all()
    assert kept_limits == limits
    assert kept_state.keys() == limits.keys()
    assert all((state[name] == kept_state[name]).all() for name in limits)
    (_, _), (unknown, _) = long_run(oracle(readout=readout), stretches=3)
    assert not unknown
    with pytest.raises(AssertionError, match="computed again"):
        long_run(oracle(readout=readout), seconds=1.0)


def test_long_run_that_was_broken_off_is_not_kept(folder: Path) -> None:
    long_run(oracle(), stretches=3)
    assert len([*folder.glob("*.reference")]) == 1  # the short one's
    long_run(oracle())
    assert len([*folder.glob("*.reference")]) == 2


def test_quantize_keeps_the_oracles_logits(runs, bundles, folder: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 29, (2, STEPS))
    first, again = (reference_logits(Bundle.open(bundles["exact"]), runs["exact"], tokens)[0] for _ in range(2))
    assert (first == again).all()
    assert len([*folder.glob("*.reference")]) == 1


def test_private_folder_is_used_where_the_users_is_not(folder: Path, computed: list[int]) -> None:
    folder.chmod(0o777)
    for _ in range(2):
        with pytest.warns(FallbackWarning, match="not yours alone"):
            reference(oracle(sha256="private"))
    assert len(computed) == 1
    assert not [*folder.glob("*.reference")]
    assert [*code_cache._process_folder().glob("*.reference")]
