"""The cell as WebAssembly in Node: against the oracle, against native C bit for bit, and what its process does."""

import platform
import shutil

import numpy as np
import pytest
import torch

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import BUDGETS, TOLERANCES
from causalrn.errors import BundleError, InputError, NonFiniteError, RuntimeUnavailableError, StateError
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import open_session
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.torch_sessions import RecurrentSession, forward_with_streams
from causalrn.runtimes.web.node_session import NodeSession
from causalrn.training.card import ModelCard
from tests.builders import golden_case, overflowing_model, random_model, relative_error
from tests.c_tools import HAS_C_COMPILER, c_bundle
from tests.web_tools import needs_web, web_bundle

pytestmark = needs_web
TOKENS = np.random.default_rng(0).integers(0, 29, (1, 40))
LIMIT = TOLERANCES["float32", "node"].relative
CASES = {
    "exact": {},
    "exact, heads of 10 of 16 lanes": {"hidden": 30, "heads": 3, "embedding": 20},
    "exact, 4 heads, rms": {"heads": 4, "norm": "rms"},
    "exact, gelu, no post-norm": {"activation": "gelu", "post_norm": False},
    "exact, unbounded": {"positions": "none", "capacity": None},
    "linear": {"readout": "linear", "hidden": 44},
    "linear, rms": {"readout": "linear", "norm": "rms"},
    "linear, unbounded": {"readout": "linear", "positions": "none", "capacity": None},
    "plain": {"readout": "plain", "bias_head": True},
    "exact, eps": {"heads": 2, "norm_eps": 1e-2},
    "linear, eps": {"readout": "linear", "norm": "rms", "norm_eps": 1e-2},
}


def oracle(model, tokens):
    return model.oracle()(torch.from_numpy(tokens)).numpy()


def stepped(session, tokens=TOKENS):
    session.reset(1)
    return np.stack([session.step(tokens[:, t]) for t in range(tokens.shape[1])], axis=1)


def prefilled(session, tokens=TOKENS, *cuts):
    session.reset(1)
    return np.concatenate([session.prefill(part) for part in np.split(tokens, cuts, axis=1)], axis=1)


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_webassembly_is_the_model(tmp_path, options):
    model = random_model(**options)
    with NodeSession(web_bundle(model, tmp_path)) as session:
        logits = stepped(session)
        assert relative_error(logits, oracle(model, TOKENS)) <= LIMIT
        assert np.array_equal(prefilled(session), logits), "prefill differs from steps"
        assert np.array_equal(prefilled(session, TOKENS, 1, 20), logits), "another split differs"
        snapshot = session.snapshot()
        session.reset()
        session.restore(snapshot)
        assert all(np.array_equal(value, snapshot.tensors[name]) for name, value in session.snapshot().tensors.items())


@pytest.mark.cases(0)
@pytest.mark.skipif(not HAS_C_COMPILER, reason="needs a C compiler: install gcc or clang")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere C fuses products and sums, WebAssembly never")
@pytest.mark.parametrize(
    "options",
    [{}, {"scheme": "w8"}, {"pool_dtype": "float16"}, {"scheme": "w8a8-dynamic", "pool_dtype": "int8"}],
    ids=str,
)
@pytest.mark.parametrize("heads", [1, 2])
def test_webassembly_gives_the_bits_of_portable_c(tmp_path, options, heads):
    model = random_model(heads=heads, hidden=44, embedding=200)
    (tmp_path / "web").mkdir()
    with (
        NodeSession(web_bundle(model, tmp_path / "web", **options)) as node,
        NativeSession(c_bundle(model, tmp_path, **options), isa="portable") as native,
    ):
        logits = stepped(node)
        assert np.array_equal(logits, stepped(native))
    limit = LIMIT if not options else BUDGETS["w8"].repeat
    assert relative_error(logits, oracle(model, TOKENS)) <= limit


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["exact", "exact_heads2", "exact_rms", "linear"])
def test_webassembly_gives_the_authors_numbers(tmp_path, name):
    model, tokens, expected = golden_case(name)
    with NodeSession(web_bundle(model, tmp_path)) as session:
        assert relative_error(stepped(session, tokens.numpy()[:1]), expected[:1]) <= LIMIT


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", [{"hidden": 30, "heads": 3}, {"readout": "plain", "hidden": 30}], ids=str)
def test_state_of_another_runtime_is_taken_over(tmp_path, options):
    model = random_model(**options)
    other = RecurrentSession(RecurrentCell.from_model(model), ModelCard(model.config))
    other.prefill(TOKENS[:, :20])
    with NodeSession(web_bundle(model, tmp_path)) as session:
        taken = other.snapshot()
        session.restore(Snapshot(20, 1, taken.tensors, taken.logits, session.owner))
        assert relative_error(session.prefill(TOKENS[:, 20:]), oracle(model, TOKENS)[:, 20:]) <= LIMIT
        narrow = {name: value[..., 1:] for name, value in taken.tensors.items()}
        with pytest.raises(StateError, match="expected float32"):
            session.restore(Snapshot(20, 1, narrow, None, session.owner))


@pytest.mark.cases(0)
def test_pool_without_capacity_grows(tmp_path):
    model = random_model(positions="none", capacity=None)
    tokens = np.random.default_rng(2).integers(0, 29, (1, 700))
    with NodeSession(web_bundle(model, tmp_path)) as session:
        assert np.array_equal(prefilled(session, tokens), stepped(session, tokens))
        assert session.position == 700


def test_streams_are_what_the_oracle_reads(tmp_path):
    model = random_model(embedding=20)
    with NodeSession(web_bundle(model, tmp_path)) as session:
        plain = prefilled(session)
        session.reset(1)
        with session.probing():
            assert np.array_equal(session.prefill(TOKENS), plain), "looking changed the result"
            shown = session.streams
        assert np.array_equal(prefilled(session), plain)
    _, expected = forward_with_streams(model.oracle(), TOKENS)
    assert len(shown) == len(expected) == 3
    for stream, right in zip(shown, expected, strict=True):
        assert relative_error(stream, right) <= 1e-5


def test_overflow_takes_nothing(tmp_path):
    model = overflowing_model()
    with NodeSession(web_bundle(model, tmp_path)) as session:
        fine = TOKENS[:, :10] % 28
        expected = stepped(session, fine)
        session.reset()
        for position in range(10):
            for take in (lambda: session.step([28]), lambda: session.prefill([[3] * 100 + [28]])):
                with pytest.raises((NonFiniteError, InputError)):
                    take()
            assert session.position == position
            assert np.array_equal(session.step(fine[:, position]), expected[:, position])


def test_overflow_while_probing_takes_nothing(tmp_path):
    """Streams are shown in parts of 32 tokens; the fault lies in the second one."""
    model = overflowing_model()
    with NodeSession(web_bundle(model, tmp_path)) as session:
        expected = session.step([4])
        session.reset()
        with session.probing(), pytest.raises(NonFiniteError):
            session.prefill([[3] * 39 + [28]])
        assert session.position == 0
        assert np.array_equal(session.step([4]), expected)


def test_streams_of_long_prefills_without_capacity(tmp_path):
    model = random_model(positions="none", capacity=None)
    tokens = np.random.default_rng(2).integers(0, 29, (1, 600))
    with NodeSession(web_bundle(model, tmp_path)) as session, session.probing():
        session.prefill(tokens)
        shown = session.streams
    _, expected = forward_with_streams(model.oracle(), tokens)
    assert relative_error(shown[-1], expected[-1]) <= 1e-5


def test_interrupted_call_ends_the_session(tmp_path, monkeypatch):
    """What came next would be the answer of another call."""
    session = NodeSession(web_bundle(random_model(), tmp_path))

    def interrupt(count, deadline):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session._node, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.step([3])
    with pytest.raises(RuntimeUnavailableError, match="has been closed"):
        session.step([3])


def test_module_may_log_but_not_write(tmp_path):
    bundle = web_bundle(random_model(), tmp_path)
    module = bundle.path / "causalrn.js"
    text = module.read_text()
    module.write_text(text + "\nconsole.log('hello');")
    with NodeSession(bundle) as session:
        assert session.step([3]).shape == (1, 29)
    module.write_text(text + "\nprocess.stdout.write('hello, hello');")
    with pytest.raises(BundleError, match="writes to standard output"):
        NodeSession(bundle)


@pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "100%"])
def test_folders_may_have_any_name(tmp_path, name):
    bundle = web_bundle(random_model(), tmp_path / name)
    with NodeSession(bundle) as session:
        assert session.step([3]).shape == (1, 29)


def test_one_sequence_at_a_time(tmp_path):
    with NodeSession(web_bundle(random_model(), tmp_path)) as session:
        with pytest.raises(InputError, match="takes 1 sequences at most"):
            session.reset(2)
        assert session.step([3]).shape == (1, 29)


def test_closed_session_and_ended_process_say_so(tmp_path):
    bundle = web_bundle(random_model(), tmp_path)
    session = NodeSession(bundle)
    session.close()
    with pytest.raises(RuntimeUnavailableError, match="has been closed"):
        session.step([3])
    killed = NodeSession(bundle)
    killed._node._process.kill()
    killed._node._process.wait()
    with pytest.raises(RuntimeUnavailableError, match="node ended"):
        killed.step([3])


def test_missing_node_is_named(tmp_path, monkeypatch):
    bundle = web_bundle(random_model(), tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="node was not found: install nodejs"):
        NodeSession(bundle)


def test_module_that_does_not_run_is_named(tmp_path):
    bundle = web_bundle(random_model(), tmp_path)
    (bundle.path / "causalrn.js").write_text("nonsense(")
    with pytest.raises(RuntimeUnavailableError, match=r"node ended.*SyntaxError"):
        NodeSession(bundle)


@pytest.mark.parametrize("swap", ["weights.bin", "engine_simd.wasm"])
def test_files_of_another_model_are_refused(tmp_path, swap):
    """Hashes fit, sizes fit, and still they do not belong together."""
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
    other = web_bundle(random_model(1, heads=2), tmp_path / "1")
    bundle = web_bundle(random_model(0), tmp_path / "0")
    shutil.copyfile(other.path / swap, bundle.path / swap)
    with pytest.raises(BundleError, match="another model"), NodeSession(seal_bundle(bundle.path, bundle.manifest)):
        pass


def test_other_bundles_and_options_are_refused(tmp_path, exact_bundle):
    with pytest.raises(BundleError, match="a bundle for onnx, not for the web"):
        NodeSession(Bundle.open(exact_bundle))
    bundle = web_bundle(random_model(), tmp_path)
    with pytest.raises(InputError, match="`threads` 2 is onnxruntime's"):
        open_session(bundle.path, threads=2)
    with pytest.raises(InputError, match="`runtime` native does not run a bundle for web"):
        open_session(bundle.path, "native")


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "options",
    [{"readout": "linear"}, {"positions": "none", "capacity": None}, {"readout": "plain", "post_norm": False}],
    ids=str,
)
def test_onnxruntime_web_is_the_model(tmp_path, monkeypatch, ort_web_bundle, options):
    """Every kind of state: replaced and appended, bounded and growing. What npm fetched comes out of a bundle."""

    def copy_files(package, version, files, folder):
        for name in files.values():
            shutil.copyfile(ort_web_bundle / name, folder / name)

    monkeypatch.setattr("causalrn.export.web.web_exporter.fetch_files", copy_files)
    model = random_model(**options)
    tokens = TOKENS if model.config.capacity else np.random.default_rng(2).integers(0, 29, (1, 300))
    with NodeSession(web_bundle(model, tmp_path, engine="onnxruntime-web")) as session:
        logits = stepped(session, tokens)
        assert relative_error(logits, oracle(model, tokens)) <= LIMIT
        assert relative_error(prefilled(session, tokens, 20), logits) <= LIMIT
        session.reset()
        session.prefill(tokens[:, :20])
        snapshot, expected = session.snapshot(), session.step(tokens[:, 20])
        session.restore(snapshot)
        assert np.array_equal(session.step(tokens[:, 20]), expected)
        with pytest.raises(RuntimeUnavailableError, match="does not show"), session.probing():
            pass
