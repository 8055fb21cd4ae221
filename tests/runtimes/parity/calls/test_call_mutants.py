"""Wrong sessions are caught by the levels calls and guards: with a checkpoint, and with what a device has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes.opening import open_bundle, target_of
from causalrn.runtimes.parity.calls import level as calls_level
from causalrn.runtimes.parity.calls.level import CallsCheck
from causalrn.runtimes.parity.calls.oracle_table import make_table
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.guards.level import check_guards
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import sample_tokens, state_positions
from causalrn.runtimes.session_options import SessionOptions
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.workflows.export_targets import export_bundle, export_c_bundle
from tests.builders import random_model
from tests.c_tools import HAS_C_COMPILER
from tests.runtimes.parity.calls.call_mutants import MUTANTS

_SIZES = {"embedding": 16, "hidden": 16, "blocks": 1}
_MODELS = {
    "short": {"readout": "exact", "capacity": 80, **_SIZES},
    "linear": {"readout": "linear", "capacity": 80, **_SIZES},
    "long": {"readout": "exact", "capacity": 530, **_SIZES},
}


@dataclass(frozen=True)
class Subject:
    """A bundle, and what its calls are compared with: the oracle's table, and golden vectors'."""

    bundle: Bundle
    table: CallTable
    golden: CallTable

    def open(self, threads=None, damage=lambda session: None):
        session = open_bundle(self.bundle, SessionOptions(threads=threads or 1))
        damage(session)
        return session

    def check_calls(self, table, damage=lambda session: None, seed=0):
        row = target_of(self.bundle)
        with self.open(None, damage) as session:
            check = CallsCheck(
                row.runtime, session, table, partial(self.open, damage=damage), seed=seed, has_threads=row.has_threads
            )
            return check.run(math.inf)

    def check_guards(self, table, damage=lambda session: None):
        return check_guards(self.bundle.manifest.target, table.tokens, lambda: self.open(None, damage), None)


def _subject(run, bundle):
    checkpoint, opened = load_checkpoint(run), Bundle.open(bundle)
    oracle = CheckpointOracle(checkpoint.model, checkpoint.card)
    rng, capacity = np.random.default_rng(3), checkpoint.card.config.capacity
    steps = min(capacity or 80, 80)
    reference = oracle.reference(sample_tokens(checkpoint.card, rng, 2, steps), state_positions(steps))
    return Subject(opened, make_table(oracle, reference, rng, capacity), load_golden(opened).call_table())


@pytest.fixture(scope="session")
def subjects(share):
    """By name of the model; those in C only where there is a compiler."""

    def fill(folder):
        for name, options in _MODELS.items():
            model = random_model(**options)
            save_checkpoint(folder / name, model, ModelCard(model.config), {})
            if name == "long":
                if HAS_C_COMPILER:
                    export_c_bundle(folder / name, folder / f"{name}-bundle", COptions())
            else:
                export_bundle(folder / name, folder / f"{name}-bundle", pool="growing", capacity=None, opset=23)

    folder = share("call-subjects", fill)
    bundles = {name: folder / f"{name}-bundle" for name in _MODELS}
    return {name: _subject(folder / name, bundle) for name, bundle in bundles.items() if bundle.exists()}


def _found(mutant, subject, table):
    """What the report calls the fault; empty where it was not found."""
    if mutant.level == "guards":
        guards = subject.check_guards(table, mutant.damage).figures.guards
        return next((guard.name for guard in guards if not guard.passed), "")
    result = subject.check_calls(table, mutant.damage)
    return "" if result.passed else result.figures.calls.failing.calls[-1]


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("source", "part", "least"),
    [("table", slice(None, None, 8), 1.0), ("table", slice(None), 0.95), ("golden", slice(None), 0.90)],
    ids=["some, table", "table", "golden"],
)
def test_wrong_sessions_are_caught_and_the_call_is_named(subjects, source, part, least, monkeypatch):
    if source == "golden":  # the same walks: counting is enough
        monkeypatch.setattr(calls_level, "SHRINKING_SECONDS", 0.0)
    mutants = [mutant for mutant in MUTANTS if mutant.model in subjects][part]
    found = {m.name: _found(m, subjects[m.model], getattr(subjects[m.model], source)) for m in mutants}
    missed = [name for name, call in found.items() if not call]
    assert len(mutants) - len(missed) >= least * len(mutants), missed
    if source == "table":
        assert not {m.name: found[m.name] for m in mutants if found[m.name] and not found[m.name].startswith(m.last)}


@pytest.mark.cases(2)
@pytest.mark.parametrize(("model", "source"), [("short", "golden"), ("linear", "table"), ("long", "golden")])
def test_right_sessions_pass(subjects, model, source):
    if model not in subjects:
        pytest.skip("needs a C compiler: install gcc or clang")
    table = getattr(subjects[model], source)
    calls, guards = subjects[model].check_calls(table, seed=1), subjects[model].check_guards(table)
    assert calls.passed, calls.summary
    assert guards.passed, guards.summary
    assert calls.figures.calls.furthest == subjects[model].bundle.manifest.state.capacity
    assert {1, 6, 7, 64, 65} <= set(calls.figures.calls.batches)


def test_failing_walk_is_python_that_runs(subjects, tmp_path, monkeypatch):
    subject = subjects["short"]
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "no roll-back")
    failing = subject.check_calls(subject.table, mutant.damage).figures.calls.failing
    assert failing.repeats
    assert failing.calls == ("break off prefill(17) after part 1", "step()")
    given: list[np.ndarray] = []

    def recorded(path, *arguments):
        session = subject.open(None, mutant.damage)
        step = session.step
        monkeypatch.setattr(session, "step", lambda tokens: given.append(step(tokens)))
        return session

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(causalrn, "open_session", recorded)
    exec(compile(failing.python, "walk.py", "exec"), {})  # what the report tells people to run
    assert given[-1].shape == (1, 29)
    with subject.open() as right:  # its tokens are zeros: as simple as they can be
        assert "np.zeros(" in failing.python
        expected = right.prefill(np.zeros((1, failing.position + 1), int))[:, -1]
    assert np.abs(given[-1] - expected).max() / subject.table.largest > failing.allowed
