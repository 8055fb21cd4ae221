"""The engine as a library: sessions that a caller opened, levels that a caller chose."""

import json
import time

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.parity.attribution import Comparators
from causalrn.runtimes.parity.drift import RecordedLongReference
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.plan import Plan
from causalrn.runtimes.parity.verification import Verification
from causalrn.training.tasks import CopyTask


def _verification(bundle, session, plan):
    golden = load_golden(bundle)
    return Verification(
        {"onnxruntime": session},
        Case(golden.reference),
        plan,
        RecordedLongReference(golden.reference),
        lambda name, threads: OnnxRuntimeSession(bundle, threads=threads or 1),
        Comparators(peers={}),
        golden=golden,
    )


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_levels_run_on_a_callers_session(bundles, readout):
    bundle = Bundle.open(bundles[readout])
    with OnnxRuntimeSession(bundle) as session:
        verification = _verification(bundle, session, Plan(levels=("logits", "state", "split")))
        verification.run()
    assert [(result.level, result.runtime) for result in verification.results] == [
        ("logits", "onnxruntime"),
        ("logits", "onnxruntime, recorded"),
        ("state", "onnxruntime"),
        ("state", "onnxruntime, resumed"),
        ("split", "onnxruntime"),
    ]
    assert not verification.failed
    assert not verification.attributions
    assert verification.outputs["onnxruntime.logits"].shape == verification.case.reference.logits.shape


def test_failure_is_attributed_once_and_stops_where_asked(bundles):
    bundle = Bundle.open(bundles["exact"])
    with OnnxRuntimeSession(bundle) as session:
        advance = session._advance
        session._advance = lambda tokens, *, single: advance(tokens, single=single) * 1.01
        plan = Plan(levels=("logits", "state", "split"), fail_fast=True)
        verification = _verification(bundle, session, plan)
        verification.run()
    assert verification.failed
    assert verification.not_checked == ["state", "split"]
    (attribution,) = verification.attributions
    assert (attribution.tensor, attribution.place) == ("logits", "head")


def test_levels_without_time_or_subject_are_named(bundles):
    bundle = Bundle.open(bundles["exact"])
    with OnnxRuntimeSession(bundle) as session:
        plan = Plan(levels=("logits", "task", "split"), deadline=time.monotonic())
        verification = _verification(bundle, session, plan)
        verification.run()
    assert verification.results == []
    assert verification.not_checked == ["logits", "split"]
    assert verification.impossible == ["task"]  # no examples were given


def test_what_has_nothing_to_be_compared_with_has_no_verdict(bundles, call, tmp_path):
    """One way to answer the task, and a provider of which nothing is claimed: shown, and no pass."""
    bundle, task = Bundle.open(bundles["exact"]), CopyTask(8)
    with OnnxRuntimeSession(bundle) as session:
        plan = Plan(levels=("task", "determinism"), task=task, examples=task.draw("verify", 3))
        verification = _verification(bundle, session, plan)
        verification.provider = "cuda"
        verification.run()
    assert [(r.level, r.runtime) for r in verification.measured] == [
        ("task", "onnxruntime, steps"),
        ("determinism", "onnxruntime"),
    ]
    assert verification.measured[1].summary.startswith("nothing is claimed; equal here: repeat")
    assert [(r.level, r.runtime) for r in verification.results] == [("task", "onnxruntime, prefill")]
    assert [result.figures.examples for result in (*verification.measured[:1], *verification.results)] == [3, 3]


def test_verification_that_compared_nothing_fails(call, bundles, runs, tmp_path):
    """The trained form's accuracy alone is no comparison; the same with a gate is one."""
    places = tmp_path / "r.json", tmp_path / "r.html"
    only = ("--checkpoint", runs["exact"], "--runtime", "parallel", "--level", "task", "--samples", 5)
    code, out, _ = call("verify", bundles["exact"], *only, "--json", places[0], "--html", places[1])
    assert code == 1
    assert "nothing was compared" in out
    report = json.loads(places[0].read_text())
    assert report["results"] == []
    assert [row["form"] for row in report["measured"]] == ["parallel"]
    assert 'data-figure="measured.0.figures.after.accuracy"' in places[1].read_text()
    assert call("verify", bundles["exact"], *only, "--min-accuracy", 0)[0] == 0
