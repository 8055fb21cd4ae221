"""Engines really built by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import dataclasses

import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.trt_flavors import RTX, load_flavor
from causalrn.calibration.schemes import write_quantized
from causalrn.errors import CompileError
from causalrn.export.onnx_exporter import export_onnx
from causalrn.export.trt.builder import BuildOptions, build_engine
from causalrn.export.trt.profiles import Sizes, choose_profiles
from causalrn.runtimes.parity.golden import load_golden
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.compile import compile_bundle
from tests.builders import random_model
from tests.calibration.test_schemes import scheme_for

pytestmark = pytest.mark.skipif(not RTX.is_installed, reason=f"needs TensorRT-RTX: {RTX.install}")

PAPER = {"embedding": 192, "hidden": 192, "capacity": 128}
KINDS = {
    "fixed": ("exact", "fixed", Sizes(capacities=(32,)), 12),
    "growing": ("exact", "growing", Sizes(growing=((1, 64, 128),)), 2),
    "linear": ("linear", "growing", Sizes(), 2),
}
"""Readout, pool, sizes to build for, and blocks: of the paper's twelve, two do where every block is built alike."""
PRECISIONS = ("float32", "fp16", "w8-qdq", "w8a8")


@pytest.fixture(scope="module")
def tensorrt():
    return load_flavor("rtx")


@pytest.fixture(scope="module")
def paper_bundles(tmp_path_factory):
    """ONNX bundles of the paper's size by kind, exported when first asked for, and without golden vectors."""
    made: dict[str, Bundle] = {}

    def get(kind):
        if kind not in made:
            readout, pool, _, blocks = KINDS[kind]
            folder = tmp_path_factory.mktemp(kind)
            model = random_model(0, readout=readout, blocks=blocks, **PAPER)
            save_checkpoint(folder / "run", model, ModelCard(model.config, Alphabet("letters"), CopyTask(62)), {})
            (folder / "bundle").mkdir()
            manifest = export_onnx(load_checkpoint(folder / "run"), folder / "bundle", pool=pool)
            made[kind] = seal_bundle(folder / "bundle", manifest)
        return made[kind]

    return get


@pytest.mark.cases(0)
@pytest.mark.slow
@pytest.mark.xdist_group("paper")
@pytest.mark.parametrize("kind", KINDS)
def test_all_precisions_build_at_the_papers_width(kind, paper_bundles, tensorrt, tmp_path):
    source, (_, _, sizes, blocks) = paper_bundles(kind), KINDS[kind]
    weights = {}
    for precision in PRECISIONS:
        bundle = source
        if precision != "float32":
            (tmp_path / precision).mkdir()
            bundle = write_quantized(source, tmp_path / precision, scheme_for(source, precision), golden=False)
        folder = tmp_path / f"{precision}-engine"
        folder.mkdir()
        compiled = compile_bundle(bundle, folder, tensorrt, sizes, BuildOptions())
        manifest = compiled.bundle.manifest
        assert {path.name for path in folder.iterdir()} == {
            "step.engine",
            "prefill.engine",
            "manifest.json",
            "MODEL_CARD.md",
        }
        assert manifest.quantization == bundle.manifest.quantization
        assert manifest.engine.onnx_sha256["step"] == bundle.manifest.files["step.onnx"].sha256
        assert all(layers for layers in compiled.layers.values())
        weights[precision] = manifest.files["prefill.engine"].size_bytes
    parameters = blocks * 3 * 192 * 192
    assert weights["float32"] > 4 * parameters
    assert weights["w8-qdq"] < weights["float32"] - parameters, "weights are kept in int8"


FORMS = ("w8-qdq", "w4-qdq", "w8a8", "fp16")
CASES = [*((form, kind) for form in FORMS for kind in ("fixed", "linear", "plain")), ("w8-qdq-pool8", "fixed")]


@pytest.mark.cases(2)
@pytest.mark.parametrize(("form", "kind"), CASES)
def test_every_portable_form_builds(form, kind, bundles, fixed_bundle, tensorrt, tmp_path):
    source = Bundle.open(fixed_bundle if kind == "fixed" else bundles[kind])
    for folder in ("quantized", "engine"):
        (tmp_path / folder).mkdir()
    bundle = write_quantized(source, tmp_path / "quantized", scheme_for(source, form), golden=False)
    compiled = compile_bundle(bundle, tmp_path / "engine", tensorrt, Sizes(max_batch=2), BuildOptions())
    assert compiled.bundle.manifest.quantization == bundle.manifest.quantization


@pytest.fixture
def compiled(fixed_bundle, tensorrt, tmp_path):
    (tmp_path / "engine").mkdir()
    return compile_bundle(Bundle.open(fixed_bundle), tmp_path / "engine", tensorrt, Sizes(), BuildOptions())


def test_engine_bundle_says_how_it_was_compiled(compiled, fixed_bundle, tensorrt):
    source, manifest = Bundle.open(fixed_bundle), compiled.bundle.manifest
    engine = manifest.engine
    assert (manifest.target, engine.flavor, engine.version) == ("tensorrt", "rtx", tensorrt.version)
    assert engine.source_sha256 == source.sha256
    assert not engine.tf32
    assert manifest.state == source.manifest.state
    assert manifest.checkpoint_sha256 == source.manifest.checkpoint_sha256
    assert manifest.created_with["tensorrt_rtx"] == tensorrt.version
    assert load_golden(compiled.bundle).reference.steps == load_golden(source).reference.steps


def test_rebuilt_engines_differ_at_most_in_the_order_of_a_table(compiled, fixed_bundle, tensorrt, tmp_path):
    """TensorRT-RTX writes tables of inputs and outputs in the order of a hash map, and the same bytes otherwise."""
    (tmp_path / "again").mkdir()
    again = compile_bundle(Bundle.open(fixed_bundle), tmp_path / "again", tensorrt, Sizes(), BuildOptions()).bundle
    for graph in ("step.engine", "prefill.engine"):
        one, two = (bundle.file(graph).read_bytes() for bundle in (compiled.bundle, again))
        assert len(one) == len(two)
        assert sum(a != b for a, b in zip(one, two, strict=True)) < len(one) / 1000
    one, two = (dataclasses.replace(bundle.manifest, files={}) for bundle in (compiled.bundle, again))
    assert one.entries() == two.entries()


def test_layers_name_their_onnx_nodes(compiled):
    layers = compiled.layers["step"]
    norms = [layer for layer in layers if "RMSNormalization" in layer["onnx"] or "rms_norm" in layer["onnx"]]
    assert norms
    assert all(set(layer) == {"name", "type", "onnx", "outputs"} for layer in layers)
    assert any(output["name"] == "logits" for layer in layers for output in layer["outputs"])


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(tf32=True),
        BuildOptions(compute_capabilities=("8.9",)),
        BuildOptions(compute_capabilities=("8.6", "12.0")),
        BuildOptions(workspace_mib=64),
        BuildOptions(layer_details=True),
    ],
    ids=lambda options: "-".join(map(str, options.entries())) or f"{options.tf32}-{options.compute_capabilities}",
)
def test_builder_options_change_the_engine(options, bundles, tensorrt):
    source = Bundle.open(bundles["linear"])
    profiles = choose_profiles(source, Sizes(max_batch=1))["step"]
    path, state = source.file("step.onnx"), source.manifest.state
    plain = build_engine(tensorrt, path, state, profiles, BuildOptions()).content
    changed = build_engine(tensorrt, path, state, profiles, options).content
    assert changed
    if options.workspace_mib is None:
        assert changed != plain


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            BuildOptions(compute_capabilities=("9.0",)),
            r"does not compile for compute capability 9.0: choose from 7.5, 8.0",
        ),
        (BuildOptions(hardware_compatibility="ampere+"), "`hardware_compatibility` is not for TensorRT-RTX"),
        (BuildOptions(version_compatible=True), "`version_compatible` is not for TensorRT-RTX"),
        (BuildOptions(timing_cache="cache"), "`timing_cache` is not for TensorRT-RTX"),
    ],
)
def test_options_that_this_flavor_does_not_have(options, words, tensorrt):
    with pytest.raises(CompileError, match=words):
        options.check(tensorrt)


def test_what_the_parser_refuses_is_named_by_node(exact_bundle, tensorrt, tmp_path):
    """Beyond what lint knows: a sequence of nonzero indices has no size that could be compiled."""
    import onnx

    model = onnx.load(Bundle.open(exact_bundle).file("step.onnx"))
    model.graph.node.append(onnx.helper.make_node("NonZero", ["logits"], ["where"], name="find_nonzero"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("where", onnx.TensorProto.INT64, [3, "n"]))
    onnx.save(model, tmp_path / "step.onnx")
    source = Bundle.open(exact_bundle)
    profiles = choose_profiles(source, Sizes(growing=((1, 8, 40),)))["step"]
    with pytest.raises(CompileError, match=r"find_nonzero \(NonZero\)"):
        build_engine(tensorrt, tmp_path / "step.onnx", source.manifest.state, profiles, BuildOptions())


def test_early_fixed_bundle_of_one_shape_is_not_cut(fixed_bundle, tensorrt, tmp_path):
    """Bundles used to have one shape in all graphs; that of a step for one sequence is still such a file."""
    source = Bundle.open(fixed_bundle)
    path, state = source.file("step_single.onnx"), source.manifest.state
    profiles = choose_profiles(source, Sizes(capacities=(8,), max_batch=1))["step"]
    with pytest.raises(CompileError, match=r"past.00.pool has the shape \[40, 1, 32\] .* export the bundle again"):
        build_engine(tensorrt, path, state, profiles, BuildOptions())
    assert build_engine(tensorrt, path, state, profiles[1:], BuildOptions()).content


def test_lint_comes_before_the_parser(exact_bundle, tensorrt, tmp_path):
    source = Bundle.open(exact_bundle)
    (tmp_path / "w8").mkdir()
    nbits = write_quantized(source, tmp_path / "w8", scheme_for(source, "w8"), golden=False)
    (tmp_path / "engine").mkdir()
    words = r"step: blocks.0.w12_Q8: MatMulNBits .*\[foreign-domain\]: quantize .* `form` qdq.*and 4 more"
    with pytest.raises(CompileError, match=words):
        compile_bundle(nbits, tmp_path / "engine", tensorrt, Sizes(growing=((1, 8, 40),)), BuildOptions())
    assert list((tmp_path / "engine").iterdir()) == []
