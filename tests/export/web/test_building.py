"""What a web bundle is built with, clang for the engines and npm for onnxruntime-web: its size, and what fails."""

import gzip
import io
import json
import subprocess
import tarfile

import pytest

from causalrn.bundle.json_values import own_hash
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.web_spec import LIMITS
from causalrn.errors import BundleError, ConfigError, RuntimeUnavailableError
from causalrn.export.web.npm_package import fetch_files
from causalrn.export.web.wasm_builder import MODULES, WASM_SOURCE, build_modules, find_clang
from causalrn.export.web.web_exporter import WebOptions
from tests.builders import random_model
from tests.web_tools import needs_web, web_bundle

LARGEST_BYTES, LARGEST_GZIP_BYTES = 60_000, 15_000
SIZES = {"embedding": 192, "hidden": 192, "blocks": 12, "capacity": 130}
VARIANTS = {
    "exact": ({}, {}),
    "exact, 4 heads, rms": ({"heads": 4, "norm": "rms"}, {}),
    "exact, gelu": ({"activation": "gelu"}, {}),
    "exact, w8a8-dynamic, pool8": ({}, {"scheme": "w8a8-dynamic", "pool_dtype": "int8"}),
    "linear": ({"readout": "linear"}, {}),
    "tiny, 2 heads": ({"embedding": 40, "hidden": 56, "heads": 2, "blocks": 2}, {}),
}


@pytest.mark.cases(1)
@needs_web
@pytest.mark.parametrize(("model", "options"), VARIANTS.values(), ids=VARIANTS)
def test_engine_is_small_and_needs_nothing(tmp_path, model, options):
    bundle = web_bundle(random_model(**{**SIZES, **model}), tmp_path, **options)
    for name in MODULES.values():
        content = (bundle.path / name).read_bytes()
        assert len(content) <= LARGEST_BYTES
        assert len(gzip.compress(content, 9)) <= LARGEST_GZIP_BYTES
        assert 2 not in sections(content), "it has an import section"


def sections(module):
    """Numbers of a WebAssembly module's sections."""
    place, found = 8, []
    while place < len(module):
        found.append(module[place])
        size, shift, place = 0, 0, place + 1
        while True:
            byte = module[place]
            size, shift, place = size | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                break
        place += size
    return found


@needs_web
def test_second_export_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (web_bundle(random_model(), tmp_path / name) for name in ("a", "b"))
    assert first.sha256 == second.sha256
    assert first.manifest.files == second.manifest.files


@needs_web
@pytest.mark.parametrize("options", [{}, {"readout": "linear", "hidden": 44}, {"readout": "plain"}], ids=str)
def test_source_compiles_without_a_warning(tmp_path, options):
    folder = web_bundle(random_model(**options), tmp_path).path
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    for simd in ([], ["-msimd128"]):
        command = [find_clang(), "--target=wasm32", "-std=c99", "-ffreestanding", "-fsyntax-only", *warnings, *simd]
        result = subprocess.run([*command, WASM_SOURCE], cwd=folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_missing_clang_is_named(monkeypatch):
    monkeypatch.delenv("CLANG", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"no clang was found.*install clang and lld"):
        find_clang()
    monkeypatch.setenv("CLANG", "clang-99")
    with pytest.raises(RuntimeUnavailableError, match="CLANG=clang-99 is not there"):
        find_clang()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'clang: error: unable to execute command: wasm-ld' >&2; exit 1", "wasm-ld.*install clang and lld"),
        ("exit 3", "exit 3"),
    ],
)
def test_clang_that_cannot_link_is_named(tmp_path, monkeypatch, script, words):
    fake = tmp_path / "clang"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CLANG", str(fake))
    with pytest.raises(RuntimeUnavailableError, match=words):
        build_modules(tmp_path)


def test_transformer_and_quantized_graphs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="C source is written for a CausalRN only"):
        web_bundle(random_model(attention="softmax", hidden=128), tmp_path / "a")
    with pytest.raises(ConfigError, match="leave out `engine` ort-web"):
        WebOptions(engine="onnxruntime-web", scheme="w8")


@needs_web
def test_manifest_of_nonsense_is_refused(tmp_path):
    bundle = web_bundle(random_model(), tmp_path)
    data = bundle.manifest.entries()
    wrong: list[dict[str, object]] = [
        {"modules": {}},
        {"modules": {"simd": "engine_simd.wasm", "plain": "missing.wasm"}},
        {"engine": "webgpu"},
        {"version": "1"},
        {"limits": {"kl_divergence": 0.01}},
        {"limits": dict.fromkeys(LIMITS, 0.1)},
        {"limits": dict.fromkeys(LIMITS, "x")},
    ]
    for change in wrong:
        with pytest.raises(BundleError, match="malformed manifest"):
            resealed(data, web=data["web"] | change)
    with pytest.raises(BundleError, match=r"without entry for web|source for the web"):
        resealed(data, native=None)
    with pytest.raises(BundleError, match="folders that cannot be"):
        resealed(data, folders={"other": "0" * 64})
    assert resealed(data).web == bundle.manifest.web


def resealed(data, **changes):
    changed = {**data, **changes}
    return Manifest.from_entries({**changed, "manifest_sha256": own_hash(changed, "manifest_sha256")}, "it")


# --- npm --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Puts a shell script called npm on an otherwise empty PATH."""

    def write(script):
        npm = tmp_path / "npm"
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(0o755)
        monkeypatch.setattr("shutil.which", lambda name: str(npm) if name == "npm" else None)

    return write


def test_files_come_out_of_a_package(tmp_path, fake_npm):
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/dist/a.mjs")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    fake_npm(f'test "$1 $2" = "pack some-package@1.2.3" && cp {tmp_path}/made.tgz some-package-1.2.3.tgz')
    fetch_files("some-package", "1.2.3", {"dist/a.mjs": "b.js"}, tmp_path)
    assert (tmp_path / "b.js").read_text() == "hello"
    with pytest.raises(RuntimeUnavailableError, match=r"some-package 1\.2\.3 is not as expected.*c\.mjs"):
        fetch_files("some-package", "1.2.3", {"dist/c.mjs": "c.js"}, tmp_path)
    fake_npm("echo nonsense > some-package-1.2.3.tgz")
    with pytest.raises(RuntimeUnavailableError, match="is not as expected"):
        fetch_files("some-package", "1.2.3", {"dist/a.mjs": "b.js"}, tmp_path)


def test_npm_that_is_missing_or_fails_is_named(tmp_path, fake_npm, monkeypatch):
    error = json.dumps({"error": {"code": "ENOTFOUND", "summary": "request to the registry failed"}})
    fake_npm(f"echo '{error}'; exit 1")
    with pytest.raises(RuntimeUnavailableError, match=r"cannot fetch p@1 \(request to the registry failed\)"):
        fetch_files("p", "1", {}, tmp_path)
    fake_npm("echo 'npm ERR! offline' >&2; exit 1")
    with pytest.raises(RuntimeUnavailableError, match=r"npm ERR! offline.*check network"):
        fetch_files("p", "1", {}, tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="install nodejs and npm"):
        fetch_files("p", "1", {}, tmp_path)
