"""Calls as values: tables, walks, shrinking, and that quantized forms are judged by their budget."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import BUDGETS
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.errors import BundleError
from causalrn.runtimes import open_session
from causalrn.runtimes.parity.calls.call import Call, Course, Limits, fitting
from causalrn.runtimes.parity.calls.level import CallsCheck
from causalrn.runtimes.parity.calls.shrinking import shrink
from causalrn.runtimes.parity.calls.table import call_edges, known_positions
from causalrn.runtimes.parity.calls.walks import edge_walks, random_walk, thread_walks
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden

LIMITS = Limits(steps=80, capacity=80, batch=65, table_rows=4)


def test_edges_are_those_of_tiles_segments_and_the_end():
    assert {15, 16, 17, 31, 32, 33, 63, 64, 65, 79, 80} <= set(call_edges(80))
    assert {511, 512, 513, 529, 530} <= set(call_edges(530))
    assert max(call_edges(530)) == 530
    assert call_edges(2) == [1, 2]


def test_known_positions_hold_the_last_ones_and_edges():
    assert known_positions(40, 1000).tolist() == list(range(40))
    few = known_positions(2000, 60).tolist()
    assert len(few) == 60
    assert {1997, 1998, 1999, 1023, 1024, 1025, 511, 512, 513} <= set(few)


@pytest.mark.parametrize("limits", [LIMITS, Limits(2, 2, 1, 1), Limits(40, None, 3, 2)])
def test_all_calls_of_random_walks_make_sense(limits):
    for seed in range(30):
        walk = random_walk(limits, np.random.default_rng(seed))
        assert walk
        assert fitting(walk[:-1], limits) == walk[:-1]
    for walks in (edge_walks, thread_walks):
        assert all(fitting(walk, limits) for walk in walks(limits, np.random.default_rng(0)))


def test_walks_pass_what_has_been_wrong_before():
    seen, batches = set(), set()
    for walk in edge_walks(LIMITS, np.random.default_rng(0)):
        course = Course(LIMITS)
        for call in fitting(walk, LIMITS):
            seen.add((call.kind, call.count, course.position))
            course.take(call)
            batches.add(len(course.rows))
    assert {("prefill", 17, 0), ("prefill", 3, 41), ("prefill", 80, 0), ("step", 0, 64), ("step", 0, 79)} <= seen
    assert {("prefill", count, position) for count in (2, 3, 4) for position in range(81 - count)} <= seen
    assert {("prefill", count, 0) for count in range(1, 81)} <= seen
    assert {6, 7, 64, 65} <= batches


def test_shrinking_finds_the_shortest_walk():
    def fails(calls):
        """A prefill of 3 at 41, after a snapshot was taken."""
        course, taken = Course(LIMITS), False
        for call in calls:
            if taken and call.kind == "prefill" and call.count == 3 and course.position == 41:
                return True
            taken |= call.kind == "snapshot"
            course.take(call)
        return False

    noise = [Call("step"), Call("refuse", what="capacity"), Call("step"), Call("save", 1), Call("state")]
    walk = [
        Call("reset", rows=(3, 2, 1)),
        *noise,
        Call("prefill", 20),
        Call("snapshot", 2),
        *noise,
        Call("prefill", 17),
    ]
    walk += [Call("prefill", 3), *noise]
    assert fails(walk)
    shortest = shrink(walk, LIMITS, fails, math.inf)
    assert len(shortest) == 3
    assert [call for call in shortest if call.kind != "snapshot"] == [Call("prefill", 41), Call("prefill", 3)]


def _late(bundle, tmp_path, change):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / GOLDEN_NAME)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / GOLDEN_NAME)
    return seal_bundle(folder, Bundle.open(bundle).manifest)


@pytest.mark.cases(0)
def test_late_windows_reach_the_capacity_and_are_the_oracles(exact_bundle):
    golden = load_golden(Bundle.open(exact_bundle))
    late, reference = golden.late, golden.reference
    assert late is not None
    assert late.tokens.shape == (4, 40)
    assert late.positions.tolist() == list(range(40))
    assert np.array_equal(late.tokens[:2, : reference.steps], reference.tokens)
    assert np.abs(late.logits[:2, : reference.steps] - reference.logits).max() < 1e-6 * reference.largest_logit


def test_bundles_without_late_windows_open_and_walk_over_what_they_have(exact_bundle, tmp_path):
    older = _late(exact_bundle, tmp_path, lambda tensors: [tensors.pop(n) for n in list(tensors) if "late" in n])
    golden = load_golden(older)
    assert golden.late is None
    assert golden.call_table().tokens.shape == golden.reference.tokens.shape


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("late.tokens", lambda a: a + 29, "outside the vocabulary"),
        ("late.tokens", lambda a: (a + 1) % 29, "do not begin as the others"),
        ("late.tokens", lambda a: a.astype(np.int32), "late tokens"),
        ("late.positions", lambda a: a[::-1], "not in order"),
        ("late.positions", lambda a: a + 1, "outside the rows"),
        ("late.logits", lambda a: a * np.nan, "late logits"),
        ("late.logits", lambda a: a[:, :-1], "late logits"),
    ],
)
def test_damaged_late_windows_are_refused_in_one_line(exact_bundle, tmp_path, name, change, words):
    damaged = _late(exact_bundle, tmp_path, lambda tensors: tensors.update({name: change(tensors[name])}))
    with pytest.raises(BundleError, match=words):
        load_golden(damaged)


@pytest.mark.parametrize("damage", [None, 1.2])
def test_quantized_forms_are_compared_with_themselves(exact_bundle, tmp_path, damage):
    source = Bundle.open(exact_bundle)
    bundle = write_quantized(source, tmp_path, Scheme("w8", "nbits"))
    table = load_golden(bundle).call_table()
    budget = dataclasses.replace(BUDGETS["w8"], kl_divergence=5.0, argmax_changes=1.0)  # random weights

    def again(threads):
        session = open_session(bundle.path)
        advance = session._advance

        def off(tokens, *, single):
            logits = advance(tokens, single=single)
            return logits * np.float32(damage) if damage and tokens.shape[1] == 17 else logits

        session._advance = off
        return session

    with again(None) as session:
        result = CallsCheck("onnxruntime", session, table, again, budget=budget).run(math.inf)
    assert result.passed == (damage is None), result.summary
    if damage is not None:
        assert result.figures.calls.failing.calls == ("prefill(17)",)
