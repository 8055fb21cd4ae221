"""The level kernels itself: what it judges, what it lists, and that it ends in time and leaves nothing running."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import BUDGETS
from causalrn.compiling import programs
from causalrn.errors import BundleError
from causalrn.runtimes.kernel_list import KernelList, Program, WholeKernel, list_kernels
from causalrn.runtimes.native import builds
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.kernels.answers import NoTimeError, ask
from causalrn.runtimes.parity.kernels.judging import between_runs, judge_answers
from causalrn.runtimes.parity.kernels.level import KernelLevel
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.session_options import SessionOptions
from tests.c_tools import needs_c_compiler

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(scope="module")
def answered(bundles):
    """A session, a case with a budget that is kept, and what the session answers."""
    bundle = Bundle.open(bundles["linear"])
    case = Case(load_golden(bundle).reference, BUDGETS["w8"], 0)
    with list_kernels(bundle, SessionOptions()).kernels[0].open(1) as session:
        yield session, case, ask(session, case.reference, 0)


def with_wrong(answers, words, error):
    """One answer is off by so much in every token."""
    made = []
    for answer in answers.all:
        if answer.words == words:
            run = dataclasses.replace(answer.trace.run, logits=answer.trace.run.logits.copy())
            run.logits[..., 0] += error
            answer = dataclasses.replace(answer, trace=dataclasses.replace(answer.trace, run=run))
        made.append(answer)
    return dataclasses.replace(answers, all=made)


@pytest.mark.parametrize("words", ["2+1+3 tokens, 7 sequences", "prefill of 5 at position 3", "steps, 1 sequence"])
def test_one_wrong_answer_of_thousands_breaks_a_budget(answered, words):
    session, case, answers = answered
    assert len(answers.all) > 500
    assert judge_answers("x", answers, case, session).passed
    wrong = judge_answers("x", with_wrong(answers, words, 0.1 * case.reference.largest_logit), case, session)
    assert not wrong.passed
    assert "off itself" in wrong.summary


def test_a_group_is_not_diluted_by_others_where_scales_depend_on_the_call(answered):
    session, case, answers = answered
    case = dataclasses.replace(case, budget=BUDGETS["w8a8-dynamic"])
    assert judge_answers("x", answers, case, session).passed
    wrong = answers
    for answer in answers.all:
        if answer.group == answer.words:
            wrong = with_wrong(wrong, answer.words, 0.3 * case.reference.largest_logit)
    result = judge_answers("x", wrong, case, session)
    assert not result.passed
    assert "sequences: off itself by 3.0e-01 > 0.25" in result.summary


def test_runs_without_or_with_other_parts_are_not_equal():
    one = np.zeros(3, np.float32)
    assert between_runs("threads", "", [one, one], [one, one]) == {"threads": (0.0, "")}
    for first, second in (([], []), ([one], []), ([one], [one, one])):
        assert between_runs("threads", "", first, second)["threads"][0] == math.inf


def level_of(list_them, seconds=60.0):
    return KernelLevel("native", list_them, None, time.monotonic() + seconds)


@pytest.mark.parametrize("error", [0.6, math.nan])
def test_program_that_is_beyond_what_a_budget_allows_fails(answered, error):
    reference = answered[1].reference
    right = reference.logits[-1].astype(np.float32)
    wrong = right.copy()
    wrong[3, 0] += error * reference.largest_logit
    programs = [WholeKernel("right", lambda tokens, _: right[: len(tokens)])]
    programs += [WholeKernel("wrong", lambda tokens, _: wrong[: len(tokens)])]
    level = level_of(lambda: KernelList((), programs))
    level.case = Case(reference, BUDGETS["w8a8-dynamic"], 0)
    results = level.check()
    assert [result.passed for result in results] == [True, False]
    assert results[1].summary.startswith("logits off by ")


def test_kernels_that_cannot_be_listed_are_a_failure_and_break_nothing_off():
    def refuse():
        raise BundleError("no module that runs here")

    level = level_of(refuse)
    level.prepare()
    assert [(result.passed, result.summary) for result in level.check()] == [(False, "no module that runs here")]
    level.close()


def test_closing_stops_what_is_being_prepared():
    outcomes, begun = [], threading.Event()

    def compile_long():
        begun.set()
        outcomes.append(programs.execute(SLEEP, 60.0))

    before = threading.active_count()
    level = level_of(lambda: KernelList([], preparations=[compile_long, compile_long]))
    level.prepare()
    assert begun.wait(30)
    while not programs._running:
        time.sleep(0.01)
    level.close()
    level._builder.shutdown(wait=True)
    assert [outcome.code for outcome in outcomes] == [-9]
    assert threading.active_count() == before


def test_programs_are_stopped_when_the_time_is_over():
    def run():
        outcome = programs.execute(SLEEP, 300.0)
        return outcome.code == 0, outcome.reason

    level = level_of(lambda: KernelList([], programs=[Program("x", run), Program("y", run)]), seconds=1.0)
    first, second = level.check()
    assert not first.passed
    assert "no answer in" in first.summary
    assert second.summary == str(NoTimeError())


def test_kernels_stop_answering_when_the_time_is_over(answered):
    session, case, _ = answered
    with pytest.raises(NoTimeError):
        ask(session, case.reference, 0, deadline=time.monotonic() - 1)


@needs_c_compiler
@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_threads_that_share_no_work_are_not_compared(c_bundles, readout, monkeypatch):
    bundle = Bundle.open(c_bundles[readout])
    monkeypatch.setattr(builds, "missing_tools", list)
    listed = list_kernels(bundle, SessionOptions())
    assert listed.shared_rows == (512 if readout == "exact" else None)
    listed = dataclasses.replace(listed, kernels=listed.kernels[:1], whole=(), programs=(), preparations=())
    level = level_of(lambda: listed)
    level.case = Case(load_golden(bundle).reference, None, 0)
    (result,) = level.check()
    assert result.passed
    assert set(result.figures.claimed) == {"prefill", "batch"}
    assert level.threads == ()
    assert "causalrn_threads.c" not in level.executed
    assert level.most_sequences == 65


@pytest.mark.parametrize("there", [*builds.ARM_EMULATORS, ""])
def test_either_name_of_the_emulator_is_taken(there, monkeypatch):
    monkeypatch.setattr(builds, "find_tool", lambda *names: there if there in names else None)
    assert builds.arm_emulator()[0] == (there or builds.ARM_EMULATORS[0])
