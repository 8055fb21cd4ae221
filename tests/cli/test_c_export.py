"""`export --target c` as users call it: what it writes, verifies, refuses and keeps."""

import json
import shutil
import subprocess

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from tests.c_tools import needs, needs_c_compiler

pytestmark = needs_c_compiler
LOOSE = ("--max-kl", 5, "--max-argmax-changes", 100)

MUTANTS = {
    "a row is forgotten": ("(int)seen : there;", "(int)seen - 1 : there;"),
    "another coefficient of exp2": ("0x1.62e428p-1f", "0x1.62fp-1f"),
    "no mean taken away": ("store(o + i, sub(load(o + i), mean));", "(void)mean;"),
    "a neighbour's row": ("s->position * batch + row, ab + HP)", "s->position * batch + row / 2, ab + HP)"),
    "no position": ("CAUSALRN_POSITIONS ? add(value, load(place + i)) : value", "value"),
    "a bias left out": ("lanes value = add(sums[i][c], bias);", "lanes value = sums[i][c]; (void)bias;"),
}


SAMPLED = [word for level in ("logits", "state", "split", "task") for word in ("--level", level)]


def test_bundle_verifies_runs_and_says_what_it_takes(call, runs, tmp_path):
    code, out, err = call("export", runs["exact"], "-o", tmp_path / "source", "--target", "c")
    assert code == 0, err
    assert "C99, profile generic, weights in weights.bin" in out
    assert "7,072 multiply-accumulates per token, 64 exps per position read" in out
    assert "memory of one sequence: 10,240 bytes of state" in out
    code, out, _ = call("verify", tmp_path / "source", "--checkpoint", runs["exact"], "--samples", 50)
    assert code == 0, out
    assert "native, all ids" in out
    assert call("verify", tmp_path / "source", "--samples", 50, *SAMPLED)[0] == 0
    generated = {}
    for folder in (tmp_path / "source", runs["exact"]):
        code, out, err = call("run", folder, "--prompt", "abc", "--max-new-tokens", 8)
        assert code == 0, err
        generated[folder] = out
    assert len(set(generated.values())) == 1
    code, out, _ = call("inspect", tmp_path / "source")
    assert code == 0
    assert "bundle for c, C99" in out
    assert "of state" in out


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "options", [("--scheme", "w8"), ("--scheme", "w8a8-dynamic", "--pool8"), ("--pool16",)], ids=" ".join
)
def test_quantized_source_is_measured_and_verifies(call, runs, tmp_path, options):
    code, out, err = call("export", runs["exact"], "-o", tmp_path / "source", "--target", "c", *options)
    assert code == 0, out + err
    for row in ("weights", "pool per token", "KL divergence", "lowest SQNR"):
        assert row in out
    sampled = () if "--pool8" in options and "--scheme" in options else SAMPLED  # all kernels once
    arguments = ("--checkpoint", runs["exact"], "--samples", 50, *LOOSE, *sampled)
    code, out, _ = call("verify", tmp_path / "source", *arguments)
    assert code == 0, out
    assert "judged by budgets" in out


def test_quantized_source_that_loses_too_much_is_not_kept(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("causalrn.calibration.report.find_faults", lambda *arguments: ["lost everything"])
    code, _, _ = call("export", runs["exact"], "-o", tmp_path / "source", "--target", "c", "--scheme", "w8")
    assert code == 1
    assert not (tmp_path / "source").exists()


@needs("make", packages="make")
def test_self_test_and_example_build_with_make(c_bundles, tmp_path):
    shutil.copytree(c_bundles["linear"], tmp_path / "source")
    for goal, words in (("test", "passed: 24 tokens"), ("example", ""), ("all", "")):
        result = subprocess.run(["make", goal], cwd=tmp_path / "source", capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "warning" not in result.stderr
        assert words in result.stdout
    example = {"args": ["build/example"], "cwd": tmp_path / "source", "capture_output": True, "text": True}
    said = subprocess.run(**example, input="ab\nA\nab\n", check=True)
    first, wrong, again, end = said.stdout.split("> ")[1:]
    assert (first, wrong, end) == (again, "", "")
    assert first.endswith("\n")
    assert "letters" in said.stderr
    example["args"] = ["build/example", "ab"]
    assert subprocess.run(**example, check=True).stdout == first
    example["args"] = ["build/example", "a" * 99]
    assert subprocess.run(**example, check=False).returncode != 0
    weights = tmp_path / "source" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    failed = subprocess.run(["build/selftest"], cwd=tmp_path / "source", capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "failed: the weights file is truncated\n")


@pytest.mark.cases(0)
@needs("cmake", "make", packages="cmake")
def test_self_test_builds_with_cmake(c_bundles, tmp_path):
    for command in (["cmake", "-S", c_bundles["plain"], "-B", tmp_path], ["cmake", "--build", tmp_path]):
        subprocess.run(command, capture_output=True, check=True)
    result = subprocess.run(["ctest", "--test-dir", tmp_path], capture_output=True, text=True, check=False)
    assert "100% tests passed" in result.stdout


@pytest.mark.cases(0)
def test_self_test_notices_a_wrong_weight(c_bundles, tmp_path):
    """The checksum has been mended: only the numbers tell."""
    import struct
    import zlib

    folder = tmp_path / "source"
    shutil.copytree(c_bundles["exact"], folder)
    content = bytearray((folder / "weights.bin").read_bytes())
    (value,) = struct.unpack_from("<f", content, 20000)
    struct.pack_into("<f", content, 20000, value + 0.01)
    struct.pack_into("<I", content, 20, zlib.crc32(content[64:]))
    struct.pack_into("<I", content, 60, zlib.crc32(content[:60]))
    (folder / "weights.bin").write_bytes(content)
    subprocess.run(["make", "build/selftest"], cwd=folder, capture_output=True, check=True)
    result = subprocess.run(["build/selftest"], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout.startswith("failed: 24 tokens")


@pytest.mark.cases(1)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_verify_catches_wrong_source(call, runs, c_bundles, tmp_path, mutant):
    """Source that compiles and runs, and is wrong; all hashes mended."""
    folder = tmp_path / "source"
    shutil.copytree(c_bundles["exact"], folder)
    source = (folder / "causalrn.c").read_text()
    assert mutant[0] in source
    (folder / "causalrn.c").write_text(source.replace(*mutant))
    seal_bundle(folder, Bundle.open(c_bundles["exact"]).manifest)
    levels = ("--level", "logits", "--level", "state", "--level", "split")
    code, out, err = call("verify", folder, "--checkpoint", runs["exact"], *levels)
    assert code == 1, out + err
    assert "native fails at" in out


@pytest.mark.cases(1)
@needs("arm-none-eabi-gcc", "qemu-system-arm", "make", packages="gcc-arm-none-eabi, qemu-system-arm, make")
@pytest.mark.parametrize("options", [(), ("--scheme", "w8a8-dynamic")], ids=["float32", "w8a8-dynamic"])
def test_firmware_passes_its_self_test_and_is_measured(call, runs, tmp_path, options):
    command = ("export", runs["linear"], "-o", tmp_path / "firmware", "--target", "c", "--profile", "cortex-m")
    code, out, err = call(*command, *options)
    assert code == 0, err
    assert "Cortex-M7 firmware: " in out
    size = json.loads((tmp_path / "firmware" / "size.json").read_text())
    assert size["weights_bytes"] < size["flash_bytes"] < 128_000
    assert 0 < size["stack_bytes"] < 4096
    assert size["state_bytes"] + size["work_bytes"] + size["stack_bytes"] < size["ram_bytes"] < 10_000
    result = subprocess.run(
        ["make", "-f", "cortex_m.mk", "run"], cwd=tmp_path / "firmware", capture_output=True, text=True, check=False
    )
    assert "passed: largest error" in result.stdout
    assert "warning" not in result.stderr


@pytest.mark.cases(0)
@needs("arm-none-eabi-gcc", "make", packages="gcc-arm-none-eabi, make")
def test_firmware_that_does_not_fit_is_refused(call, tmp_path):
    from causalrn.bundle.alphabet import Alphabet
    from causalrn.training.card import ModelCard
    from causalrn.training.checkpoint import save_checkpoint
    from tests.builders import random_model

    model = random_model(capacity=9000, hidden=64)
    save_checkpoint(tmp_path / "run", model, ModelCard(model.config, Alphabet("letters")), {})
    command = ("export", tmp_path / "run", "-o", tmp_path / "out", "--target", "c", "--profile", "cortex-m")
    code, _, err = call(*command)
    assert code == 2
    assert "RAM is" in err
    assert "bytes too small" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheme", "w4"], ["no scheme w4", "w8 or w8a8-dynamic"]),
        (["--opset", "21"], ["--opset", "this is c"]),
        (["--pool", "fixed"], ["--pool", "this is c"]),
        (["--weights", "file", "--profile", "cortex-m"], ["--weights file", "cortex-m"]),
        (["--capacity", "50"], ["50", "40 learned positions"]),
        (["--capacity", "1"], ["capacity 1", "at least 2"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_that_contradict_are_one_clear_line(call, runs, tmp_path, options, words):
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", "--target", "c", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not (tmp_path / "out").exists()


def test_options_of_c_are_refused_for_onnx(call, runs, tmp_path):
    for options in (["--pool8"], ["--pool16"], ["--weights", "inline"], ["--profile", "cortex-m"]):
        code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", *options)
        assert code == 2
        assert "leave it out" in err


@pytest.mark.parametrize(
    ("readout", "options", "words"),
    [
        ("linear", ["--pool8"], "--pool8: this model has no pool"),
        ("linear", ["--pool16"], "--pool16: this model has no pool"),
        ("exact", ["--pool8", "--pool16"], "--pool8 and --pool16 contradict each other: leave one out"),
    ],
)
def test_narrow_pools_that_cannot_be_are_refused(call, runs, tmp_path, readout, options, words):
    code, _, err = call("export", runs[readout], "-o", tmp_path / "out", "--target", "c", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert words in err


def test_transformer_is_refused(call, tmp_path):
    from causalrn.training.card import ModelCard
    from causalrn.training.checkpoint import save_checkpoint
    from tests.builders import random_model

    model = random_model(attention="softmax")
    save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
    code, _, err = call("export", tmp_path / "run", "-o", tmp_path / "out", "--target", "c")
    assert code == 2
    assert "this is a Transformer" in err


def test_no_compiler_is_said_and_leaves_nothing(call, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "abacus-cc")
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", "--target", "c")
    assert code == 2
    assert "CC=abacus-cc is not there" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--provider", "cuda"], "--provider cuda is onnxruntime's"), (["--runtime", "onnxruntime"], "use native")],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_of_other_runtimes_are_refused(call, c_bundles, options, words):
    code, _, err = call("run", c_bundles["exact"], "--prompt", "a", *options)
    assert code == 2
    assert words in err


def test_quantize_and_compile_take_no_c(call, c_bundles, tmp_path):
    for command in (["quantize", "--scheme", "w8"], ["compile"]):
        code, _, err = call(command[0], c_bundles["exact"], "-o", tmp_path / "out", *command[1:])
        assert code == 2
        assert "takes ONNX bundles" in err


@pytest.mark.cases(0)
def test_bundle_with_a_prefix_and_bindings_verifies_with_every_kernel(call, runs, tmp_path):
    """Macros that choose kernels are called otherwise, too."""
    words = ("--target", "c", "--prefix", "copier", "--bindings", "cpp", "--bindings", "python")
    assert call("export", runs["exact"], "-o", tmp_path / "c", *words)[0] == 0
    assert (tmp_path / "c" / "bindings" / "cpp" / "crn.hpp").is_file()
    code, out, _ = call("verify", tmp_path / "c", "--checkpoint", runs["exact"], "--level", "kernels", "--samples", 5)
    assert code == 0, out
    assert "copier.h" in out
