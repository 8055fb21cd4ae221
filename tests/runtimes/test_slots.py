"""Slots: sequences at positions of their own give what each gives alone; generation of any lengths."""

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import CapacityError, InputError, NonFiniteError, StateError
from causalrn.runtimes import open_session
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.native.native_slots import NativeSlots
from tests.builders import overflowing_model, relative_error
from tests.c_tools import HAS_C_COMPILER, c_bundle, needs_c_compiler
from tests.web_tools import HAS_WEB

CAPACITY = 40
RUNTIMES = ["recurrent", "onnxruntime", *(["native"] if HAS_C_COMPILER else []), *(["node"] if HAS_WEB else [])]
LENGTHS = (1, 17, 3, 40)


@pytest.fixture(scope="module")
def opened(runs, bundles, request):
    """A session per runtime and readout."""
    folders = {"recurrent": runs, "onnxruntime": bundles}
    for runtime, fixture in (("native", "c_bundles"), ("node", "web_bundles")):
        if runtime in RUNTIMES:
            folders[runtime] = request.getfixturevalue(fixture)
    sessions = {(n, r): open_session(folders[n][r], n) for n in RUNTIMES for r in ("exact", "linear")}
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.fixture(params=[(n, r) for n in RUNTIMES for r in ("exact", "linear")], ids="-".join)
def session(request, opened):
    chosen = opened[request.param]
    chosen.reset(1)
    return chosen


def sequences(lengths=LENGTHS) -> list[np.ndarray]:
    return [np.random.default_rng(length).integers(0, 29, length) for length in lengths]


def alone(session, tokens) -> np.ndarray:
    """Logits [T, V] of a sequence by itself, step by step."""
    session.reset(1)
    logits = np.stack([session.step([token])[0] for token in tokens])
    session.reset(1)
    return logits


def same(session, logits, expected) -> bool:
    """Bit for bit where prefill gives the bits of steps; within rounding elsewhere."""
    if session.runtime in ("native", "node"):
        return np.array_equal(logits, expected)
    return bool(relative_error(logits, expected) <= TOLERANCES["float32", session.runtime].relative)


def test_sequences_join_step_and_leave_as_if_they_were_alone(session):
    tokens = sequences()
    expected = [alone(session, row) for row in tokens]
    session.prefill([[3, 4, 5]])
    own = session.snapshot()
    with session.slots() as slots:
        first = slots.admit()
        taken = [slots.step({first: token})[first] for token in tokens[1][:5]]
        others = {number: slots.admit() for number in (0, 2, 3)}
        given = slots.prefill({others[0]: tokens[0], others[3]: tokens[3][:33], first: tokens[1][5:6]})
        taken += list(given[first])
        assert same(session, given[others[0]], expected[0])
        slots.release(others[0])
        assert slots.numbers == (first, others[2], others[3])
        for time in range(3):
            given = slots.step({others[2]: tokens[2][time], first: tokens[1][6 + time]})
            assert same(session, given[others[2]], expected[2][time])
            taken.append(given[first])
        assert same(session, np.stack(taken), expected[1][:9])
        again = slots.admit(slots.snapshot(first))
        assert again == others[0], "numbers come again"
        both = slots.prefill({again: tokens[1][9:], first: tokens[1][9:], others[3]: tokens[3][33:]})
        assert same(session, both[first], expected[1][9:])
        assert same(session, both[again], expected[1][9:])
        assert same(session, both[others[3]], expected[3][33:])
        assert slots.position(others[3]) == CAPACITY
        assert same(session, slots.last_logits(first), expected[1][-1])
    assert session.position == 3, "the session's own state stays as it is"
    assert np.array_equal(session.step([7]), restored_step(session, own))


def restored_step(session, snapshot):
    session.restore(snapshot)
    return session.step([7])


def test_calls_that_fail_change_no_slot(session):
    with session.slots() as slots:
        full, other = slots.admit(), slots.admit()
        slots.prefill({full: sequences()[3], other: [3]})
        for tokens, error in (
            ({other: 4, full: 1}, CapacityError),
            ({other: 29}, InputError),
            ({other: -1, full: 3}, InputError),
            ({other: 4, 99: 1}, InputError),
            ({other: 1.5}, InputError),
        ):
            with pytest.raises(error):
                slots.step(tokens)
            assert (slots.position(full), slots.position(other)) == (CAPACITY, 1)
        assert same(session, slots.step({other: 4})[other], alone(session, [3, 4])[1])
        assert slots.prefill({}) == {}
        for call in (slots.release, slots.position, slots.snapshot, slots.last_logits):
            with pytest.raises(InputError, match="no slot 99"):
                call(99)


def test_a_slot_holds_one_sequence_of_this_model(session, opened):
    session.step([3])
    one = session.snapshot()
    twice = {name: np.concatenate([value] * 2, axis=value.ndim - 2) for name, value in one.tensors.items()}
    pair = dataclasses.replace(one, batch=2, tensors=twice, logits=np.concatenate([one.logits] * 2))
    session.reset(1)
    with session.slots() as slots:
        slot = slots.admit()
        slots.step({slot: 5})
        before = slots.last_logits(slot)
        with pytest.raises(StateError, match="2 sequences"):
            slots.restore(slot, pair)
        stranger = next(other for other in opened.values() if other.card.config != session.card.config)
        stranger.reset(1)
        stranger.step([3])
        with pytest.raises(StateError):
            slots.admit(stranger.snapshot())
        assert slots.numbers == (slot,)
        assert np.array_equal(slots.last_logits(slot), before)
        session.restore(slots.snapshot(slot))
        assert np.array_equal(session.last_logits[0], before)


@needs_c_compiler
def test_native_slots_are_all_or_nothing_where_numbers_overflow(tmp_path):
    bundle = c_bundle(overflowing_model(), tmp_path)
    with NativeSession(bundle, flags=("-O0", "-DCAUSALRN_NO_VECTORS")) as session, session.slots() as slots:
        assert isinstance(slots, NativeSlots)
        good = next(token for token in range(29) if is_finite(session, token))
        bad = next(token for token in range(29) if not is_finite(session, token))
        one, other = slots.admit(), slots.admit()
        before = slots.step({one: good, other: good})
        with pytest.raises(NonFiniteError):
            slots.prefill({other: [good, good], one: [good, bad]})
        assert (slots.position(one), slots.position(other)) == (1, 1)
        again = slots.step({one: good, other: good})
        assert np.array_equal(again[one], again[other])
        assert np.array_equal(before[one], before[other])


def is_finite(session, token) -> bool:
    session.reset(1)
    try:
        session.step([token])
    except NonFiniteError:
        return False
    finally:
        session.reset(1)
    return True


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_prompts_of_different_lengths_generate_what_each_generates_alone(session, temperature):
    prompts = ["a", "bcd", "x" * 30, "quick"]
    options = {"max_new_tokens": 12, "temperature": temperature, "stop_ids": (5, 9)}
    together: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    for step in session.generate(prompts, **options):
        for row in np.flatnonzero(step.active):
            together[int(row)].append(int(step.tokens[row]))
        texts = [text + more for text, more in zip(texts, step.texts, strict=True)]
    assert step.finished.all()
    assert session.position == 0
    for number, prompt in enumerate(prompts):
        rows = number + 1 if temperature else 1  # a draw depends on the row
        steps = [s for s in session.generate([prompt] * rows, **options) if s.active[-1]]
        assert together[number] == [int(s.tokens[-1]) for s in steps]
        assert texts[number] == "".join(s.texts[-1] for s in steps)
        session.reset(1)
    assert len({len(row) for row in together}) > 1, "rows end at different times"


def test_token_ids_of_different_lengths_are_prompts_too(session):
    steps = list(session.generate([[3, 4, 5], [6]], max_new_tokens=2, stop_ids=()))
    assert len(steps) == 2
    session.prefill([[3]])
    with pytest.raises(InputError, match="reset it first"):
        session.generate([[3, 4, 5], [6]], max_new_tokens=2)
