"""The level guards: what a session or a bundle that lets something pass looks like in the report."""

from __future__ import annotations

import numpy as np
import pytest

from causalrn.bundle import bundle_folder
from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import StateError
from causalrn.runtimes import open_session
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.parity.guards import damaged_bundles
from causalrn.runtimes.parity.guards.damaged_bundles import damaged_bundle_guards
from causalrn.runtimes.parity.guards.level import check_guards


def _files(folder):
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_damaged_copies_are_refused_and_the_bundle_stays_as_it_is(exact_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = _files(exact_bundle)
    guards, left = damaged_bundle_guards(exact_bundle)
    assert not left
    assert _files(exact_bundle) == before
    assert not list(tmp_path.iterdir())
    assert all(guard.passed for guard in guards), guards
    names = {guard.name for guard in guards}
    assert {"one bit of weights.bin flipped", "one bit of prefill.onnx flipped", "no manifest"} <= names
    assert any(name.endswith("missing") for name in names)


@pytest.mark.parametrize("skipped", ["size", "hash"])
def test_bundles_that_open_although_they_are_damaged_are_named(exact_bundle, monkeypatch, skipped):
    def check(path, entry, verb):
        if skipped == "size" and path.stat().st_size != entry.size_bytes:
            return
        if skipped == "hash" and path.stat().st_size == entry.size_bytes:
            return
        right(path, entry, verb)

    right = bundle_folder._check_file
    monkeypatch.setattr(bundle_folder, "_check_file", check)
    failed = {guard.name for guard in damaged_bundle_guards(exact_bundle)[0] if not guard.passed}
    expected = "a byte short" if skipped == "size" else "flipped"
    assert any(expected in name for name in failed)
    assert "no manifest" not in failed


def test_session_that_lets_something_pass_fails_with_its_name(exact_bundle):
    tokens, opened = np.arange(24).reshape(2, 12), Bundle.open(exact_bundle)

    def lax():
        session = OnnxRuntimeSession(opened)
        checked = session._checked
        session._checked = lambda tokens: checked(np.abs(tokens) if tokens.dtype.kind in "iu" else tokens)
        return session

    result = check_guards("onnxruntime", tokens, lax, None)
    assert not result.passed
    assert result.summary == "negative token id: not refused"
    good = check_guards("onnxruntime", tokens, lambda: OnnxRuntimeSession(opened), exact_bundle)
    assert good.passed, good.summary
    assert len(good.figures.guards) > 40


def test_copies_that_cannot_be_opened_without_damage_are_no_guards(exact_bundle, monkeypatch):
    monkeypatch.setattr(damaged_bundles, "_link", lambda path, link: None)
    (guard,), left = damaged_bundle_guards(exact_bundle)
    assert (guard.name, guard.passed, left) == ("an undamaged copy", False, 0)


def test_runtimes_that_take_half_of_the_weights_are_named(exact_bundle, monkeypatch):
    monkeypatch.setattr(damaged_bundles, "open_bundle", lambda bundle, options, runtime: open_session(exact_bundle))
    (failed,) = [guard for guard in damaged_bundle_guards(exact_bundle)[0] if not guard.passed]
    assert failed.name.startswith("half of weights.bin")
    assert failed.outcome == "opened without a word"


@pytest.mark.cases(1)
@pytest.mark.parametrize("found", ["c_bundles", "web_bundles"])
def test_other_runtimes_refuse_half_of_the_weights(found, request):
    guards, _ = damaged_bundle_guards(request.getfixturevalue(found)["exact"])
    assert all(guard.passed for guard in guards), guards
    assert guards[-1].name.startswith("half of weights.bin")


def test_copies_keep_the_time(exact_bundle):
    guards, left = damaged_bundle_guards(exact_bundle, 0.0)
    assert not guards
    assert left > 5
    tokens, opened = np.arange(24).reshape(2, 12), Bundle.open(exact_bundle)
    result = check_guards("onnxruntime", tokens, lambda: OnnxRuntimeSession(opened), exact_bundle, 0.0)
    assert f"no time was left for {left} damaged bundles" in result.summary


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_state_that_is_no_number_is_refused(bundles, number):
    for readout in ("exact", "linear"):
        with open_session(bundles[readout]) as session:
            session.prefill([[1, 2, 3]])
            snapshot = session.snapshot()
            next(iter(snapshot.tensors.values())).flat[5] = number
            with pytest.raises(StateError, match="NaN or infinity"):
                session.restore(snapshot)
            assert session.position == 3


def test_snapshot_of_position_zero_goes_back_into_c(c_bundles):
    assert Bundle.open(c_bundles["exact"]).manifest.native is not None
    with open_session(c_bundles["exact"]) as session:
        empty = session.snapshot()
        first = session.prefill([[1, 2, 3]])
        session.restore(empty)
        assert session.prefill([[1, 2, 3]]).tobytes() == first.tobytes()
