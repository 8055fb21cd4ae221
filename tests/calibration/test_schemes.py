"""Quantized graphs give what the float32 graphs give, up to what their scheme may lose, whatever the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.graph_files import load_graphs
from causalrn.bundle.quantization import Quantization, round_to_int8
from causalrn.bundle.tolerances import BUDGETS
from causalrn.calibration.evaluation import sqnr_db
from causalrn.calibration.graph_edits import array_of
from causalrn.calibration.rollouts import Prompts
from causalrn.calibration.schemes import Scheme, quantizable_parts, write_quantized
from causalrn.calibration.table import calibrate
from causalrn.errors import InputError, NonFiniteError
from causalrn.export.onnx_exporter import export_onnx
from causalrn.runtimes import SessionOptions
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.training.checkpoint import Checkpoint
from tests.builders import model_beyond_float16, random_model

SCHEMES = {
    "w8": Scheme("w8", "nbits"),
    "w8-qdq": Scheme("w8", "qdq"),
    "w4": Scheme("w4", "nbits"),
    "w4-qdq": Scheme("w4", "qdq"),
    "w8a8-dynamic": Scheme("w8a8-dynamic"),
    "w8a8": Scheme("w8a8"),
    "fp16": Scheme("fp16"),
    "pool8": Scheme("float32", pool="int8"),
    "pool16": Scheme("float32", pool="float16"),
    "w8-pool8": Scheme("w8", "nbits", pool="int8"),
    "w8-qdq-pool8": Scheme("w8", "qdq", pool="int8"),
}
LEAST_SQNR_DB = {"w8": 24, "w4": 3, "w8a8-dynamic": 22, "w8a8": 18, "fp16": 50, "float32": 40}
"""Of the logits of two blocks with random weights of unit gain: 8 bits are about 50 dB per product, 4 bits 25."""
SPLITS = {"pool8": 1e-5, "pool16": 1e-5, "fp16": 1e-4}
"""Largest difference between steps and prefill, relative to the largest |logit|, where no activation is rounded."""
TOKENS = np.random.default_rng(0).integers(0, 29, (3, 24))


def scheme_for(bundle: Bundle, name: str) -> Scheme:
    """A scheme of the table, its limits calibrated where it needs some."""
    scheme = SCHEMES[name]
    if scheme.name != "w8a8":
        return scheme
    ids = np.random.default_rng(1).integers(0, 29, (16, 12))
    table = calibrate(bundle, Prompts.of_tokens(ids, 40, "random"))
    return Scheme("w8a8", limits=table.limits("minmax"))


def logits_of(bundle: Bundle, chunks: list[int], tokens=TOKENS) -> np.ndarray:
    with open_bundle(bundle) as session:
        return run_in_chunks(session, tokens, chunks).logits


@pytest.mark.cases(12)
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@pytest.mark.parametrize("name", SCHEMES)
def test_quantized_bundle_gives_nearly_the_same(name, readout, bundles, tmp_path):
    source = Bundle.open(bundles[readout])
    scheme = scheme_for(source, name)
    if scheme.pool != "float32" and readout != "exact":
        with pytest.raises(InputError, match="no pool"):
            write_quantized(source, tmp_path, scheme)
        return
    bundle = write_quantized(source, tmp_path, scheme)
    expected = logits_of(source, [1] * 24)
    steps = logits_of(bundle, [1] * 24)
    for chunks in ([24], [5, 1, 10, 8]):
        quantized = logits_of(bundle, chunks)
        assert sqnr_db(expected, quantized) > LEAST_SQNR_DB[scheme.name]
        assert not np.array_equal(expected, quantized)
        assert np.abs(quantized - steps).max() < SPLITS.get(name, BUDGETS[scheme.name].split) * np.abs(expected).max()


@pytest.mark.cases(0)
@pytest.mark.parametrize("pool", ["fixed", "concat"])
def test_narrow_pools_of_all_kinds_hold_the_same_rows(pool, exact_bundle, tmp_path):
    growing, other = Bundle.open(exact_bundle), exported(tmp_path, random_model(0), pool=pool)
    for name in ("pool8", "pool16", "w8-qdq-pool8", "fp16"):
        rows = []
        for kind, source in (("growing", growing), (pool, other)):
            bundle = write_quantized(source, folder(tmp_path, f"{name}-{kind}"), SCHEMES[name])
            assert sqnr_db(logits_of(source, [1] * 24), logits_of(bundle, [1] * 24)) > 24
            with open_bundle(bundle) as session:
                run = run_in_chunks(session, TOKENS, [1] * 24, [12])
                assert session.snapshot().tensors["00.pool"].dtype == SCHEMES[name].pool_dtype
                rows.append(run.states[12]["00.pool"])
        assert np.abs(rows[0] - rows[1]).max() < 0.02 * np.abs(rows[0]).max()


def test_earlier_opsets_can_be_quantized(tmp_path):
    bundle = exported(tmp_path, random_model(0), opset=21)
    for name in SCHEMES:
        scheme = scheme_for(bundle, name)
        quantized = write_quantized(bundle, folder(tmp_path, name), scheme)
        assert sqnr_db(logits_of(bundle, [24]), logits_of(quantized, [24])) > LEAST_SQNR_DB[scheme.name]
        graphs = load_graphs(quantized).values()
        assert {model.opset_imports[""] for model in graphs} == {21}


def test_schemes_that_an_early_opset_does_not_have_are_refused(tmp_path):
    bundle = exported(tmp_path, random_model(0), opset=17)
    for name in SCHEMES:
        scheme = scheme_for(bundle, name)
        if scheme.least_opset > 17:
            with pytest.raises(
                InputError, match=f"opset 17, which is too early: export with `opset` {scheme.least_opset}"
            ):
                write_quantized(bundle, folder(tmp_path, name), scheme)
        else:
            quantized = write_quantized(bundle, folder(tmp_path, name), scheme)
            assert sqnr_db(logits_of(bundle, [24]), logits_of(quantized, [24])) > LEAST_SQNR_DB[scheme.name]


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "options",
    [
        {"heads": 4},
        {"norm": "rms"},
        {"activation": "relu"},
        {"activation": "gelu", "readout": "linear"},
        {"post_norm": False},
        {"bias_1": False, "bias_head": True},
        {"positions": "none", "capacity": None, "readout": "linear"},
        {"attention": "softmax", "hidden": 128},
        {"attention": "linear", "hidden": 128},
    ],
    ids=str,
)
def test_family_can_be_quantized(options, tmp_path):
    bundle = exported(tmp_path, random_model(0, **options))
    for name in (
        "w8",
        "w8a8-dynamic",
        "w8a8",
        "fp16",
        "w8-qdq",
        *(["pool8", "pool16"] if bundle.manifest.state.has_pool else []),
    ):
        scheme = scheme_for(bundle, name)
        quantized = write_quantized(bundle, folder(tmp_path, name), scheme)
        assert sqnr_db(logits_of(bundle, [24]), logits_of(quantized, [1] * 24)) > LEAST_SQNR_DB[scheme.name] - 6


@pytest.mark.parametrize("name", ["w8", "w8-pool8", "pool16", "fp16", "w8a8-dynamic"])
def test_restored_state_continues_bit_for_bit(name, bundles, tmp_path):
    bundle = write_quantized(Bundle.open(bundles["exact"]), folder(tmp_path, "b"), SCHEMES[name])
    with open_bundle(bundle) as session, open_bundle(bundle) as other:
        run_in_chunks(session, TOKENS[:, :12], [1] * 12)
        save_state(tmp_path / "state", session.snapshot())
        rest = run_in_chunks(other, TOKENS[:, 12:], [1] * 12, start=load_state(tmp_path / "state"))
    assert np.array_equal(rest.logits, logits_of(bundle, [1] * 24)[:, 12:])


@pytest.mark.parametrize("name", SCHEMES)
def test_rows_of_a_batch_are_what_they_are_alone(name, bundles, tmp_path):
    source = Bundle.open(bundles["exact"])
    scheme = scheme_for(source, name)
    bundle = write_quantized(source, tmp_path, scheme)
    alone = np.concatenate([logits_of(bundle, [1] * 24, TOKENS[row : row + 1]) for row in range(3)])
    # dynamic scales are those of the whole batch: they differ by an error of the scheme's size
    least = LEAST_SQNR_DB[scheme.name] if scheme.name != "float32" and scheme.form != "qdq" else 60
    assert sqnr_db(alone, logits_of(bundle, [1] * 24)) > least


def test_same_bytes_twice(exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    for name in SCHEMES:
        scheme = scheme_for(source, name)
        one, two = (write_quantized(source, folder(tmp_path, f"{name}-{n}"), scheme) for n in range(2))
        assert one.sha256 == two.sha256


@pytest.mark.parametrize("name", ["w8-qdq", "w4-qdq", "w8a8", "fp16", "pool16", "w8-qdq-pool8"])
def test_portable_forms_hold_what_tensorrt_accepts(name, exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    bundle = write_quantized(source, tmp_path, scheme_for(source, name))
    for graph in bundle.manifest.graphs.values():
        model = onnx.load(bundle.file(graph.file))
        onnx.checker.check_model(model, full_check=True)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            assert not node.domain
            assert node.op_type not in ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul")
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert node.input[1] in constants  # scales are constant
                assert len(node.input) < 3 or not constants[node.input[2]].any()  # no zero points
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                assert constants[node.input[0]].dtype.itemsize == 1  # no int32 biases


def test_kept_weights_stay_as_they_are(exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    kept = frozenset(weight for weight in quantizable_parts(source, SCHEMES["w8"]) if weight.startswith("blocks.1"))
    before = constants_of(source)
    for name in ("w8", "w8-qdq", "fp16", "w8a8-dynamic"):
        scheme = Scheme(SCHEMES[name].name, SCHEMES[name].form, keep=kept)
        bundle = write_quantized(source, folder(tmp_path, name), scheme)
        after = constants_of(bundle)
        same = [array for key, array in after.items() if array.dtype == np.float32 and array.ndim == 2]
        for weight in kept:  # onnxruntime's quantizer may transpose and rename it
            assert any(
                np.array_equal(array, kept_array) for array in same for kept_array in (before[weight], before[weight].T)
            )
        assert bundle.manifest.quantization is not None
        assert bundle.manifest.quantization.kept == tuple(sorted(kept))


def test_quantized_bundle_is_not_quantized_again(exact_bundle, tmp_path):
    bundle = write_quantized(Bundle.open(exact_bundle), tmp_path, SCHEMES["w8"])
    with pytest.raises(InputError, match="quantized already"):
        write_quantized(bundle, tmp_path, SCHEMES["w4"])


@pytest.mark.parametrize("arguments", [("w5",), ("w8",), ("w8", "int"), ("w8a8", "qdq"), ("float32",)])
def test_schemes_without_meaning_are_refused(arguments):
    with pytest.raises(InputError):
        Scheme(*arguments)
    with pytest.raises(ValueError, match="unknown"):
        Quantization(arguments[0], arguments[1] if len(arguments) > 1 else None, False, (), "")


def test_pools_have_one_type():
    with pytest.raises(InputError, match="leave pool16 out"):
        Scheme("fp16", pool="float16")
    with pytest.raises(InputError, match="pool rows of 'int4' are unknown"):
        Scheme("float32", pool="int4")
    for flags in ({"pool8": True}, {"pool8": False, "scheme": "fp16"}):
        with pytest.raises(ValueError, match="unknown"):
            Quantization(
                **{"scheme": "float32", "form": None, "kept": (), "source_sha256": "", "pool16": True, **flags}
            )


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", [{}, {"activation": "relu", "readout": "plain"}], ids=["exp", "relu forgets it"])
def test_rows_beyond_float16_are_an_error_and_not_taken(options, tmp_path):
    bundle = write_quantized(
        exported(tmp_path, model_beyond_float16(**options)), folder(tmp_path, "quantized"), SCHEMES["pool16"]
    )
    with open_bundle(bundle) as session:
        session.prefill(np.array([[3, 4]]))
        with pytest.raises(NonFiniteError):
            session.step(np.array([28]))
        with pytest.raises(NonFiniteError):
            session.prefill(np.array([[5, 28, 6]]))
        assert session.position == 2
        assert np.isfinite(session.step(np.array([5]))).all()


def test_float16_refuses_weights_beyond_its_range(tmp_path):
    model = random_model(0)
    model.blocks[0].fc_3.weight.data[0, 0] = 1e6
    bundle = exported(tmp_path, model)
    with pytest.raises(NonFiniteError, match=r"blocks\.0\.w3 .*float16"):
        write_quantized(bundle, folder(tmp_path, "quantized"), SCHEMES["fp16"])


def test_threads_do_not_change_the_logits(exact_bundle, tmp_path):
    bundle = write_quantized(Bundle.open(exact_bundle), tmp_path, SCHEMES["w8-pool8"])
    with open_bundle(bundle, SessionOptions(threads=2)) as session:
        two = run_in_chunks(session, TOKENS, [1] * 24).logits
    assert np.array_equal(two, logits_of(bundle, [1] * 24))


def test_int8_rounds_halves_to_even_and_keeps_zeros():
    values, scale = round_to_int8(np.array([[127.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0]], np.float32), axis=1)
    assert values.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0]]
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale[0] == 1
    assert scale[1] > 0


@given(hnp.arrays(np.float32, (5, 4), elements=st.floats(-1e3, 1e3, width=32)))
def test_int8_values_are_off_by_half_a_step_at_most(weight):
    values, scale = round_to_int8(weight, axis=0)
    assert np.abs(values).max() <= 127
    assert (np.abs(values * scale - weight) <= 0.5001 * scale + 1e-30).all()


def test_earlier_content_of_the_folder_leaves_no_stale_hash(exact_bundle, tmp_path):
    """`quantize --keep-blocks-fp32 auto` writes one attempt over another; each file is hashed once an attempt."""
    source = Bundle.open(exact_bundle)
    for name in ("w8", "w4", "pool8"):
        bundle = write_quantized(source, tmp_path, SCHEMES[name])
        assert Bundle.open(tmp_path).sha256 == bundle.sha256


def test_limits_are_needed_for_every_product(exact_bundle, tmp_path):
    source = Bundle.open(exact_bundle)
    from causalrn.errors import CalibrationError

    with pytest.raises(CalibrationError, match=r"blocks\.0\.w12\.input"):
        write_quantized(source, tmp_path, Scheme("w8a8"))


def constants_of(bundle: Bundle) -> dict[str, np.ndarray]:
    return {
        name: array_of(value)
        for model in load_graphs(bundle).values()
        for name, value in model.graph.initializers.items()
    }


def folder(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    return path


def exported(tmp_path, model, **options) -> Bundle:
    """A bundle without golden vectors, of a model that was never saved."""
    from causalrn.bundle.alphabet import Alphabet
    from causalrn.training.card import ModelCard

    path = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
    path.mkdir()
    checkpoint = Checkpoint(model, ModelCard(model.config, Alphabet("letters"), None), "0" * 64)
    return seal_bundle(path, export_onnx(checkpoint, path, **options))
