"""The engine as a library: sessions that a caller opened, levels that a caller chose."""

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
