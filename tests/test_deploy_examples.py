"""The step loops of examples/deploy/ generate what the toolkit's sessions generate; docs/deploy/ shows these files."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.export.c99.c99_exporter import COptions
from causalrn.workflows.export_targets import export_bundle, export_c_bundle
from tests.c_tools import needs, needs_c_compiler
from tests.conftest import Share
from tests.web_tools import needs_web

ROOT = Path(__file__).parents[1]
LOOPS = ROOT / "examples" / "deploy"
PAGES = ROOT / "docs" / "deploy"

PROMPTS = ("fox", "a", "zyxwvutsrqponmlkjihgfedcbaabcdefghijkl")
"""The last one fills all 40 positions, with its markers: what follows it finds no room."""
TOO_LONG = "a" * 39


def greedy(bundle: Path, prompt: str) -> str:
    """What a loop prints: token ids, and their letters."""
    with causalrn.open_session(bundle) as session:
        steps = list(session.generate(prompt))
    tokens = [int(step.tokens[0]) for step in steps]
    return " ".join(map(str, tokens)) + "\n" + "".join(step.text for step in steps) + "\n"


def run_loop(command: Sequence[object], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command), *map(str, arguments)], capture_output=True, text=True, check=False)


def check_loop(command: Sequence[object], bundle: Path, prompts: Sequence[str] = PROMPTS) -> None:
    """Its output is the session's, with the state handed on at any token; bad input is one line and exit code 2."""
    for prompt in prompts:
        expected = greedy(bundle, prompt)
        count = len(expected.split("\n")[0].split())
        for pause in ((), (count // 2,), (count,)):
            result = run_loop(command, bundle, prompt, *pause)
            assert (result.returncode, result.stdout, result.stderr) == (0, expected, ""), (prompt, pause)
    for prompt in ("", "fo9", "FOX", TOO_LONG):
        result = run_loop(command, bundle, prompt)
        assert (result.returncode, result.stdout) == (2, "")
        assert re.fullmatch(r"step_loop: .+\n", result.stderr)


def check_damage_is_seen(command: Sequence[object], bundle: Path, folder: Path, name: str = "weights.bin") -> None:
    """A bit of the weights is another one: nothing is generated."""
    shutil.copytree(bundle, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    result = run_loop(command, folder, "fox")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"step_loop: .+\n", result.stderr)


@pytest.fixture(scope="session")
def present_bundle(runs: dict[str, Path], share: Share) -> Path:
    """The exact RUN with a fixed pool that the graph gives back whole: what phones take."""

    def fill(folder: Path) -> None:
        export_bundle(runs["exact"], folder / "bundle", pool="fixed", present=True, capacity=None, opset=23)

    return share("present", fill) / "bundle"


# --- Python -----------------------------------------------------------------------------------------------------------

BLOCKED = ("causalrn", "torch", "onnx")


def python_loop() -> list[str]:
    """The script in a process in which neither the toolkit nor torch can be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); import runpy; sys.argv[0] = 'step_loop'"
    return [
        sys.executable,
        "-W",
        "error",
        "-c",
        f"{block}; runpy.run_path({str(LOOPS / 'step_loop.py')!r}, run_name='__main__')",
    ]


@pytest.mark.slow
def test_python_loop_generates_what_the_session_does(bundles: dict[str, Path], tmp_path: Path) -> None:
    check_loop(python_loop(), bundles["exact"], prompts=PROMPTS[:1])
    check_damage_is_seen(python_loop(), bundles["exact"], tmp_path / "damaged")


KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"pool": "fixed"},
    "present": {"pool": "fixed", "present": True},
    "concat": {"pool": "concat"},
    "int32": {"index_type": "int32"},
}


@pytest.fixture
def step_loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Python loop as a module: it lies in no package."""
    monkeypatch.syspath_prepend(str(LOOPS))
    return importlib.import_module("step_loop")


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "linear", "plain", *KINDS, "pool8"])
def test_python_loop_takes_every_state(
    kind: str,
    step_loop: Any,
    bundles: dict[str, Path],
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = bundles.get(kind, tmp_path / "bundle")
    if kind in KINDS:
        export_bundle(runs["exact"], bundle, **{"pool": "growing", "capacity": None, "opset": 23, **KINDS[kind]})
    elif kind == "pool8":
        causalrn.quantize(bundles["exact"], output=bundle, pool8=True, max_kl=10.0)  # random weights
    for prompt in PROMPTS:
        for pause in ("0", "1", "7", "1000"):
            step_loop.main(str(bundle), prompt, pause)
            assert capsys.readouterr().out == greedy(bundle, prompt)


def test_python_conversations_share_a_model(bundles: dict[str, Path], step_loop: Any) -> None:
    """Two that take turns give what each gives alone; an error takes nothing; a state of another bundle is refused."""
    model, other = step_loop.Model(bundles["exact"]), step_loop.Model(bundles["linear"])
    first, second = step_loop.Conversation(model), step_loop.Conversation(model)
    first.take(step_loop.encode("fox"))
    second.take(step_loop.encode("a"))
    with pytest.raises(step_loop.StepLoopError, match="ends at 40"):
        first.take([3] * 40)
    made: tuple[list[int], list[int]] = ([], [])
    streams = (first.generate(), second.generate())
    for _ in range(12):
        for stream, tokens in zip(streams, made, strict=True):
            tokens.extend([next(stream)])
    for prompt, tokens in zip(("fox", "a"), made, strict=True):
        assert greedy(bundles["exact"], prompt).split()[:12] == [str(token) for token in tokens]
    with pytest.raises(step_loop.StepLoopError, match="another bundle"):
        step_loop.Conversation(other).restore(first.save())


# --- C and C++ --------------------------------------------------------------------------------------------------------

STRICT = ("-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


def built(*command: object) -> None:
    result = run_loop(command)
    assert result.returncode == 0, result.stderr


def built_c(bundle: Path, output: Path) -> Path:
    built("cc", "-std=c99", *STRICT, "-I", bundle, LOOPS / "step_loop.c", bundle / "causalrn.c", "-lm", "-o", output)
    return output


@pytest.mark.cases(1)
@needs_c_compiler
@pytest.mark.slow
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_c_loop_generates_what_the_session_does(readout: str, c_bundles: dict[str, Path], tmp_path: Path) -> None:
    program = built_c(c_bundles[readout], tmp_path / "step_loop")
    check_loop([program], c_bundles[readout])
    check_damage_is_seen([program], c_bundles[readout], tmp_path / "damaged")


@pytest.mark.cases(0)
@needs_c_compiler
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"pool_dtype": "int8"}, {"scheme": "w8"}], ids=str)
def test_c_loop_takes_weights_in_flash(options: dict[str, Any], runs: dict[str, Path], tmp_path: Path) -> None:
    bundle = export_c_bundle(runs["exact"], tmp_path / "bundle", COptions(weights="inline", **options)).path
    check_loop([built_c(bundle, tmp_path / "step_loop")], bundle)


@pytest.mark.cases(1)
@needs("g++", packages="g++")
@needs_c_compiler
@pytest.mark.slow
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_cpp_loop_generates_what_the_session_does(readout: str, c_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle, program = c_bundles[readout], tmp_path / "step_loop"
    built("cc", "-std=c99", "-O1", "-c", bundle / "causalrn.c", "-o", tmp_path / "causalrn.o")
    built("g++", "-std=c++17", *STRICT, "-I", bundle, LOOPS / "step_loop.cpp", tmp_path / "causalrn.o", "-o", program)
    check_loop([program], bundle)
    check_damage_is_seen([program], bundle, tmp_path / "damaged")
    assert "cannot be opened" in run_loop([program], tmp_path / "nowhere", "fox").stderr


FIRMWARE = """
#include "causalrn.h"
int step_loop_begin(const causalrn_weights *weights, const char *prompt);
int step_loop_next(int32_t *token, int *finished);
void step_loop_suspend(void);
int step_loop_resume(const causalrn_weights *weights);

static void write_number(int number)
{
    char text[8] = "       ";
    int place = 7;
    text[place] = 0;
    do
        text[--place] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    register int r0 __asm__("r0") = 4;
    register const void *r1 __asm__("r1") = text;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

int causalrn_selftest(const causalrn_weights *weights, float *worst)
{
    int32_t token;
    int finished = 0, code = step_loop_begin(weights, "fox");
    for (int made = 0; code == CAUSALRN_OK && !finished; made++) {
        if (made == 5) {
            step_loop_suspend();
            code = step_loop_resume(weights);
        }
        if (code == CAUSALRN_OK)
            code = step_loop_next(&token, &finished);
        if (code == CAUSALRN_OK)
            write_number((int)token);
    }
    *worst = 0.0f;
    return code;
}
"""
"""In the place of the self-test, so that the bundle's own start-up code runs the loop."""


@needs("arm-none-eabi-gcc", "qemu-system-arm", packages="gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm")
@needs_c_compiler
@pytest.mark.slow
def test_c_loop_runs_on_a_cortex_m(runs: dict[str, Path], tmp_path: Path) -> None:
    options = COptions(scheme="w8a8-dynamic", weights="inline", profile="cortex-m")
    bundle = export_c_bundle(runs["linear"], tmp_path / "bundle", options).path
    expected = greedy(bundle, "fox").split("\n")[0].split()
    work = tmp_path / "work"
    shutil.copytree(bundle, work)
    (work / "selftest.c").write_text(
        "#define STEP_LOOP_NO_MAIN\n" + (LOOPS / "step_loop.c").read_text(encoding="utf-8") + FIRMWARE,
        encoding="utf-8",
    )
    result = run_loop(["make", "-s", "-C", work, "-f", "cortex_m.mk", "run"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.partition("passed")[0].split()[-len(expected) :] == expected


# --- JavaScript -------------------------------------------------------------------------------------------------------


@pytest.mark.cases(1)
@needs_web
@pytest.mark.slow
@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_javascript_loop_generates_what_the_session_does(
    readout: str, web_bundles: dict[str, Path], tmp_path: Path
) -> None:
    command = ["node", LOOPS / "step_loop.mjs"]
    check_loop(command, web_bundles[readout])
    check_damage_is_seen(command, web_bundles[readout], tmp_path / "damaged")


@pytest.mark.cases(0)
@pytest.mark.slow
def test_javascript_loop_takes_onnxruntime_web(ort_web_bundle: Path) -> None:
    result = run_loop(["node", LOOPS / "step_loop.mjs"], ort_web_bundle, "fox", 3)
    assert (result.returncode, result.stdout) == (0, greedy(ort_web_bundle, "fox"))


# --- Kotlin and Swift, which are not compiled here --------------------------------------------------------------------

MANIFEST_KEYS = re.compile(r'get(?:String|Int|Long|JSONObject|JSONArray)\("(\w+)"\)|isNull\("(\w+)"\)')


def keys_of(value: Any) -> set[str]:
    """Every key of a JSON value, however deep."""
    if isinstance(value, dict):
        return {*value} | {key for each in value.values() for key in keys_of(each)}
    return {key for each in value for key in keys_of(each)} if isinstance(value, list) else set()


def swift_fields(text: str) -> set[str]:
    """Names that `Manifest` and the structures in it decode, without those that may be missing or are computed."""
    body = text[text.index("struct Manifest: Decodable") : text.index("/// A state at one moment")]
    body = re.sub(r"struct Size.*?\n    }\n", "", body, flags=re.DOTALL)
    lines = re.findall(r"\blet ([\w, ]+): [^?\n}]+?(?:\n| })", body)
    return {name.strip() for line in lines for name in line.split(",")}


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_phones_loops_use_the_names_of_the_state_contract(
    readout: str, present_bundle: Path, bundles: dict[str, Path]
) -> None:
    """Inputs and outputs of the step, and the keys of the manifest that the loops read."""
    import onnxruntime

    bundle = Bundle.open(present_bundle if readout == "exact" else bundles[readout])
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    graph = manifest["graphs"].get("step_single", manifest["graphs"]["step"])
    session = onnxruntime.InferenceSession(bundle.path / graph["file"], providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    tensors = manifest["state"]["tensors"]
    kotlin, swift = ((LOOPS / f"step_loop.{ending}").read_text(encoding="utf-8") for ending in ("kt", "swift"))
    for text in (kotlin, swift):
        given = set(re.findall(r'"(tokens|position|logits)"', text))
        assert given == {"tokens", "position", "logits"}
        assert set(inputs) == given - {"logits"} | {tensor["input"] for tensor in tensors}
        assert {value.name for value in session.get_outputs()} == {"logits"} | {t["output"] for t in tensors}
    assert (inputs["tokens"].type, inputs["position"].type) == ("tensor(int64)", "tensor(int64)")
    assert inputs["position"].shape == []
    # what both loops refuse, they may refuse: this bundle is one that they take
    assert {(t["update"], t["dtype"]) for t in tensors} == {("replace", "float32")}
    assert {[type(size) for size in t["shape"]].count(str) for t in tensors} == {1}
    read = {one or two for one, two in MANIFEST_KEYS.findall(kotlin)}
    assert {"tensors", "input", "output", "shape", "capacity", "sha256"} <= read
    assert read - {"step_single"} <= keys_of(manifest)
    assert {"tensors", "input", "output", "shape", "sha256"} <= swift_fields(swift) <= keys_of(manifest)


def test_a_name_that_no_manifest_has_is_found() -> None:
    kotlin = (LOOPS / "step_loop.kt").read_text(encoding="utf-8").replace('"output"', '"outptu"')
    assert "outptu" in {one or two for one, two in MANIFEST_KEYS.findall(kotlin)}
    swift = (
        (LOOPS / "step_loop.swift")
        .read_text(encoding="utf-8")
        .replace("input, output: String", "input, outptu: String")
    )
    assert "outptu" in swift_fields(swift)


# --- the pages --------------------------------------------------------------------------------------------------------


def test_every_loop_is_shown_whole_on_a_page() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    included = re.findall(r"\{literalinclude\} \.\./\.\./examples/deploy/(\S+)", shown)
    assert sorted(included) == sorted(path.name for path in LOOPS.glob("step_loop.*"))
    assert len(included) == 6
    for name in ("android.md", "ios.md"):  # whoever takes these has to know
        assert "has not been compiled" in (PAGES / name).read_text(encoding="utf-8")
