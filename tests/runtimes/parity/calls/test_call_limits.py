"""How far calls may be off, and where: quantized forms, bounds by position, calls that are not what they should be."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import BUDGETS
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes import open_session
from causalrn.runtimes.parity.calls import level as calls_level
from causalrn.runtimes.parity.calls import replay as calls_replay
from causalrn.runtimes.parity.calls.call import Call, Limits
from causalrn.runtimes.parity.calls.level import CallsCheck
from causalrn.runtimes.parity.calls.own_table import table_of_steps
from causalrn.runtimes.parity.calls.replay import Replay
from causalrn.runtimes.parity.calls.table import OTHER_TOKENS, CallTable, known_positions, table_of
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.late_windows import LateWindows
from causalrn.runtimes.parity.reference import current_values
from causalrn.workflows.export_targets import export_c_bundle
from causalrn.workflows.verify_options import VerifyOptions, chosen_budget
from tests.c_tools import HAS_C_COMPILER
from tests.runtimes.parity.calls.call_mutants import off

LOOSE = {"kl_divergence": 5.0, "argmax_changes": 1.0, "scale": 1.0, "offset": 1.0}  # of random weights


def _dynamic(target, bundles, runs, folder):
    if target == "onnx":
        return write_quantized(Bundle.open(bundles["exact"]), folder, Scheme("w8a8-dynamic"))
    if not HAS_C_COMPILER:
        pytest.skip("needs a C compiler: install gcc or clang")
    return export_c_bundle(runs["exact"], folder, COptions(scheme="w8a8-dynamic"))


def _adds(share, largest, when):
    """A session whose logits are off by a share of the largest |logit|, in calls of some kind."""

    def damage(session):
        advance = session._advance

        def wrong(tokens, *, single):
            logits = advance(tokens, single=single)
            if when(tokens, single):
                logits = logits.copy()
                logits[..., 3] += np.float32(share * largest)
            return logits

        session._advance = wrong

    return damage


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("target", "part", "when", "words"),
    [
        ("onnx", 0.4, lambda tokens, single: len(tokens) == 7, "off by"),
        ("onnx", 0.15, lambda tokens, single: not single, "calls differ from steps by"),
        ("c", 0.06, lambda tokens, single: len(tokens) == 7, "off by"),
        ("c", 0.01, lambda tokens, single: not single, "calls differ from steps by"),
    ],
)
def test_calls_with_dynamic_scales_have_bounds_of_their_own(target, part, when, words, bundles, runs, tmp_path):
    bundle = _dynamic(target, bundles, runs, tmp_path)
    table = load_golden(bundle).call_table()
    budget = chosen_budget(bundle, VerifyOptions(limits=LOOSE))
    damage = _adds(part, table.largest, when)

    def again(threads):
        session = open_session(bundle.path)
        damage(session)
        return session

    with pytest.MonkeyPatch.context() as patch, again(None) as session:
        patch.setattr(calls_level, "SHRINKING_SECONDS", 0.0)
        patch.setattr(calls_level, "RANDOM_WALKS", 0)
        patch.setattr(calls_level, "edge_walks", lambda limits, rng: iter(_WALKS))
        result = CallsCheck(bundle.manifest.target, session, table, again, budget=budget).run(math.inf)
        assert not result.passed
        assert words in result.summary
        del session._advance
        right = CallsCheck(bundle.manifest.target, session, table, again, budget=budget).run(math.inf)
        assert right.passed, right.summary


_WALKS = [
    [Call("reset", rows=(row,)), Call("prefill", 7), Call("step"), Call("prefill", 20), Call("prefill", 3)]
    for row in range(4)
]
_WALKS.append([Call("reset", rows=(0, 1, 2, 3, 2, 1, 0)), Call("step"), Call("prefill", 5), Call("step")])


def test_only_graphs_have_scales_that_depend_on_the_call():
    dynamic, rows = BUDGETS["w8a8-dynamic"], BUDGETS["w8a8-dynamic"].of_rows()
    assert dynamic.split < 0.4
    assert (rows.split, rows.between_calls.typical) == (BUDGETS["w8"].split, BUDGETS["w8"].typical)
    assert dynamic.between_calls.argmax_changes > dynamic.argmax_changes == rows.between_calls.argmax_changes
    assert dataclasses.replace(dynamic, argmax_changes=0.5).between_calls.argmax_changes == 0.5, "what a user allows"
    by_call = {"w8a8-dynamic", "bf16", "int8-activations"}  # the last two are precisions of a runtime, not schemes
    others = [budget for scheme, budget in BUDGETS.items() if scheme not in by_call]
    assert all(budget.of_rows() == budget == budget.between_calls for budget in others)


def _replay(session, table, folder):
    return Replay(session, table, Limits(table.steps, session.capacity, 4, len(table.tokens)), folder)


def test_prefills_that_nothing_broke_off_are_judged(exact_bundle, tmp_path):
    table = load_golden(Bundle.open(exact_bundle)).call_table()
    whole, broken = Call("break off", 9, prompt=5), Call("break off", 0, prompt=5)
    for damage, wrong in ((off(lambda call: call.length == 5), "off by"), (off(lambda call: False), "")):
        with open_session(exact_bundle) as session:
            damage(session)
            replay = _replay(session, table, tmp_path)
            problem = replay.run_all([Call("step"), broken, Call("step"), whole, Call("step")])
            assert replay.broken_off == 1
        assert (wrong in problem.words) if wrong else problem is None, problem


def test_what_puts_a_session_back_is_judged(exact_bundle, tmp_path):
    table = load_golden(Bundle.open(exact_bundle)).call_table()
    with open_session(exact_bundle) as session:
        off(lambda call: call.start == 0 and call.length == 4)(session)
        calls = [Call("prefill", 3), Call("step"), Call("break off", 9, prompt=5)]
        problem = _replay(session, table, tmp_path).run_all(calls)
    assert problem is not None
    assert problem.tensor == "logits"


def test_early_positions_are_always_known():
    for most in (1, 2, 60):
        assert {0, 16, 64, 1021, 1022, 1023} <= set(known_positions(1024, most).tolist())


def test_late_windows_that_know_nothing_below_the_capacity_are_left_out(exact_bundle):
    golden = load_golden(Bundle.open(exact_bundle))
    tokens = np.tile(golden.late.tokens, 2)
    late = LateWindows(tokens, np.array([41, 79]), golden.late.logits[:, :2])
    table = dataclasses.replace(golden, late=late).call_table().cut(40)
    assert table.largest == golden.reference.largest_logit
    assert len(table.known) == golden.reference.steps


def test_bounds_of_states_grow_with_the_position(exact_bundle, tmp_path, monkeypatch):
    reference = load_golden(Bundle.open(exact_bundle)).reference
    steps, tokens = reference.steps, np.tile(reference.tokens, 4)
    table = table_of(tokens, np.arange(steps), reference.logits, reference)
    bound = OTHER_TOKENS * reference.bounds.states["00.pool"]
    assert table.state_bound("00.pool", 4 * steps) == pytest.approx(2 * bound)
    position, values = min(reference.states), current_values
    monkeypatch.setattr(
        calls_replay, "current_values", lambda session: {n: (1 + 1.5 * bound) * v for n, v in values(session).items()}
    )
    with open_session(exact_bundle) as session:
        problem = _replay(session, table.cut(40), tmp_path).run_all([Call("prefill", position), Call("state")])
    assert problem is not None
    assert problem.allowed == pytest.approx(bound)


@pytest.mark.parametrize("most", [None, 1])
def test_steps_of_a_quantized_form_keep_the_time(exact_bundle, most):
    table = load_golden(Bundle.open(exact_bundle)).call_table()
    with open_session(exact_bundle) as session:
        session.max_batch = most
        short = table_of_steps("onnxruntime", session, table, BUDGETS["w8"], time.monotonic())
        whole = table_of_steps("onnxruntime", session, table, BUDGETS["w8"], math.inf)
    assert isinstance(short, CallTable)
    assert isinstance(whole, CallTable)
    assert (short.steps, whole.steps) == (16, 40)
    assert np.abs(short.logits - table.logits[:, :16]).max() < 1e-5 * table.largest
