"""States move between bundles of one checkpoint, whatever computes them, and nowhere else."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.state_origin import StateOrigin, name_arithmetic
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import CapacityError, StateError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import Session, open_session
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.workflows.export_targets import export_bundle, export_c_bundle
from tests.builders import random_model, relative_error
from tests.c_tools import HAS_C_COMPILER
from tests.executorch_tools import ROW as EXECUTORCH
from tests.ov_tools import HAS_OPENVINO
from tests.web_tools import HAS_WEB

SHORT, TIME, CUT = 30, 24, 9
POOLS = ("growing", "short", "fixed", "concat", "openvino", "c", "c short", "c portable", "web", "recurrent")
SUMS = ("growing", "short", "openvino", "c", "c portable", "web", "recurrent")
KINDS = [*(("exact", name) for name in POOLS), *(("linear", name) for name in SUMS)]
KINDS += [("plain", name) for name in ("growing", "c", "recurrent")]
PAIRS = [
    (readout, source, target)
    for readout, source in KINDS
    for other, target in KINDS
    if readout == other and source != target
]
SAME_BITS = [
    ("exact", "growing", "short"),
    ("exact", "short", "growing"),
    ("linear", "growing", "short"),
    ("exact", "c", "c short"),
    ("exact", "c short", "c"),
    ("exact", "c portable", "web"),
    ("exact", "web", "c portable"),
    ("linear", "c portable", "web"),
    ("linear", "web", "c portable"),
]
"""The same operations in the same order: graphs that differ in the capacity, and C without fused products."""


@pytest.fixture(scope="module")
def folders(runs, bundles, fixed_bundle, share, request):
    """What is opened, by readout and name; `quantized` of the exact RUN."""

    def fill(folder):
        for readout in ("exact", "linear"):
            export_bundle(runs[readout], folder / f"short-{readout}", pool="growing", capacity=SHORT, opset=23)
        export_bundle(runs["exact"], folder / "concat", pool="concat", capacity=None, opset=23)
        if HAS_C_COMPILER:
            export_c_bundle(runs["exact"], folder / "c-short", COptions(SHORT))

    shared = share("moved-states", fill)
    named = {(readout, "recurrent"): run for readout, run in runs.items()}
    for readout, bundle in bundles.items():
        named |= {(readout, "growing"): bundle, (readout, "openvino"): bundle}
    named |= {(readout, "short"): shared / f"short-{readout}" for readout in ("exact", "linear")}
    named |= {("exact", "fixed"): fixed_bundle, ("exact", "concat"): shared / "concat"}
    if HAS_C_COMPILER:
        named["exact", "c short"] = shared / "c-short"
        for readout, bundle in request.getfixturevalue("c_bundles").items():
            named |= {(readout, "c"): bundle, (readout, "c portable"): bundle}
    if HAS_WEB:
        named |= {(readout, "web"): path for readout, path in request.getfixturevalue("web_bundles").items()}
    return named


@pytest.fixture(scope="module")
def sessions(folders):
    """Gives a session of a kind, opened once; tests reset them."""
    opened: dict[tuple[str, str], Session] = {}

    def get(readout, name):
        if (name == "openvino" and not HAS_OPENVINO) or (readout, name) not in folders:
            package = {"openvino": "pip install 'causalrn[openvino]'", "web": "clang, lld and nodejs"}
            pytest.skip(f"needs {package.get(name, 'a C compiler: install gcc or clang')}")
        if (readout, name) not in opened:
            path = folders[readout, name]
            runtime = name if name in ("openvino", "recurrent") else None
            opened[readout, name] = (
                NativeSession(Bundle.open(path), isa="portable") if "portable" in name else open_session(path, runtime)
            )
        session = opened[readout, name]
        session.reset(1)
        return session

    yield get
    for session in opened.values():
        session.close()


@pytest.fixture(scope="module")
def references(runs):
    """By readout: the oracle, and the recurrent form in float64."""
    made = {}
    for readout, run in runs.items():
        checkpoint = load_checkpoint(run)
        cell = RecurrentCell.from_model(checkpoint.model, dtype=torch.float64)
        made[readout] = checkpoint.model.oracle(), RecurrentSession(cell, checkpoint.card)
    return made


def tokens_of(seed=0, batch=1, time=TIME):
    return np.random.default_rng(seed).integers(0, 29, (batch, time))


def go_on(session, tokens):
    """The last tokens: steps, then a prefill."""
    start = session.position
    parts = [session.step(tokens[:, start + index])[:, None] for index in range(8)]
    return np.concatenate([*parts, session.prefill(tokens[:, start + 8 :])], axis=1)


def logit_error(references, readout, session, tokens, logits):
    """Of the last logits, against the oracle, as a share of what is allowed."""
    expected = references[readout][0](torch.from_numpy(tokens)).numpy()
    allowed = TOLERANCES["float32", session.runtime].relative * np.abs(expected).max()
    return float(np.abs(logits - expected[:, -logits.shape[1] :]).max() / allowed)


def state_error(references, readout, session, tokens):
    """Of the state, against the recurrent form in float64, likewise; NaN is an error."""
    reference = references[readout][1]
    reference.reset(len(tokens))
    reference.prefill(tokens)
    expected = reference.snapshot().tensors
    allowed = TOLERANCES["float32", session.runtime].state_relative
    values = session.snapshot().tensors
    return max(relative_error(values[name], value) / allowed for name, value in expected.items())


@pytest.mark.cases(20)
@pytest.mark.parametrize(("readout", "source", "target"), PAIRS, ids=[" to ".join(pair) for pair in PAIRS])
def test_state_goes_on_in_another_bundle_of_its_checkpoint(sessions, references, tmp_path, readout, source, target):
    tokens, path = tokens_of(), tmp_path / "state.safetensors"
    first, second = sessions(readout, source), sessions(readout, target)
    first.prefill(tokens[:, :CUT])
    first.save(path)
    second.load(path)
    taken, moved = first.snapshot(), second.snapshot()
    assert (moved.position, moved.batch) == (CUT, 1)
    assert np.array_equal(moved.logits, taken.logits)
    assert all(np.array_equal(moved.tensors[name], value) for name, value in taken.tensors.items())
    logits = go_on(second, tokens)
    assert logit_error(references, readout, second, tokens, logits) <= 1
    assert state_error(references, readout, second, tokens) <= 1
    second.save(path)  # and back
    first.load(path)
    assert all(np.array_equal(first.snapshot().tensors[n], v) for n, v in second.snapshot().tensors.items())


@pytest.mark.parametrize(("readout", "source", "target"), SAME_BITS, ids=[" to ".join(pair) for pair in SAME_BITS])
def test_bundles_of_the_same_arithmetic_go_on_bit_for_bit(sessions, readout, source, target):
    tokens = tokens_of(1)
    first, second = sessions(readout, source), sessions(readout, target)
    first.prefill(tokens[:, :CUT])
    second.restore(first.snapshot())
    logits, expected = go_on(second, tokens), go_on(first, tokens)
    assert np.array_equal(logits, expected)
    assert all(np.array_equal(second.snapshot().tensors[n], v) for n, v in first.snapshot().tensors.items())


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sequence_may_change_bundles_at_any_token(sessions, folders, references, readout, data):
    """A batch, too, where no session in turn is of one sequence."""
    names = sorted(name for of, name in folders if of == readout and (name != "openvino" or HAS_OPENVINO))
    cuts = sorted(data.draw(st.sets(st.integers(1, TIME - 1), max_size=6)))
    order = data.draw(st.lists(st.sampled_from(names), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    batch = 1 if "web" in order else data.draw(st.integers(1, 3))
    tokens, parts, snapshot = tokens_of(data.draw(st.integers(0, 5)), batch), [], None
    for name, start, end in zip(order, [0, *cuts], [*cuts, TIME], strict=True):
        session = sessions(readout, name)
        session.reset(batch)
        if snapshot is not None:
            session.restore(snapshot)
        parts.append(session.prefill(tokens[:, start:end]))
        snapshot = session.snapshot()
    logits = np.concatenate(parts, axis=1)
    assert logit_error(references, readout, session, tokens, logits) <= 1
    assert state_error(references, readout, session, tokens) <= 1


@pytest.mark.parametrize("wrong", ["swapped", "a row moved", "one value"])
@pytest.mark.parametrize(("source", "target"), [("growing", "c"), ("c", "growing")])
def test_wrong_state_would_be_seen(sessions, references, source, target, wrong):
    """The checks above fail where a conversion mixes up tensors or rows, or a value is off by 1e-3 of the largest."""
    tokens = tokens_of()
    first, second = sessions("exact", source), sessions("exact", target)
    first.prefill(tokens[:, :CUT])
    snapshot = first.snapshot()
    tensors = {name: value.copy() for name, value in snapshot.tensors.items()}
    if wrong == "swapped":
        tensors["00.pool"], tensors["01.pool"] = tensors["01.pool"], tensors["00.pool"]
    elif wrong == "a row moved":
        tensors["01.pool"] = np.roll(tensors["01.pool"], 1, axis=-1)
    else:
        tensors["01.pool"][3, 0, 5] += 1e-3 * np.abs(tensors["01.pool"]).max()
    second.restore(dataclasses.replace(snapshot, tensors=tensors))
    logits = go_on(second, tokens)
    assert state_error(references, "exact", second, tokens) > 1
    assert logit_error(references, "exact", second, tokens, logits) > 1


def test_states_move_to_and_from_a_fresh_position(sessions):
    first, second = sessions("linear", "growing"), sessions("linear", "recurrent")
    second.prefill(tokens_of())
    second.restore(first.snapshot())
    assert (second.position, second.last_logits) == (0, None)


def test_state_goes_on_as_far_as_positions_fit(sessions):
    tokens = tokens_of(time=SHORT + 1)
    whole, short = sessions("exact", "growing"), sessions("exact", "short")
    whole.prefill(tokens[:, :SHORT])
    short.restore(whole.snapshot())
    with pytest.raises(CapacityError, match="capacity of 30"):
        short.step(tokens[:, -1])
    whole.step(tokens[:, -1])
    before = short.snapshot()
    with pytest.raises(StateError, match="holds 31 positions, this session has 30"):
        short.restore(whole.snapshot())
    assert short.position == before.position


def test_batch_does_not_move_to_what_runs_one_sequence(sessions):
    batch, single = sessions("exact", "growing"), sessions("exact", "web")
    batch.reset(2)
    batch.prefill(tokens_of(batch=2))
    with pytest.raises(StateError, match="2 sequences, this session takes 1 at most"):
        single.restore(batch.snapshot())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantized(runs, bundles, share):
    """Bundles of the exact RUN whose weights or pool rows are rounded."""

    def fill(folder):
        for name, options in {
            "w8": {"scheme": "w8", "form": "nbits"},
            "pool8": {"pool8": True},
            "pool16": {"pool16": True},
            "fp16": {"scheme": "fp16"},
        }.items():
            causalrn.quantize(bundles["exact"], output=folder / name, max_kl=10.0, **options)
        if HAS_C_COMPILER:
            export_c_bundle(runs["exact"], folder / "c w8", COptions(scheme="w8"))

    return share("moved-states-quantized", fill)


ARITHMETICS = {"w8": "w8", "c w8": "w8", "pool8": "float32[+]pool8", "pool16": "float32[+]pool16", "fp16": "fp16"}


@pytest.mark.cases(0)
@pytest.mark.parametrize("name", ARITHMETICS)
def test_states_of_another_arithmetic_are_refused(sessions, quantized, name):
    if not (quantized / name).exists():
        pytest.skip("needs a C compiler: install gcc or clang")
    plain = sessions("exact", "growing")
    plain.prefill(tokens_of())
    with open_session(quantized / name) as session:
        session.prefill(tokens_of(1)[:, :CUT])
        with pytest.raises(StateError, match=f"'float32', and this session computes in '{ARITHMETICS[name]}'"):
            session.restore(plain.snapshot())
        assert session.position == CUT
        with pytest.raises(
            StateError, match=f"'{ARITHMETICS[name]}', and this session computes in 'float32'"
        ) as raised:
            plain.restore(session.snapshot())
        assert "\n" not in str(raised.value)
    assert plain.position == TIME


@pytest.mark.skipif(not HAS_C_COMPILER, reason="needs a C compiler: install gcc or clang")
def test_states_move_between_bundles_that_are_quantized_likewise(quantized):
    tokens = tokens_of()
    with open_session(quantized / "w8") as first, open_session(quantized / "c w8") as second:
        first.prefill(tokens[:, :CUT])
        second.restore(first.snapshot())
        moved, whole = go_on(second, tokens), first.prefill(tokens[:, CUT:])
    assert relative_error(moved, whole) <= 0.05  # of one scheme, with other scales


@pytest.fixture
def others(tmp_path):
    """RUNs with other weights than the exact one: "exp", and twice the same weights, read with "relu" and "elu"."""
    for activation in ("exp", "relu", "elu"):
        model = random_model(7, activation=activation)
        save_checkpoint(tmp_path / activation, model, ModelCard(model.config), {})
    return tmp_path


def test_states_of_other_weights_are_refused(sessions, others):
    session = sessions("exact", "recurrent")
    with open_session(others / "exp", "recurrent") as other:
        other.prefill(tokens_of())
        own = session.origin.checkpoint[:12]
        with pytest.raises(StateError, match=rf"another bundle, of the checkpoint \w+\.\.\., and .* of {own}\.\.\."):
            session.restore(other.snapshot())


def test_states_of_the_same_weights_in_another_model_are_refused(others):
    with open_session(others / "relu", "recurrent") as relu, open_session(others / "elu", "recurrent") as elu:
        assert relu.origin.checkpoint == elu.origin.checkpoint
        relu.prefill(tokens_of())
        own, moved = relu.snapshot(), dataclasses.replace(relu.snapshot(), owner="")
        for snapshot in (own, moved):  # the owner of a RUN's states is the weights' hash, too
            with pytest.raises(StateError, match="another model: activation is relu, here elu"):
                elu.restore(snapshot)
        with pytest.raises(StateError, match="the state's model: not valid JSON"):
            elu.restore(dataclasses.replace(moved, model="{"))
        relu.restore(moved)


def test_parallel_form_takes_no_states_and_says_why(sessions, runs):
    recurrent = sessions("exact", "recurrent")
    recurrent.prefill(tokens_of())
    with open_session(runs["exact"]) as parallel:
        parallel.prefill(tokens_of(1))
        with pytest.raises(StateError, match="not a history of tokens, and the parallel form computes everything anew"):
            parallel.restore(recurrent.snapshot())
        with pytest.raises(StateError, match="a history of tokens, as the parallel form keeps it"):
            recurrent.restore(parallel.snapshot())


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino: pip install 'causalrn[openvino]'")
def test_what_a_processor_rounds_stays_with_its_bundle(exact_bundle, monkeypatch):
    monkeypatch.setattr("causalrn.runtimes.ov.ov_session.check_precision", lambda bundle, precision: None)  # not here
    with open_session(exact_bundle, "openvino", precision="bf16") as session:
        session.prefill(tokens_of())
        assert session.snapshot().origin == StateOrigin(Bundle.open(exact_bundle).sha256)


# --- the file ---------------------------------------------------------------------------------------------------------


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


def test_file_says_what_the_state_is_of(sessions, folders, tmp_path):
    session, path = sessions("exact", "growing"), tmp_path / "state.safetensors"
    session.prefill(tokens_of())
    session.save(path)
    bundle = Bundle.open(folders["exact", "growing"])
    metadata = metadata_of(path)
    assert metadata["owner"] == bundle.sha256
    assert metadata["checkpoint"] == bundle.manifest.checkpoint_sha256
    assert metadata["arithmetic"] == "float32"
    assert json.loads(metadata["model"]) == bundle.manifest.model
    assert load_state(path).origin == StateOrigin.of_bundle(bundle) == session.origin


@pytest.mark.parametrize("absent", [("checkpoint",), ("arithmetic",), ("checkpoint", "arithmetic", "model")])
def test_files_of_earlier_versions_go_on_where_they_were_taken_alone(sessions, tmp_path, absent):
    first, second, path = sessions("exact", "growing"), sessions("exact", "short"), tmp_path / "state.safetensors"
    first.prefill(tokens_of())
    first.save(path)
    metadata = {name: value for name, value in metadata_of(path).items() if name not in absent}
    save_file(load_file(path), path, metadata)
    first.load(path)
    with pytest.raises(StateError, match=r"another bundle or other weights, and it does not say of which checkpoint"):
        second.load(path)


def test_file_without_owner_is_taken_by_what_it_says(sessions, tmp_path):
    """As programs write it that know the checkpoint and the arithmetic alone."""
    first, second, path = sessions("exact", "growing"), sessions("exact", "short"), tmp_path / "state.safetensors"
    first.prefill(tokens_of())
    save_state(path, dataclasses.replace(first.snapshot(), owner="", model=""))
    assert "model" not in metadata_of(path)
    second.load(path)
    assert second.position == TIME


def test_session_of_nothing_in_particular_takes_no_file_without_owner(references, sessions):
    session = sessions("exact", "growing")
    session.prefill(tokens_of())
    anonymous = references["exact"][1]
    assert anonymous.owner == ""
    with pytest.raises(StateError, match="this session does not say"):
        anonymous.restore(dataclasses.replace(session.snapshot(), owner=""))


def test_arithmetics_are_named_by_scheme_and_pools():
    def named(scheme, **options):
        return name_arithmetic(Quantization(scheme, options.pop("form", None), kept=(), source_sha256="", **options))

    assert name_arithmetic(None) == "float32"
    assert named("w8", form="qdq", pool8=False) == named("w8", form="packed", pool8=False) == "w8"
    assert named("float32", pool8=False, pool16=True) == "float32+pool16"
    assert named("w8a8-dynamic", pool8=True) == "w8a8-dynamic+pool8"


# --- ExecuTorch, where it is ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not EXECUTORCH.is_installed, reason="needs ExecuTorch: pip install torch==2.13.0 executorch==1.5.1")
@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_states_move_to_executorch_and_back(sessions, references, runs, tmp_path, readout):
    from causalrn.export.converted_graphs import ConvertedOptions
    from causalrn.workflows.export_converted import export_converted

    tokens, first = tokens_of(), sessions(readout, "growing")
    options = ConvertedOptions("portable", "growing", None)
    export_converted(runs[readout], tmp_path / "bundle", options, target="executorch", is_checked=False)
    first.prefill(tokens[:, :CUT])
    with open_session(tmp_path / "bundle") as session:
        session.restore(first.snapshot())
        logits = go_on(session, tokens)
        assert logit_error(references, readout, session, tokens, logits) <= 1
        assert state_error(references, readout, session, tokens) <= 1
        first.restore(session.snapshot())
    assert first.position == TIME
