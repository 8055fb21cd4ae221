"""Bindings over the handles: each copies a string, goes on from what another one has saved, and reports errors."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
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
    return c_bundle(random_model(seed=3), tmp_path_factory.mktemp("bindings"), prefix="copier", bindings=("go",))


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


@pytest.fixture(scope="module")
def go_module(bundle, tmp_path_factory):
    """The module as export writes it, compiled in a moment, and how to call go: nothing is fetched, nothing is kept."""
    folder = tmp_path_factory.mktemp("go")
    module = shutil.copytree(bundle.path / "bindings" / "go", folder / "module")
    text = (module / "crn.go").read_text()
    assert "#cgo CFLAGS: -std=c99 -O3\n" in text
    (module / "crn.go").write_text(text.replace("-O3", "-O0"))
    settings = {
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOCACHE": str(folder / "cache"),
        "GOPATH": str(folder / "path"),
    }
    settings |= {
        "CGO_ENABLED": "1",
        "CGO_CFLAGS": "-DCOPIER_NO_VECTORS",
        "CRN_WEIGHTS": str(bundle.path / "weights.bin"),
    }
    return module, partial(run, "go", env={**os.environ, **settings})


@pytest.fixture(scope="module")
def go(go_module):
    module, call = go_module
    call("build", "-o", module.parent / "copy", "./copystring", cwd=module)
    return [module.parent / "copy"]


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


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=env, cwd=cwd)
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
needs_go = needs("go", packages="golang")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        pytest.param("python", "cpp", marks=needs_cpp),
        pytest.param("cpp", "python", marks=needs_cpp),
        pytest.param("cpp", "rust", marks=[needs_cpp, needs_rust]),
        pytest.param("rust", "python", marks=needs_rust),
        pytest.param("cpp", "go", marks=[needs_cpp, needs_go]),
        pytest.param("go", "python", marks=needs_go),
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
    "binding",
    [
        "python",
        pytest.param("cpp", marks=needs_cpp),
        pytest.param("rust", marks=needs_rust),
        pytest.param("go", marks=needs_go),
    ],
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


@needs_go
@needs("gofmt", packages="golang")
def test_the_module_for_go_passes_its_tests_vet_and_gofmt(go_module):
    module, call = go_module
    shutil.copy(Path(__file__).parent / "go" / "crn_test.go", module)
    assert run("gofmt", "-l", ".", cwd=module) == ""
    call("vet", "./...", cwd=module)
    assert "ok" in call("test", "-count=1", ".", cwd=module)


@needs_go
def test_the_tests_for_go_notice_a_slot_that_is_lost(go_module, tmp_path):
    module, call = go_module
    broken = shutil.copytree(module, tmp_path / "module")
    shutil.copy(Path(__file__).parent / "go" / "crn_test.go", broken)
    text = (broken / "crn.go").read_text()
    wrong = text.replace("copy(tokens[begin:], request.Tokens)", "copy(tokens, request.Tokens)")
    assert wrong != text
    (broken / "crn.go").write_text(wrong)
    with pytest.raises(AssertionError, match="TestManySlotsGiveWhatEachGivesAlone"):
        call("test", "-count=1", ".", cwd=broken)


@pytest.mark.parametrize("weights", ["file", "inline"])
def test_the_module_for_go_has_all_source_in_it(tmp_path, weights):
    """Go hashes and vendors a package's own folder alone."""
    bundle = c_bundle(random_model(), tmp_path, prefix="v2", bindings=("go",), weights=weights)
    module = bundle.path / "bindings" / "go"
    source = {path.name for path in module.iterdir() if path.suffix in (".c", ".h")}
    inline = {"v2_weights.h"} if weights == "inline" else set()
    assert source == {"v2.c", "v2.h", "v2_api.c", "v2_api.h", "crn_api.h"} | inline
    assert all((module / name).read_bytes() == (bundle.path / name).read_bytes() for name in source)
    assert (module / "go.mod").read_text().startswith("module crn_v2\n")
    assert '#include "v2_api.h"' in (module / "crn.go").read_text()
    for path in module.rglob("*"):
        if path.is_file():
            assert path.relative_to(bundle.path).as_posix() in bundle.manifest.files
            assert "causalrn" not in re.sub(r"causalrn-(export|state)|\\\"causalrn\\\\", "", path.read_text())


def test_bindings_know_every_function_of_the_header():
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
    go = (BINDINGS / "go" / "crn.go").read_text()
    assert {name for name in names if f"causalrn_api()->{name}(" not in go} == {"step"}  # a prefill of one token
