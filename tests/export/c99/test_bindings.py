"""Bindings over the handles: each copies a string, goes on from what another one has saved, and reports errors."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from causalrn.runtimes.native.native_session import NativeSession
from tests.builders import ROOT, random_model
from tests.c_tools import c_bundle, needs, needs_gcc

pytestmark = needs_gcc
BINDINGS = ROOT / "export" / "c99" / "bindings"
PLAIN = ("-O0", "-DCOPIER_NO_VECTORS")
FIRST, THEN = "abcde", "xyz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return c_bundle(random_model(seed=3), tmp_path_factory.mktemp("bindings"), prefix="copier")


@pytest.fixture(scope="module")
def cpp(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    objects = []
    for source in ("copier.c", "copier_api.c"):
        objects.append(folder / f"{source}.o")
        run("gcc", "-std=c99", *PLAIN, "-c", bundle.path / source, "-o", objects[-1])
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    names = ['-DCRN_HEADER="copier_api.h"', "-DCRN_API=copier_api"]
    run("g++", *flags, *names, "-I", bundle.path, BINDINGS / "cpp" / "copy.cpp", *objects, "-lm", "-o", folder / "copy")
    return [folder / "copy"]


@pytest.fixture(scope="module")
def rust(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rust")
    settings = {"CRN_SOURCE": str(bundle.path), "CARGO_TARGET_DIR": str(folder), "CFLAGS": " ".join(PLAIN)}
    command = ["cargo", "build", "--offline", "--quiet", "--example", "copy", "--manifest-path"]
    manifest = folder / "crate" / "Cargo.toml"  # cargo writes a lock file beside it
    subprocess.run(["cp", "-r", BINDINGS / "rust", folder / "crate"], check=True)
    run(*command, manifest, env={**os.environ, **settings})
    run(*command[:4], "--lib", "--no-default-features", "--manifest-path", manifest, env={**os.environ, **settings})
    return [folder / "debug" / "examples" / "copy"]


PYTHON = """
import sys
sys.path.insert(0, sys.argv[1])
from crn import CrnError, Library
library, weights, text, *states = sys.argv[2:]
try:
    with Library(library).open(weights) as model, model.session() as session:
        slot, tokens = session.admit(), [ord(letter) - 97 + 3 for letter in text] + [1]
        if states:
            session.load(slot, states[0])
        row, answer = session.prefill(slot, tokens if states else [0, *tokens])[-1], ""
        for _ in text:
            token = max(range(len(row)), key=lambda i: row[i])
            if token == 2:
                break
            answer += chr(97 + token - 3) if token >= 3 else ""
            row = session.step(slot, token)
        print(answer)
        if states[1:]:
            session.save(slot, states[1])
except CrnError as error:
    print(f"error {error.code}: {error}", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def python(bundle, tmp_path_factory):
    library = tmp_path_factory.mktemp("python") / "libcopier.so"
    sources = [bundle.path / "copier.c", bundle.path / "copier_api.c"]
    run("gcc", "-std=c99", *PLAIN, "-shared", "-fPIC", "-DCOPIER_PLAIN_API", *sources, "-lm", "-o", library)
    return [sys.executable, "-I", "-S", "-c", PYTHON, str(BINDINGS / "python"), str(library)]  # nothing is installed


def run(*command: object, env: dict[str, str] | None = None) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def spoken(bundle, *texts: str) -> list[str]:
    """What the session makes of texts that follow each other."""
    answers = []
    with NativeSession(bundle, flags=PLAIN) as session:
        for number, text in enumerate(texts):
            tokens = [*([0] if number == 0 else []), *(ord(letter) - 94 for letter in text), 1]
            logits, answer = session.prefill([tokens])[0, -1], ""
            for _ in text:
                token = int(np.argmax(logits))
                if token == 2:
                    break
                answer += chr(94 + token) if token >= 3 else ""
                logits = session.step([token])[0]
            answers.append(answer)
    return answers


needs_cpp = needs("g++", packages="g++")
needs_rust = needs("cargo", packages="cargo")


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        pytest.param("python", "cpp", marks=needs_cpp),
        pytest.param("cpp", "python", marks=needs_cpp),
        pytest.param("cpp", "rust", marks=[needs_cpp, needs_rust]),
        pytest.param("rust", "python", marks=needs_rust),
    ],
)
def test_bindings_answer_and_go_on_from_each_others_states(bundle, tmp_path, request, writer, reader):
    write, read = (request.getfixturevalue(name) for name in (writer, reader))
    weights = bundle.path / "weights.bin"
    with NativeSession(bundle, flags=PLAIN) as session:
        session.save(tmp_path / "fresh")
    first, then = spoken(bundle, FIRST, THEN)
    assert run(*write, weights, FIRST) == first
    with NativeSession(bundle, flags=PLAIN) as session:
        session.step([0])
        session.save(tmp_path / "begun")
    assert run(*write, weights, FIRST, tmp_path / "begun", tmp_path / "first") == first
    assert run(*read, weights, THEN, tmp_path / "first", tmp_path / "then") == then
    with NativeSession(bundle, flags=PLAIN) as session:
        session.load(tmp_path / "then")
        assert session.position == 1 + 2 * len(FIRST) + 1 + 2 * len(THEN) + 1


@pytest.mark.parametrize(
    "binding", ["python", pytest.param("cpp", marks=needs_cpp), pytest.param("rust", marks=needs_rust)]
)
def test_bindings_report_errors_in_words(bundle, tmp_path, request, binding):
    program, weights = request.getfixturevalue(binding), bundle.path / "weights.bin"
    cases = {
        (tmp_path / "none", "abc"): "error 33: the file cannot be read",
        (bundle.path / "copier.c", "abc"): "error 1: not a weights file",
        (weights, "a\x7f"): "error 10: a token is outside the vocabulary",
        (weights, "a" * 60): "error 11: no position is left",
        (weights, "abc", weights): "error 37: not a state file",
    }
    for arguments, words in cases.items():
        result = subprocess.run([*map(str, (*program, *arguments))], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr.startswith(words)


def test_export_writes_the_bindings_that_are_asked_for(tmp_path):
    bundle = c_bundle(random_model(), tmp_path, prefix="copier", bindings=("cpp", "rust"))
    for name in ("cpp", "rust"):
        ours = {path.relative_to(BINDINGS): path.read_text() for path in (BINDINGS / name).rglob("*") if path.is_file()}
        assert len(ours) > 1
        for path, text in ours.items():
            assert (bundle.path / "bindings" / path).read_text() == text
            assert f"bindings/{path.as_posix()}" in bundle.manifest.files
    assert not (bundle.path / "bindings" / "python").exists()


def test_the_python_binding_knows_every_function_of_the_header():
    """Names in their order, which is what counts."""
    header = (ROOT / "export" / "c99" / "source" / "crn_api.h").read_text()
    table = header[header.index("typedef struct {\n    uint32_t version, size;") : header.index("} crn_api;")]
    names = [line.split("(*")[1].split(")")[0] for line in table.splitlines() if "(*" in line]
    spec = spec_from_file_location("crn_of_test", Path(BINDINGS / "python" / "crn.py"))
    assert spec is not None
    assert spec.loader is not None
    binding = module_from_spec(spec)
    spec.loader.exec_module(binding)
    assert list(binding._FUNCTIONS) == names
    rust = (BINDINGS / "rust" / "src" / "lib.rs").read_text()
    fields = rust[rust.index("struct Api {") :].split("}")[0]
    assert [line.split(":")[0].strip() for line in fields.splitlines() if ":" in line][2:] == names
