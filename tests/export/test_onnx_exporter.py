"""Exported graphs: the names servers rely on, nothing of the exporting machine, nothing twice."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import causalrn
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.json_values import to_json
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import ConfigError
from causalrn.export.graph_tracing import trace_cell
from causalrn.export.onnx_exporter import export_onnx
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint, load_checkpoint
from tests.builders import GOLDEN_CASES, golden_case, random_model, random_tokens, relative_error


def _shapes(values):
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def _export(folder, options, **export_options):
    model = random_model(**options)
    folder.mkdir()
    manifest = export_onnx(Checkpoint(model, ModelCard(model.config), "test"), folder, **export_options)
    return model, seal_bundle(folder, manifest)


@pytest.mark.cases(0)
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_weights_change_nothing_but_initializers(traced_once, readout):
    """What tests build on: see `traced_once` in tests/conftest.py."""
    for graph in ("step", "prefill"):
        cells = [RecurrentCell.from_model(random_model(seed, readout=readout)) for seed in (0, 1)]
        traced_once(cells[0], graph)
        models = [trace(cells[1], graph) for trace in (trace_cell, traced_once)]
        anew, looked_up = (ir.to_proto(model).SerializeToString(deterministic=True) for model in models)
        assert anew == looked_up


def test_graph_inputs_and_outputs_follow_the_state_contract(exact_bundle):
    step, prefill = (onnx.load(exact_bundle / f"{name}.onnx", load_external_data=False) for name in ("step", "prefill"))
    assert _shapes(step.graph.input) == {
        "tokens": ["B", 1],
        "position": [],
        "past.00.pool": ["rows", "B", 32],
        "past.01.pool": ["rows", "B", 32],
    }
    assert _shapes(step.graph.output) == {
        "logits": ["B", 1, 29],
        "row.00.pool": [1, "B", 32],
        "row.01.pool": [1, "B", 32],
    }
    single = onnx.load(exact_bundle / "step_single.onnx", load_external_data=False)
    assert _shapes(single.graph.input)["past.00.pool"] == ["rows", 1, 32]
    assert _shapes(single.graph.output)["row.00.pool"] == [1, 1, 32]
    assert _shapes(prefill.graph.input)["past.01.pool"] == ["t", "B", 32]
    assert _shapes(prefill.graph.output)["logits"] == ["B", "T", 29]
    assert _shapes(prefill.graph.output)["row.00.pool"] == ["T", "B", 32]


@pytest.mark.parametrize(
    ("readout", "names"),
    [("linear", ["00.sum", "01.sum"]), ("plain", ["00.max", "00.sum", "01.max", "01.sum"])],
)
def test_constant_states_come_back_complete(bundles, readout, names):
    for graph in ("step", "prefill"):
        model = onnx.load(bundles[readout] / f"{graph}.onnx", load_external_data=False)
        assert [v.name for v in model.graph.input[2:]] == [f"past.{name}" for name in names]
        assert [v.name for v in model.graph.output[1:]] == [f"present.{name}" for name in names]


def test_metadata_makes_the_graph_self_describing(exact_bundle):
    manifest = Bundle.open(exact_bundle).manifest
    model = onnx.load(exact_bundle / "step.onnx", load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["causalrn.state"]) == to_json(manifest.state)
    assert json.loads(entries["causalrn.card"]) == {
        "model": manifest.model,
        "alphabet": manifest.alphabet,
        "task": manifest.task,
    }


def test_nothing_of_the_exporting_machine_is_left(exact_bundle):
    for name in ("step.onnx", "step_single.onnx", "prefill.onnx"):
        content = (exact_bundle / name).read_bytes()
        assert b".py" not in content
        assert b"stack_trace" not in content


def test_graphs_share_one_weights_file(exact_bundle, runs):
    weights = sum(p.numel() * 4 for p in load_checkpoint(runs["exact"]).model.parameters())
    assert (exact_bundle / WEIGHTS_FILE).stat().st_size < 1.1 * weights
    for name in ("step.onnx", "step_single.onnx", "prefill.onnx"):
        assert (exact_bundle / name).stat().st_size < 40_000


def test_export_repeats_byte_for_byte(runs, tmp_path):
    checkpoint = load_checkpoint(runs["linear"])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_onnx(checkpoint, tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert WEIGHTS_FILE in one


@pytest.mark.cases(0)
def test_step_has_few_nodes_per_block(tmp_path):
    """Node dispatch is what a small step costs: a slip in the cell's form shows here first."""
    _, bundle = _export(tmp_path / "b", {"blocks": 6})
    for graph, per_block in (("step_single", 12), ("step", 18)):
        model = onnx.load(bundle.file(f"{graph}.onnx"), load_external_data=False)
        nodes = [node.op_type for node in model.graph.node]
        assert len(nodes) <= per_block * 6 + 20
        assert "ReduceSum" not in nodes
        assert "Expand" not in nodes


def test_single_file_is_loaded_from_its_bytes_alone(tmp_path):
    model, bundle = _export(tmp_path / "b", {}, single_file=True)
    assert WEIGHTS_FILE not in bundle.manifest.files
    tokens = random_tokens(model.config, 1, 3).numpy()
    graph = onnxruntime.InferenceSession(bundle.file("prefill.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    feed = {value.name: np.zeros((0, 1, 32), np.float32) for value in graph.get_inputs() if "past" in value.name}
    alone = graph.run(["logits"], feed | {"tokens": tokens, "position": np.array(0)})[0]
    with OnnxRuntimeSession(bundle) as session:
        assert np.array_equal(session.prefill(tokens), alone)


def test_single_file_is_verified_and_stays_one_when_it_is_quantized(runs, tmp_path):
    bundle = causalrn.export(runs["exact"], output=tmp_path / "b", single_file=True)
    small = causalrn.quantize(bundle, output=tmp_path / "small", scheme="w8", samples=20, max_accuracy_drop=100)
    assert WEIGHTS_FILE not in small.bundle.manifest.files
    assert small.report.after.weights_bytes < small.report.before.weights_bytes
    for each in (bundle, small):
        assert causalrn.verify(each, level=["logits", "kernels", "guards"]).passed


@pytest.mark.parametrize("rest", [1, 2])
def test_concatenated_pool_takes_a_prefill_whose_last_chunk_runs_first(tmp_path, rest):
    """Each graph's first outputs are compared with the contract, wherever in a prefill that is."""
    model, bundle = _export(tmp_path / "b", {}, pool="concat")
    tokens = random_tokens(model.config, 1, bundle.manifest.prefill_chunk + rest).numpy()
    with OnnxRuntimeSession(bundle) as session:
        together = session.prefill(tokens)
    assert (
        relative_error(together, model.oracle()(torch.from_numpy(tokens)))
        < TOLERANCES["float32", "onnxruntime"].relative
    )


@pytest.mark.parametrize("opset", [16, 24])
def test_other_opsets_are_refused(runs, tmp_path, opset):
    with pytest.raises(ConfigError, match="choose one of 17, 18, 19, 20, 21, 22, 23"):
        export_onnx(load_checkpoint(runs["exact"]), tmp_path, opset=opset)


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2, "hidden": 48},
        {"norm": "rms"},
        {"post_norm": False},
        {"activation": "relu"},
        {"readout": "linear", "activation": "gelu"},
        {"readout": "linear", "post_norm": False, "norm": "rms"},
        {"readout": "linear", "positions": "none", "capacity": None},
        {"positions": "none", "capacity": None},
        {"readout": "plain", "post_norm": False},
        {"hidden": 2048, "blocks": 1},
        {"attention": "softmax"},
        {"attention": "softmax", "heads": 4, "norm": "rms", "hidden": 48},
        {"attention": "softmax", "positions": "none", "capacity": None},
        {"attention": "linear", "heads": 2},
        {"attention": "linear", "positions": "none", "capacity": None},
    ],
    ids=str,
)
def test_the_family_exports_and_agrees_with_the_oracle(tmp_path, options):
    model, bundle = _export(tmp_path / "b", options)
    tokens = random_tokens(model.config, 2, 20)
    expected = model.oracle()(tokens)
    session = OnnxRuntimeSession(bundle)
    for rows in (slice(0, 2), slice(0, 1)):
        session.reset(len(tokens[rows]))
        parts = [session.step(tokens[rows, i].numpy())[:, None] for i in range(3)]
        parts += [session.prefill(tokens[rows, 3:12].numpy())]
        parts += [session.step(tokens[rows, i].numpy())[:, None] for i in range(12, 20)]
        assert relative_error(np.concatenate(parts, 1), expected[rows]) <= TOLERANCES["float32", "onnxruntime"].relative


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", [{}, {"attention": "softmax"}], ids=str)
def test_smallest_capacity_exports_and_agrees(tmp_path, options):
    model, bundle = _export(tmp_path / "b", {"capacity": 2, "blocks": 1, **options})
    tokens = random_tokens(model.config, 1, 2)
    session = OnnxRuntimeSession(bundle)
    logits = np.stack([session.step(tokens[:, i].numpy()) for i in range(2)], 1)
    assert relative_error(logits, model.oracle()(tokens)) <= TOLERANCES["float32", "onnxruntime"].relative


EPS_IN_ONNX = ("eps_exact_heads2", "eps_linear", "eps_ablation_no", "eps_transformer")


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", [*GOLDEN_CASES, *EPS_IN_ONNX])
def test_golden_models_agree_with_official_code_in_onnxruntime(tmp_path, name):
    model, tokens, expected = golden_case(name)
    manifest = export_onnx(Checkpoint(model, ModelCard(model.config), "test"), tmp_path)
    session = OnnxRuntimeSession(seal_bundle(tmp_path, manifest))
    bound = TOLERANCES["float32", "onnxruntime"].logit_bound(float(expected.abs().max()))
    for first in (0, tokens.shape[1], tokens.shape[1] // 2):  # by steps, by prefill, mixed
        session.reset(len(tokens))
        parts = [session.prefill(tokens[:, :first].numpy())] if first else []
        parts += [session.step(tokens[:, i].numpy())[:, None] for i in range(first, tokens.shape[1])]
        assert np.abs(np.concatenate(parts, 1) - expected.numpy()).max() <= bound


@pytest.mark.cases(0)
@pytest.mark.slow
@pytest.mark.parametrize(("readout", "blocks"), [("exact", 12), ("linear", 12), ("plain", 4)])
def test_papers_size_over_256_tokens(tmp_path, readout, blocks):
    options = {"readout": readout, "embedding": 192, "hidden": 192, "blocks": blocks, "capacity": 256}
    model, bundle = _export(tmp_path / "b", options)
    tokens = random_tokens(model.config, 1, 256)
    expected = model.oracle()(tokens)
    session = OnnxRuntimeSession(bundle)
    for splits in ([1] * 256, [100, 1, 1, 54, 100]):
        session.reset()
        parts, start = [], 0
        for length in splits:
            chunk = tokens[:, start : start + length].numpy()
            parts.append(session.step(chunk[:, 0])[:, None] if length == 1 else session.prefill(chunk))
            start += length
        assert relative_error(np.concatenate(parts, 1), expected) <= TOLERANCES["float32", "onnxruntime"].relative


@pytest.mark.cases(0)
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@pytest.mark.parametrize("hidden", [768, 3072])
def test_spikes_and_constant_embeddings_stay_finite_and_right(tmp_path, readout, hidden):
    """The same hazards as in tests/causalrn/test_cell.py, through onnxruntime's kernels."""
    model = random_model(readout=readout, hidden=hidden, embedding=16, blocks=1, capacity=12)
    model.wte.weight.data[4] = 0.1
    model.wpe.weight.data[:2] = -0.7
    for layer in (model.blocks[0].fc_1, model.blocks[0].fc_2):
        layer.weight.data[3] *= 50 if readout == "plain" else 1e4
    model.blocks[0].fc_1.bias.data.zero_()
    (tmp_path / "b").mkdir()
    bundle = seal_bundle(
        tmp_path / "b", export_onnx(Checkpoint(model, ModelCard(model.config), "test"), tmp_path / "b")
    )
    tokens = random_tokens(model.config, 2, 12)
    tokens[:, :2] = 4
    expected = model.oracle()(tokens)
    session = OnnxRuntimeSession(bundle)
    session.reset(2)
    steps = np.stack([session.step(tokens[:, i].numpy()) for i in range(12)], 1)
    session.reset(2)
    prefill = session.prefill(tokens.numpy())
    bound = 4 * 2 * np.sqrt(hidden - 1) * 2.0**-24
    assert relative_error(steps, expected) <= bound
    assert relative_error(prefill, expected) <= bound
