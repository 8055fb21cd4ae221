"""Bundles for ExecuTorch give what was trained, and what is wrong in a converted file is found."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import BundleError, CapacityError, InputError
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import open_session
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.export import export
from causalrn.workflows.export_converted import export_converted
from causalrn.workflows.verify import verify
from tests.builders import random_model, relative_error, run_cell
from tests.executorch_tools import CASES, MODELS, needs_executorch

pytestmark = [needs_executorch, pytest.mark.slow]
SIZES = {"embedding": 16, "hidden": 16, "capacity": 12}
TOLERANCE = TOLERANCES["float32", "executorch"]


def make_bundle(share, name, backend, pool, max_batch):
    """A RUN with random weights, and a bundle of it; both are made once."""

    def fill(folder):
        model = random_model(3, **SIZES, **MODELS[name])
        save_checkpoint(folder / "run", model, ModelCard(model.config, Alphabet("letters"), CopyTask(5)), {})
        options = ConvertedOptions(backend, pool, max_batch=max_batch)
        export_converted(folder / "run", folder / "bundle", options, target="executorch")

    folder = share(f"executorch-{name}-{backend}-{pool}-{max_batch}", fill)
    return folder / "run", folder / "bundle"


@pytest.fixture(scope="module")
def portable(share):
    """The exact model with portable kernels and a growing pool."""
    return make_bundle(share, "exact", "portable", "growing", 1)


@pytest.fixture(scope="module")
def xnnpack(share):
    """The same with XNNPACK."""
    return make_bundle(share, "exact", "xnnpack", "growing", 1)


@pytest.fixture(scope="module")
def quantized(share):
    """The linear model with int8 products, and its RUN."""

    def fill(folder):
        model = random_model(3, **SIZES, readout="linear")
        save_checkpoint(folder / "run", model, ModelCard(model.config, Alphabet("letters"), CopyTask(5)), {})
        export(folder / "run", output=folder / "bundle", target="executorch", scheme="w8a8-dynamic")

    folder = share("executorch-quantized", fill)
    return folder / "run", folder / "bundle"


def copied(bundle, folder):
    shutil.copytree(bundle, folder)
    return folder


@pytest.mark.cases(4)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_bundles_are_verified_at_every_level(case, share):
    run, bundle = make_bundle(share, *case)
    report = verify(bundle, checkpoint=run, samples=10, time_budget=60).report
    assert report.passed, [result for result in report.results if not result.passed]
    assert {"logits", "state", "split", "calls", "guards"} <= {result.level for result in report.results}
    assert verify(bundle, samples=10, time_budget=60).passed  # without torch's forms, by its golden vectors


def test_manifest_says_what_xnnpack_leaves(xnnpack, portable):
    left = Bundle.open(xnnpack[1]).manifest.converted
    assert left.backend == "xnnpack"
    assert set(left.not_delegated) == {"step", "prefill"}
    assert left.not_delegated["step"]["aten.embedding.default"] >= 2
    assert Bundle.open(portable[1]).manifest.converted.not_delegated == {}


@pytest.mark.parametrize("splits", [[12], [1] * 12, [1, 11], [5, 1, 6], [3, 3, 3, 3]], ids=str)
def test_every_split_gives_the_oracle_and_its_states(splits, portable):
    tokens = np.random.default_rng(5).integers(0, 29, (1, 12))
    exact_cell = RecurrentCell.from_model(load_checkpoint(portable[0]).model, dtype=torch.float64)
    exact, states = run_cell(exact_cell, torch.from_numpy(tokens), [1] * 12)
    with open_session(portable[1]) as session:
        parts, taken = [], 0
        for length in splits:
            chunk = tokens[:, taken : taken + length]
            parts.append(session.step(chunk[:, 0])[:, None] if length == 1 else session.prefill(chunk))
            taken += length
        assert relative_error(np.concatenate(parts, axis=1), exact) <= TOLERANCE.relative
        for value, expected in zip(session.snapshot().tensors.values(), states, strict=True):
            assert relative_error(value, expected) <= TOLERANCE.state_relative


def test_state_file_resumes_bit_for_bit(xnnpack, tmp_path):
    tokens = np.random.default_rng(6).integers(0, 29, (1, 12))
    with open_session(xnnpack[1]) as session:
        session.prefill(tokens[:, :5])
        session.save(tmp_path / "state.safetensors")
        expected = session.prefill(tokens[:, 5:])
    with open_session(xnnpack[1], "executorch") as other:
        other.load(tmp_path / "state.safetensors")
        np.testing.assert_array_equal(other.prefill(tokens[:, 5:]), expected)
        with pytest.raises(CapacityError):
            other.step([3])
        with pytest.raises(InputError, match="1 sequences at most"):
            other.reset(2)


def off_by(content, weight, amount):
    """The bytes of a file in which one element of a float32 weight is off; the weight has to be in there."""
    place = content.index(np.ascontiguousarray(weight, np.float32).tobytes()) + 4 * 7
    value = np.frombuffer(content[place : place + 4], np.float32) + np.float32(amount)
    return content[:place] + value.tobytes() + content[place + 4 :]


@pytest.mark.parametrize("graph", ["step", "prefill"])
def test_one_weight_of_a_file_that_is_off_is_found(graph, portable, tmp_path):
    run, bundle = portable
    changed = copied(bundle, tmp_path / "changed")
    weight = RecurrentCell.from_model(load_checkpoint(run).model).blocks[1].w12.numpy()
    path = changed / f"{graph}.pte"
    path.write_bytes(off_by(path.read_bytes(), weight, 1e-3))
    seal_bundle(changed, Bundle.open(bundle).manifest)
    report = verify(changed, checkpoint=run, level=("logits", "state", "split")).report
    assert "executorch" in {result.subject for result in report.results if not result.passed}


def test_quantized_bundles_are_within_their_budget(quantized):
    run, bundle = quantized
    manifest = Bundle.open(bundle).manifest
    assert manifest.quantization.scheme == manifest.converted.precision == "w8a8-dynamic"
    assert "torchao" in manifest.created_with
    report = verify(bundle, checkpoint=run, samples=10).report
    assert report.passed, [result for result in report.results if not result.passed]


def test_int8_weights_are_in_the_programs(quantized):
    run, bundle = quantized
    cell = RecurrentCell.from_model(load_checkpoint(run).model)
    for graph in ("step", "prefill"):
        content = (bundle / f"{graph}.pte").read_bytes()
        for weight in (cell.head, *(block.w12 for block in cell.blocks)):
            assert weight.numpy().tobytes() not in content
        assert cell.wte.numpy().tobytes() in content  # tables stay


def test_one_scale_of_a_quantized_file_that_is_off_is_found(quantized, tmp_path):
    run, bundle = quantized
    changed = copied(bundle, tmp_path / "changed")
    weight = RecurrentCell.from_model(load_checkpoint(run).model).blocks[1].w12
    scales = weight.abs().amax(1).numpy() / np.float32(127)
    path = changed / "step.pte"
    path.write_bytes(rows_scaled(path.read_bytes(), scales, 4.0))
    seal_bundle(changed, Bundle.open(bundle).manifest)
    report = verify(changed, checkpoint=run, level=("logits", "state", "split")).report
    assert "executorch" in {result.subject for result in report.results if not result.passed}


def rows_scaled(content, scales, factor):
    """The bytes of a file in which all scales of a weight are too large; they have to be in there."""
    stored = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
    starts = [
        start
        for start in np.flatnonzero(np.isclose(stored, scales[0], rtol=1e-5))
        if np.allclose(stored[start : start + len(scales)], scales, rtol=1e-5)
    ]
    assert starts, "the scales are not stored as they are"
    changed = stored.copy()
    for start in starts:
        changed[start : start + len(scales)] *= factor
    return changed.tobytes() + content[len(stored) * 4 :]


def test_files_that_are_swapped_are_refused(portable, tmp_path):
    changed = copied(portable[1], tmp_path / "changed")
    one, other = ((changed / f"{graph}.pte").read_bytes() for graph in ("step", "prefill"))
    (changed / "step.pte").write_bytes(other)
    (changed / "prefill.pte").write_bytes(one)
    seal_bundle(changed, Bundle.open(portable[1]).manifest)
    with open_session(changed) as session, pytest.raises(BundleError, match=r"cannot run|expected float32"):
        session.prefill([[3, 4, 5, 6]])


def test_file_that_is_no_program_is_one_clear_error(portable, tmp_path):
    changed = copied(portable[1], tmp_path / "changed")
    (changed / "step.pte").write_bytes(b"nothing of the kind" * 100)
    seal_bundle(changed, Bundle.open(portable[1]).manifest)
    with pytest.raises(BundleError, match=r"step\.pte: ExecuTorch cannot load it .*: export the bundle again"):
        open_session(changed)


def test_options_of_other_runtimes_are_refused(portable):
    with pytest.raises(InputError, match="`threads` 2 is onnxruntime's"):
        open_session(portable[1], threads=2)
