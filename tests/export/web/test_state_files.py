"""State files between the ES module and the runtimes of Python."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors import safe_open

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import StateError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.web.web_exporter import WebOptions
from causalrn.runtimes import open_session
from causalrn.runtimes.state_file import load_state
from causalrn.training.checkpoint import load_checkpoint
from causalrn.workflows.export_targets import export_c_bundle, export_web_bundle
from tests.web_tools import needs_web

pytestmark = needs_web

_GO_ON = """
import { readFile, writeFile } from "node:fs/promises";
const [module, folder, given, written, tokens] = process.argv.slice(1);
const { load } = await import(module);
const session = await load(folder);
session.loadState(await readFile(given));
const logits = [...(session.lastLogits ?? [])];
for (const token of JSON.parse(tokens)) logits.push(...(await session.step(token)));
await writeFile(written, session.saveState());
console.log(JSON.stringify(logits));
"""


def go_on(bundle, given, written, tokens):
    """The logits that a state file holds, and those of steps in Node after it, [1 + T, V]; the state goes to a file."""
    words = [bundle / "causalrn.js", bundle, given, written, json.dumps(tokens.tolist())]
    command = ["node", "--input-type=module", "-e", _GO_ON, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return np.array(json.loads(result.stdout), np.float32).reshape(len(tokens) + 1, -1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "recurrent", "node"])
@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_state_goes_to_the_module_and_comes_back(runs, bundles, web_bundles, tmp_path, readout, runtime):
    folder = {"onnxruntime": bundles, "recurrent": runs, "node": web_bundles}[runtime][readout]
    tokens = np.random.default_rng(0).integers(0, 29, (1, 24))
    expected = load_checkpoint(runs[readout]).model.oracle()(torch.from_numpy(tokens)).numpy()[0]
    allowed = TOLERANCES["float32", "node"].relative * np.abs(expected).max()
    given, written = tmp_path / "given.safetensors", tmp_path / "written.safetensors"
    with open_session(folder, runtime) as session:
        session.prefill(tokens[:, :9])
        session.save(given)
        shown = go_on(web_bundles[readout], given, written, tokens[0, 9:18])
        assert np.array_equal(shown[0], session.last_logits[0])
        assert np.abs(shown - expected[8:18]).max() <= allowed
        session.load(written)
        assert session.position == 18
        assert np.array_equal(session.last_logits[0], shown[-1])
        rest = session.prefill(tokens[:, 18:])
        assert np.abs(rest[0] - expected[18:]).max() <= allowed


def test_files_of_both_say_the_same(web_bundles, tmp_path):
    """But for the owner, and the order of entries: the module's owner is the manifest's own hash."""
    given, written = tmp_path / "given.safetensors", tmp_path / "written.safetensors"
    with open_session(web_bundles["exact"]) as session:
        session.prefill([[0, 3, 4]])
        session.save(given)
    go_on(web_bundles["exact"], given, written, np.array([], int))
    ours, theirs = load_state(given), load_state(written)
    assert (ours.position, ours.batch, ours.text_tails) == (theirs.position, theirs.batch, theirs.text_tails)
    assert np.array_equal(ours.logits, theirs.logits)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(np.array_equal(theirs.tensors[name], value) for name, value in ours.tensors.items())
    assert ours.origin.kinds[:2] == theirs.origin.kinds[:2]
    assert json.loads(ours.model) == json.loads(theirs.model)
    assert theirs.owner == Bundle.open(web_bundles["exact"]).manifest.manifest_sha256
    with safe_open(written, framework="numpy") as file:
        assert set(file.metadata()) == {"format", "version", "owner", "position", "batch", *_KINDS}


_KINDS = ("checkpoint", "arithmetic", "model")


@pytest.mark.cases(1)
@pytest.mark.parametrize("pool_dtype", ["int8", "float16"])
def test_narrow_pools_move_bit_for_bit_between_the_module_and_c(runs, tmp_path, pool_dtype):
    web = export_web_bundle(runs["exact"], tmp_path / "web", WebOptions(pool_dtype=pool_dtype)).path
    native = export_c_bundle(runs["exact"], tmp_path / "c", COptions(pool_dtype=pool_dtype))
    given, written = tmp_path / "given.safetensors", tmp_path / "written.safetensors"
    with open_session(native.path) as session:
        session.prefill([[0, 3, 4, 5, 6]])
        session.save(given)
        go_on(web, given, written, np.array([], int))
        taken, returned = session.snapshot(), load_state(written)
        assert all(np.array_equal(returned.tensors[name], value) for name, value in taken.tensors.items())
        assert returned.arithmetic == taken.arithmetic == f"float32+pool{8 if pool_dtype == 'int8' else 16}"
        session.restore(returned)


@pytest.mark.cases(0)
def test_state_of_the_module_is_refused_by_quantized_bundles(web_bundles, runs, tmp_path):
    native = export_c_bundle(runs["linear"], tmp_path / "c", COptions(scheme="w8"))
    given, written = tmp_path / "given.safetensors", tmp_path / "written.safetensors"
    with open_session(web_bundles["linear"]) as session:
        session.prefill([[0, 3, 4, 5, 6]])
        session.save(given)
    go_on(web_bundles["linear"], given, written, np.array([], int))
    with open_session(native.path) as session, pytest.raises(StateError, match=r"'float32', and .* computes in 'w8'"):
        session.load(written)
