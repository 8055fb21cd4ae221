"""The handles of crn_api.h, by the binding for Python: slots at their own positions, state files, what fails."""

import json
import struct
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from causalrn.export.c99 import amalgamation
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.state_file import load_state
from tests.builders import ROOT, overflowing_model, random_model
from tests.c_tools import c_bundle, needs_gcc

_BINDING = spec_from_file_location("crn", ROOT / "export" / "c99" / "bindings" / "python" / "crn.py")
crn: Any = module_from_spec(_BINDING)
sys.modules["crn"] = crn
_BINDING.loader.exec_module(crn)

pytestmark = needs_gcc
PLAIN = ("-O0", "-DCAUSALRN_NO_VECTORS")  # compiled in a moment
SHARED = ["gcc", "-std=c99", "-shared", "-fPIC", "-fvisibility=hidden", "-DCAUSALRN_PLAIN_API"]
MODELS = {
    "exact": ({}, {}),
    "exact, heads of 22": ({"heads": 2, "hidden": 44}, {}),
    "exact, pool8, w8": ({"heads": 2, "hidden": 44}, {"pool_dtype": "int8", "scheme": "w8"}),
    "exact, pool16": ({}, {"pool_dtype": "float16"}),
    "exact, unbounded": ({"positions": "none", "capacity": None}, {}),
    "exact, w8a8-dynamic": ({}, {"scheme": "w8a8-dynamic"}),
    "linear": ({"readout": "linear"}, {}),
    "linear, unbounded": ({"readout": "linear", "positions": "none", "capacity": None}, {}),
    "plain": ({"readout": "plain", "hidden": 44}, {}),
}
NO_SLOT, FULL, WRONG_TOKEN, NOT_STATE, MIXED, NOT_FINITE = 35, 11, 10, 37, 14, 12


def shared_library(bundle, folder: Path, *flags: str) -> Path:
    path = folder / "libcausalrn.so"
    sources = [bundle.path / "causalrn.c", bundle.path / "causalrn_api.c"]
    subprocess.run([*SHARED, *flags, *map(str, sources), "-lm", "-o", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A bundle and its shared library, by name."""
    made = {}

    def library(name, *flags):
        flags = flags or PLAIN
        if (name, flags) not in made:
            folder = tmp_path_factory.mktemp("handles")
            model, options = MODELS[name]
            bundle = c_bundle(random_model(**model), folder, **options)
            made[name, flags] = bundle, shared_library(bundle, folder, *flags)
        return made[name, flags]

    return library


def opened(bundle, path):
    return crn.Library(path, "causalrn").open(bundle.path / "weights.bin")


def tokens_of(count: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 29, count)]


def alone(bundle, tokens) -> np.ndarray:
    """Logits [T, V] of one sequence, step by step."""
    with NativeSession(bundle, flags=PLAIN) as session:
        return np.stack([session.step([token])[0] for token in tokens])


def stepped(session, tokens) -> np.ndarray:
    """The same, by a slot of its own."""
    slot = session.admit()
    rows = [session.step(slot, token) for token in tokens]
    session.release(slot)
    return np.array(rows, np.float32)


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", MODELS)
def test_sequences_at_their_own_positions_give_what_each_gives_alone(libraries, name):
    bundle, library = libraries(name, "-O1")
    sequences = {number: tokens_of(count, number) for number, count in enumerate((1, 40, 17, 3, 33, 40, 2))}
    rng = np.random.default_rng(5)
    with opened(bundle, library) as model, model.session() as session:
        expected = {number: stepped(session, tokens) for number, tokens in sequences.items()}
        slots = {number: session.admit() for number in sequences}
        taken = dict.fromkeys(sequences, 0)
        while any(taken[number] < len(tokens) for number, tokens in sequences.items()):
            some = [n for n in sequences if taken[n] < len(sequences[n]) and rng.random() < 0.7]
            counts = {
                n: int(rng.integers(1, len(sequences[n]) - taken[n] + 1)) if rng.random() < 0.3 else 1 for n in some
            }
            if not some:
                continue
            given = session.step_many({slots[n]: sequences[n][taken[n] : taken[n] + counts[n]] for n in some})
            for n in some:
                rows = np.array(given[slots[n]], np.float32)
                assert np.array_equal(rows, expected[n][taken[n] : taken[n] + counts[n]]), (n, taken[n])
                taken[n] += counts[n]


def test_prompts_of_different_lengths_longer_than_a_pass(libraries):
    bundle, library = libraries("exact, unbounded")
    sequences = {number: tokens_of(count, number) for number, count in enumerate((100, 1, 31, 64, 33))}
    with opened(bundle, library) as model, model.session() as session:
        slots = {number: session.admit() for number in sequences}
        given = session.step_many({slots[number]: tokens for number, tokens in sequences.items()})
        for number, tokens in sequences.items():
            assert np.array_equal(np.array(given[slots[number]], np.float32), alone(bundle, tokens))


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", MODELS)
def test_a_state_file_goes_on_as_if_nothing_had_been(libraries, tmp_path, name):
    bundle, library = libraries(name)
    tokens = tokens_of(30, 1)
    with opened(bundle, library) as model, model.session() as session:
        slot = session.admit()
        session.prefill(slot, tokens[:20])
        session.save(slot, tmp_path / "state")
        expected = session.prefill(slot, tokens[20:])
        assert session.save_bytes(slot) != (tmp_path / "state").read_bytes()
        other = session.admit()
        session.load(other, tmp_path / "state")
        assert session.position(other) == 20
        assert session.prefill(other, tokens[20:]) == expected
        fresh = session.admit()
        session.load_bytes(other, session.save_bytes(fresh))
        assert session.position(other) == 0
        assert session.prefill(other, tokens)[20:] == expected
    snapshot = load_state(tmp_path / "state")
    with NativeSession(bundle, flags=PLAIN) as native:
        native.prefill([tokens[:20]])
        own = native.snapshot()
    assert snapshot.position == 20
    assert snapshot.tensors.keys() == own.tensors.keys()
    assert all(np.array_equal(snapshot.tensors[key], own.tensors[key]) for key in own.tensors)
    assert snapshot.logits is not None
    assert np.array_equal(snapshot.logits, own.logits)


def test_a_copy_goes_its_own_way(libraries):
    bundle, library = libraries("linear")
    with opened(bundle, library) as model, model.session() as session:
        first = session.admit()
        session.prefill(first, [3, 4, 5])
        second = session.copy(first)
        assert session.logits(second) == session.logits(first)
        session.step(second, 7)
        assert session.position(first) == 3
        assert np.array_equal(np.array(session.step(first, 8), np.float32), alone(bundle, [3, 4, 5, 8])[-1])
        assert np.array_equal(np.array(session.step(second, 8), np.float32), alone(bundle, [3, 4, 5, 7, 8])[-1])


def test_calls_that_fail_change_nothing_and_concern_nobody_else(libraries):
    bundle, library = libraries("exact")
    capacity = bundle.manifest.state.capacity
    with opened(bundle, library) as model, model.session() as session:
        full, slot, gone = session.admit(), session.admit(), session.admit()
        session.release(gone)
        session.prefill(full, tokens_of(capacity, 2))
        for tokens, code, failed in (
            ({full: [1], slot: [2]}, FULL, (full,)),
            ({slot: [3], gone: [1]}, NO_SLOT, (gone,)),
            ({gone: [1], full: [29], slot: [4]}, NO_SLOT, (gone, full)),
            ({full: [1]}, FULL, (full,)),
        ):
            with pytest.raises(crn.CrnError) as error:
                session.step_many(tokens)
            assert (error.value.code, error.value.slots) == (code, failed)
        with pytest.raises(crn.CrnError, match="vocabulary"):
            session.prefill(slot, [1, 29])
        with pytest.raises(crn.CrnError, match="vocabulary"):
            session.step(slot, -1)
        with pytest.raises(crn.CrnError, match="capacity"):
            session.prefill(slot, [])
        assert session.position(slot) == 3
        assert np.array_equal(np.array(session.step(slot, 5), np.float32), alone(bundle, [2, 3, 4, 5])[-1])
        for call in (
            session.release,
            session.reset,
            session.copy,
            session.position,
            session.logits,
            session.save_bytes,
        ):
            with pytest.raises(crn.CrnError, match="slot"):
                call(gone)
        with pytest.raises(crn.CrnError, match="no token"):
            session.logits(session.admit())
    for capacity in (-1, 1000):
        with pytest.raises(crn.CrnError, match="capacity"):
            opened(bundle, library).session(capacity)


def test_one_slot_twice_in_a_call_is_refused(libraries):
    bundle, library = libraries("exact")
    with opened(bundle, library) as model, model.session() as session:
        slot = session.admit()
        given = (crn._Request * 2)()
        token = np.zeros(1, np.int32)
        for request in given:
            request.slot, request.time, request.tokens = slot, 1, token.ctypes.data
        assert model.library.api.step_many(session._handle, given, 2) == MIXED
        assert [request.code for request in given] == [0, MIXED]
        assert session.position(slot) == 1


def test_a_smaller_capacity_is_kept_to(libraries):
    for name in ("exact", "exact, unbounded", "linear, unbounded"):
        bundle, library = libraries(name)
        with opened(bundle, library) as model, model.session(capacity=9) as session:
            slot = session.admit()
            session.prefill(slot, tokens_of(9, 0))
            with pytest.raises(crn.CrnError, match="position"):
                session.step(slot, 1)
            with opened(bundle, library).session(8) as smaller, pytest.raises(crn.CrnError, match="position"):
                smaller.load_bytes(smaller.admit(), session.save_bytes(slot))


def test_numbers_that_overflow_leave_the_slot_and_its_neighbours_alone(tmp_path):
    bundle = c_bundle(overflowing_model(), tmp_path)
    library = shared_library(bundle, tmp_path, *PLAIN)
    bad = next(token for token in range(29) if not finite(bundle, token))
    good = next(token for token in range(29) if finite(bundle, token))
    with opened(bundle, library) as model, model.session() as session:
        one, other = session.admit(), session.admit()
        session.step_many({one: [good], other: [good]})
        with pytest.raises(crn.CrnError) as error:
            session.step_many({one: [good] * 36 + [bad], other: [good]})
        assert (error.value.code, error.value.slots) == (NOT_FINITE, (one,))
        assert (session.position(one), session.position(other)) == (1, 2)
        assert session.step(one, good) == session.logits(other)


def finite(bundle, token) -> bool:
    from causalrn.errors import NonFiniteError

    with NativeSession(bundle, flags=PLAIN) as session:
        try:
            session.step([token])
        except NonFiniteError:
            return False
        return True


def damaged_states(content: bytes):
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def file(changed, data=data):
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + data

    def changed(edit):
        copy = json.loads(json.dumps(header))
        edit(copy)
        return file(copy)

    name = next(key for key in header if key.startswith("state."))
    yield "nothing", b""
    yield "a few bytes", content[:7]
    yield "no header", content[:8]
    yield "a cut header", content[: 8 + length // 2]
    yield "cut data", content[:-1]
    yield "a length beyond the file", struct.pack("<Q", 1 << 62) + content[8:]
    yield "no JSON", struct.pack("<Q", 4) + b"[[[[" + data
    yield "deep JSON", struct.pack("<Q", 2000) + b"[" * 2000 + data
    yield "another format", changed(lambda h: h["__metadata__"].update(format="pt"))
    yield "a later version", changed(lambda h: h["__metadata__"].update(version="2"))
    yield "a batch", changed(lambda h: h["__metadata__"].update(batch="2"))
    if "pool" in name:
        yield "another position", changed(lambda h: h["__metadata__"].update(position="5"))
    yield "a position that is no number", changed(lambda h: h["__metadata__"].update(position="4x"))
    yield "a huge position", changed(lambda h: h["__metadata__"].update(position="99999999999999999999"))
    yield "a missing tensor", changed(lambda h: h.pop(name))
    yield "one tensor too many", changed(lambda h: h.update({"state.99.pool": h[name]}))
    yield "another dtype", changed(lambda h: h[name].update(dtype="F64"))
    yield "another shape", changed(lambda h: h[name]["shape"].reverse())
    yield "no offsets", changed(lambda h: h[name].pop("data_offsets"))
    yield "offsets beyond the data", changed(lambda h: h[name].update(data_offsets=[1 << 40, (1 << 40) + 512]))
    yield "offsets the wrong way", changed(lambda h: h[name]["data_offsets"].reverse())
    yield "no logits", changed(lambda h: h.pop("logits"))
    nan = bytearray(data)
    nan[2:4] = b"\xc0\x7f"
    yield "NaN", file(header, bytes(nan))


@pytest.mark.parametrize("name", ["exact", "linear"])
def test_damaged_state_files_are_refused_and_change_nothing(libraries, name):
    bundle, library = libraries(name)
    with opened(bundle, library) as model, model.session() as session:
        source, slot = session.admit(), session.admit()
        session.prefill(source, [3, 4, 5, 6])
        content = session.save_bytes(source)
        session.step(slot, 1)
        before = session.save_bytes(slot)
        for what, damaged in damaged_states(content):
            with pytest.raises(crn.CrnError) as error:
                session.load_bytes(slot, damaged)
            assert error.value.code == NOT_STATE, what
            assert session.save_bytes(slot) == before, what
        reordered = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        text = json.dumps(dict(reversed(reordered.items())), indent=2).encode()
        session.load_bytes(
            slot, struct.pack("<Q", len(text)) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]
        )
        assert session.save_bytes(slot) == content


def test_states_of_other_checkpoints_and_arithmetics_are_refused(libraries, tmp_path):
    states = {}
    for name in ("exact", "exact, pool16", "exact, w8a8-dynamic", "linear"):
        bundle, library = libraries(name)
        with opened(bundle, library) as model, model.session() as session:
            slot = session.admit()
            session.prefill(slot, [3, 4])
            states[name] = session.save_bytes(slot)
            for other, content in states.items():
                if other != name:
                    words = "not a state file|another checkpoint|another arithmetic"
                    with pytest.raises(crn.CrnError, match=words):
                        session.load_bytes(slot, content)


def test_files_that_are_not_there_or_cannot_be(libraries, tmp_path):
    bundle, path = libraries("exact")
    library = crn.Library(path, "causalrn")
    for weights, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "cannot be read"),
        (path, "not a weights"),
    ):
        with pytest.raises(crn.CrnError, match=words):
            library.open(weights)
    content = (bundle.path / "weights.bin").read_bytes()
    for wrong, words in ((content + b"x", "another model"), (content[:-1], "truncated"), (b"", "truncated")):
        with pytest.raises(crn.CrnError, match=words):
            library.open(wrong)
    with pytest.raises(crn.CrnError, match="compiled in"):
        library.open()
    with library.open(content) as model, model.session() as session:
        with pytest.raises(crn.CrnError, match="cannot be written"):
            session.save(session.admit(), tmp_path / "none" / "state")
        with pytest.raises(crn.CrnError, match="cannot be read"):
            session.load(0, tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_a_model_says_what_it_is_and_takes_kernels(libraries):
    bundle, library = libraries("exact, pool8, w8", "-O1")
    with opened(bundle, library) as model:
        info = model.info
        assert info.checkpoint.decode() == bundle.manifest.checkpoint_sha256
        assert (info.vocabulary, info.capacity, info.arithmetic) == (29, 40, b"w8+pool8")
        assert info.weights_bytes == (bundle.path / "weights.bin").stat().st_size
        assert model.use_kernel(crn.PORTABLE) == crn.PORTABLE
        assert model.info.kernel_name == b"portable"
        with model.session() as session, NativeSession(bundle, isa="portable") as portable:
            assert np.array_equal(np.array(session.step(session.admit(), 5), np.float32), portable.step([5])[0])
        assert model.use_kernel(crn.BEST) == max(model.use_kernel(kernel) for kernel in (0, 1, 2))


def test_a_session_keeps_the_kernel_that_it_was_opened_with(libraries):
    """Else slots of one session would compute with different ones, and no longer together."""
    bundle, library = libraries("exact, pool8, w8", "-O1")
    with opened(bundle, library) as model, model.session() as session:
        first = session.admit()
        expected = session.step(first, 5)
        assert model.use_kernel(crn.PORTABLE) == crn.PORTABLE
        second, third = session.admit(), session.copy(first)
        rows = session.step_many({second: [5, 3], third: [3]})
        assert rows[second][0] == expected
        assert rows[second][1] == rows[third][0]


def test_weights_that_are_compiled_in(tmp_path):
    bundle = c_bundle(random_model(), tmp_path, weights="inline")
    with crn.Library(shared_library(bundle, tmp_path, *PLAIN), "causalrn").open() as model, model.session() as session:
        assert np.array_equal(np.array(session.step(session.admit(), 5), np.float32), alone(bundle, [5])[0])


def test_the_api_is_one_file_of_its_pieces(libraries):
    bundle, _ = libraries("exact")
    assert (bundle.path / "causalrn_api.c").read_text() == amalgamation.amalgamated_api()


@pytest.mark.parametrize("name", ["exact", "linear, unbounded"])
def test_random_calls_over_slots_replay_bit_for_bit(libraries, name):
    bundle, library = libraries(name)
    model = opened(bundle, library)

    class Slots(RuleBasedStateMachine):
        """Joins, leaves, saves, loads and failing calls; what a slot holds is what its tokens give alone."""

        @initialize()
        def open(self):
            self.session, self.tokens, self.files = model.session(), {}, []

        @rule()
        def join(self):
            slot = self.session.admit()
            assert slot not in self.tokens
            self.tokens[slot] = []

        @precondition(lambda self: self.tokens)
        @rule(data=st.data())
        def step(self, data):
            slots = data.draw(st.lists(st.sampled_from(sorted(self.tokens)), min_size=1, unique=True))
            given = {slot: data.draw(st.lists(st.integers(0, 28), min_size=1, max_size=8)) for slot in slots}
            room = bundle.manifest.state.capacity
            fits = {slot: room is None or len(self.tokens[slot]) + len(ids) <= room for slot, ids in given.items()}
            try:
                self.session.step_many(given)
                assert all(fits.values())
            except crn.CrnError as error:
                assert error.slots == tuple(slot for slot in given if not fits[slot])  # noqa: PT017 - either way is checked
            for slot, ids in given.items():
                self.tokens[slot] += ids if fits[slot] else []

        @precondition(lambda self: self.tokens)
        @rule(data=st.data(), how=st.sampled_from(["leave", "reset", "copy", "save", "load", "fail"]))
        def change(self, data, how):
            slot = data.draw(st.sampled_from(sorted(self.tokens)))
            if how == "leave":
                self.session.release(slot)
                del self.tokens[slot]
            elif how == "reset":
                self.session.reset(slot)
                self.tokens[slot] = []
            elif how == "copy":
                self.tokens[self.session.copy(slot)] = [*self.tokens[slot]]
            elif how == "save":
                self.files.append((self.session.save_bytes(slot), [*self.tokens[slot]]))
            elif how == "load" and self.files:
                content, tokens = data.draw(st.sampled_from(self.files))
                self.session.load_bytes(slot, content)
                self.tokens[slot] = [*tokens]
            else:
                with pytest.raises(crn.CrnError):
                    self.session.step(slot, 29)

        def teardown(self):
            for slot, tokens in self.tokens.items():
                assert self.session.position(slot) == len(tokens)
                if tokens:
                    assert np.array_equal(np.array(self.session.logits(slot), np.float32), alone(bundle, tokens)[-1])
            self.session.close()

    run = settings(max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    Slots.TestCase.settings = run
    Slots.TestCase().runTest()
    model.close()
