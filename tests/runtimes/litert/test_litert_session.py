"""LiteRT's session: verified at all levels, for batches too; what is not right is refused or fails."""

import shutil
import sys

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.export.litert.litert_exporter import MODEL_FILE
from causalrn.runtimes.litert.litert_session import LiteRTSession
from causalrn.runtimes.opening import open_session
from tests.converted_tools import names_swapped, needs, one_weight_off, reseal_changed

pytestmark = needs("litert")
TOKENS = np.random.default_rng(5).integers(3, 29, (3, 30))


@pytest.fixture
def copied(litert_bundles, tmp_path):
    """A copy of the exact bundle, for changes."""
    shutil.copytree(litert_bundles["exact"], tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_verify_passes(readout, litert_bundles, runs, call):
    code, out, err = call("verify", litert_bundles[readout], "--checkpoint", runs[readout], "--samples", 20)
    assert (code, out.splitlines()[-1]) == (0, "PASS"), out + err


def test_verify_passes_with_golden_vectors(litert_bundles, call):
    code, out, err = call("verify", litert_bundles["exact"])
    assert (code, out.splitlines()[-1]) == (0, "PASS"), out + err


MUTANTS = {
    "one weight off by 1e-3": one_weight_off,
    "two states swapped": lambda content, run: names_swapped(content, b"row_00_pool", b"row_01_pool"),
}


@pytest.mark.parametrize("mutate", MUTANTS.values(), ids=MUTANTS)
def test_a_changed_file_fails(mutate, copied, runs, call):
    reseal_changed(copied, MODEL_FILE, lambda content: mutate(content, runs["exact"]))
    for source in ([], ["--checkpoint", runs["exact"]]):
        code, out, _ = call("verify", copied, *source, "--level", "logits", "--level", "state")
        assert (code, out.splitlines()[-1]) == (1, "FAIL")


def take(session, tokens):
    """Logits of a prefill, a step and a prefill with some tokens left over: [B, 30, V]."""
    session.reset(len(tokens))
    parts = [session.prefill(tokens[:, :21]), session.step(tokens[:, 21])[:, None], session.prefill(tokens[:, 22:])]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_rows_of_a_batch_equal_single_sequences(readout, litert_bundles):
    with open_session(litert_bundles[readout]) as session:
        together = take(session, TOKENS)
        for row in range(len(TOKENS)):
            np.testing.assert_array_equal(together[row : row + 1], take(session, TOKENS[row : row + 1]))


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_a_state_file_goes_on_bit_for_bit(readout, litert_bundles, tmp_path):
    with open_session(litert_bundles[readout]) as session:
        session.reset(2)
        session.prefill(TOKENS[:2, :19])
        session.save(tmp_path / "state")
        expected = session.prefill(TOKENS[:2, 19:])
    with open_session(litert_bundles[readout]) as session:
        session.load(tmp_path / "state")
        np.testing.assert_array_equal(session.prefill(TOKENS[:2, 19:]), expected)


def test_a_malformed_file_is_refused(copied):
    reseal_changed(copied, MODEL_FILE, lambda content: content[:64])
    with pytest.raises(BundleError, match=r"model\.tflite: LiteRT cannot read it"):
        open_session(copied)


def test_other_names_than_the_manifest_are_refused(copied):
    reseal_changed(copied, MODEL_FILE, lambda content: content.replace(b"past_00_pool", b"past_00_tank"))
    with pytest.raises(BundleError, match="not the names of the manifest"):
        open_session(copied)


def test_another_shape_than_the_manifest_is_refused(copied, litert_bundles):
    shutil.copy(litert_bundles["short"] / MODEL_FILE, copied / MODEL_FILE)
    reseal_changed(copied, MODEL_FILE, lambda content: content)
    with pytest.raises(BundleError, match=r"expected float32 \[40, 1, 32\]"):
        open_session(copied)


def test_another_bundle_is_refused(exact_bundle):
    with pytest.raises(BundleError, match="not for LiteRT"):
        LiteRTSession(Bundle.open(exact_bundle))


def test_without_the_runtime_one_line_says_what_to_install(litert_bundles, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(RuntimeUnavailableError, match="pip install ai-edge-litert"):
        open_session(litert_bundles["exact"])


def test_threads_are_the_interpreters(litert_bundles):
    with open_session(litert_bundles["exact"], threads=2) as session:
        assert session.prefill(TOKENS[:1]).shape == (1, 30, 29)
        assert session.prefill(TOKENS[:1, :4]).shape == (1, 4, 29)
