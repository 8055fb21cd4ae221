"""The ES module in Node: its interface, its errors, golden vectors; and the readout's picture against a definition."""

import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.runtimes.torch_sessions import forward_with_streams
from tests.builders import overflowing_model, random_model, reciting_model
from tests.web_tools import needs_web, web_bundle

pytestmark = needs_web
TESTS = Path(__file__).parent / "module_tests.mjs"


def run_node(*words, **environment):
    return subprocess.run(
        ["node", *map(str, words)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_interface_of_the_module(web_bundles, tmp_path):
    folders = {"EXACT": web_bundles["exact"], "LINEAR": web_bundles["linear"]}
    models = {
        "UNBOUNDED": random_model(positions="none", capacity=None),
        "SPIKES": overflowing_model(positions="none", capacity=None),
    }
    folders["RECITING"] = web_bundle(reciting_model(), tmp_path / "reciting", Alphabet("bytes")).path
    folders |= {name: web_bundle(model, tmp_path / name).path for name, model in models.items()}
    result = run_node("--test", TESTS, **{name: str(folder) for name, folder in folders.items()})
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"^# pass (\d+)", result.stdout, re.MULTILINE)[1]) >= 20
    assert "# skipped 0" in result.stdout


def test_declarations_name_what_the_module_has():
    module = files("causalrn.export.web") / "module"
    code, types = ((module / f"causalrn.{kind}").read_text() for kind in ("js", "d.ts"))
    declared = re.search(r"export class Session \{\n(.*?)\n\}", types, re.DOTALL)[1]
    methods = set(re.findall(r"^  (\w+)\(", declared, re.MULTILINE))
    fields = set(re.findall(r"^  readonly (\w+):", declared, re.MULTILINE))
    session = code[code.index("export class Session") :]
    assert methods == set(re.findall(r"^  (?:async )?\*?(\w+)\([^)]*\) \{$", session, re.MULTILINE)) - {"constructor"}
    given = re.findall(r"this\.(\w+) =", session.partition("#engine;")[0]) + re.findall(
        r"^  get (\w+)\(", session, re.M
    )
    assert fields == set(given)


_SHOW = """
const { load } = await import(process.argv[1]);
const session = await load(process.argv[2]);
session.watch();
await session.prefill(JSON.parse(process.argv[3]));
const shares = [];
for (let block = 0; block < session.blocks; block++) shares.push([...session.shares(block, session.position - 1)]);
console.log(JSON.stringify(shares));
"""

SHARES = {
    "exact": {},
    "exact, 2 heads, each scaled": {"heads": 2},
    "exact, heads of 10 of 16 lanes": {"heads": 3, "hidden": 30},
    "exact, rms": {"norm": "rms"},
    "exact, eps": {"heads": 2, "norm_eps": 1e-2},
    "exact, relu, no post-norm": {"activation": "relu", "post_norm": False},
    "linear": {"readout": "linear"},
    "plain": {"readout": "plain", "hidden": 30},
}


@pytest.mark.cases(3)
@pytest.mark.parametrize("options", SHARES.values(), ids=SHARES)
def test_shares_are_parts_of_what_an_output_reads(tmp_path, options):
    model = random_model(**options)
    tokens = np.random.default_rng(0).integers(0, 29, (1, 12))
    bundle = web_bundle(model, tmp_path).path
    result = run_node(
        "--input-type=module", "-e", _SHOW, bundle / "causalrn.js", bundle, json.dumps(tokens[0].tolist())
    )
    assert result.returncode == 0, result.stderr
    oracle = model.oracle()
    _, streams = forward_with_streams(oracle, tokens)
    for block, shown in zip(range(2), json.loads(result.stdout), strict=True):
        np.testing.assert_allclose(shown, expected_shares(oracle, block, streams[block][0]), atol=2e-5)


def expected_shares(oracle, block, stream):
    """By definition, in float64, from weights that were not folded."""
    config, part = oracle.config, oracle.blocks[block]
    rows = torch.from_numpy(stream)
    rows = norm(rows, config)
    with torch.no_grad():
        a, b = part.fc_1(rows)[-1], part.fc_2(rows)
    heads = (-1, config.heads, config.head_width)
    if config.readout == "exact":
        pairs = norm((a + b).reshape(heads), config).reshape(len(b), -1)
    elif config.readout == "linear":
        pairs = norm(a, config) + norm(b, config)
    else:
        pairs = a + b
    terms = torch.exp(pairs) if config.activation == "exp" else torch.relu(pairs)
    if config.head_scale == "max":
        largest = terms.sum(0).reshape(heads[1:]).amax(-1, keepdim=True)
        terms = (terms.reshape(heads) / largest).reshape(len(b), -1)
    if config.post_norm and config.norm == "layer":
        terms = terms - terms.mean(-1, keepdim=True)
    whole = terms.sum(0)
    return (terms @ whole / (whole @ whole)).numpy()


def norm(values, config):
    centred = values - values.mean(-1, keepdim=True) if config.norm == "layer" else values
    return centred / (centred.pow(2).mean(-1, keepdim=True).sqrt() + config.norm_eps)


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_node_script_verifies_a_folder(web_bundles, tmp_path, readout):
    result = run_node(web_bundles[readout] / "verify.mjs")
    assert result.returncode == 0, result.stderr
    verdicts = [line for line in result.stdout.splitlines() if line.startswith("passed: WebAssembly SIMD, node ")]
    assert len(verdicts) == (2 if readout == "exact" else 1)
    assert all(len(line) <= 140 for line in result.stdout.splitlines())
    report = json.loads(run_node(web_bundles["exact"] / "verify.mjs", web_bundles[readout], "--json").stdout)
    assert report["passed"]
    assert {row["check"] for row in report["rows"]} >= {"logits", "state", "prefill", "recorded", "snapshot"}
    assert all(row["error"] <= 5e-6 for row in report["rows"] if row["check"] == "logits")


def test_node_script_fails_in_one_line(web_bundles, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(web_bundles["exact"], folder)
    golden = folder / "golden.safetensors"
    content = bytearray(golden.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    start = 8 + int.from_bytes(content[:8], "little") + header["recorded.logits"]["data_offsets"][0]
    content[start] ^= 1  # the last bit of one number
    golden.write_bytes(content)
    seal_bundle(folder, Bundle.open(web_bundles["exact"]).manifest)
    result = run_node(folder / "verify.mjs")
    assert result.returncode == 1
    assert re.findall(r"FAILED +(\w+) +as when it was exported", result.stdout) == ["recorded"]
    assert "passed: WebAssembly SIMD" in result.stdout, "the bundle beside it is whole"
    golden.unlink()
    usage = "usage: node verify.mjs"
    wrong = (((), "golden.safetensors cannot be read"), (("--fast",), usage), (("--timeout", "soon"), usage))
    for words, message in wrong:
        result = run_node(folder / "verify.mjs", *words)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def fails_in_one_line(*words):
    result = run_node(*words)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("name", ["causalrn.js", "engine_simd.wasm", "weights.bin", "golden.safetensors", "page.css"])
def test_node_script_executes_nothing_of_a_changed_bundle(web_bundles, tmp_path, name):
    folder, beside = tmp_path / "bundle", tmp_path / "bundle" / "beside"
    shutil.copytree(web_bundles["exact"], folder)
    for place in (folder, beside):
        content = (place / name).read_bytes()
        (place / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert f"{name}: content differs from the manifest's SHA-256" in fails_in_one_line(folder / "verify.mjs")
        (place / name).write_bytes(content)
    (folder / name).write_bytes(b"")
    if name.endswith(".js"):  # the checking folder's own modules count too
        assert "content differs" in fails_in_one_line(folder / "verify.mjs", web_bundles["exact"])
    assert "content differs" in fails_in_one_line(web_bundles["exact"] / "verify.mjs", folder)


def test_node_script_names_a_manifest_that_was_changed(web_bundles, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(web_bundles["exact"], folder)
    for path in (folder / "manifest.json", folder / "beside" / "manifest.json"):
        text = path.read_text()
        changed = re.sub(r'"size_bytes": (\d)', r'"size_bytes": 1\1', text, count=1)
        for content, words in (
            (changed, "not as it was written|another bundle"),
            ("{", "not valid JSON|another bundle"),
        ):
            path.write_text(content)
            assert re.search(words, fails_in_one_line(folder / "verify.mjs"))
        path.write_text(text)
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    assert "weights.bin cannot be read (no file)" in fails_in_one_line(folder / "verify.mjs")


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("for (;;);", "no answer in 2 s"),
        ("await new Promise(() => {});", "ended without an answer"),
        ("process.exit(0);", "ended without an answer"),
        ("throw new Error('broken');", "broken: copy it again"),
        ("import './nothing.js';", "nothing.js"),
        ("export let", "copy it again"),
    ],
)
def test_node_script_ends_whatever_a_module_does(web_bundles, tmp_path, added, words):
    folder = tmp_path / "bundle"
    shutil.copytree(web_bundles["linear"], folder)
    module = folder / "causalrn.js"
    module.write_text(f"{module.read_text()}\n{added}\n")
    seal_bundle(folder, Bundle.open(web_bundles["linear"]).manifest)
    assert words in fails_in_one_line(folder / "verify.mjs", "--timeout", 2)
