"""The C source under compilers: no warnings, the same bits, refused flags, sanitizers, other processors."""

import platform
import subprocess

import numpy as np
import pytest
import torch

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.runtimes.native.builds import ARM_COMPILER, arm_emulator
from tests.builders import ROOT, overflowing_model, random_model, relative_error
from tests.c_tools import CLANG, c_bundle, compile_c, logits_of, needs, needs_clang, needs_gcc

SPEAK = ROOT / "tests" / "export" / "c99" / "step_tokens.c"
FAILED = ROOT / "tests" / "export" / "c99" / "failed_prefill.c"
LIMIT = TOLERANCES["float32", "native"].relative
TOKENS = np.random.default_rng(0).integers(0, 29, 40)
ARM = arm_emulator()
PORTABLE, AVX2, AVX512 = "0", "1", "2"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
MODELS = {
    "exact": ({"heads": 2, "hidden": 44}, {}),
    "exact, pool8": ({}, {"pool_dtype": "int8", "scheme": "w8a8-dynamic"}),
    "exact, pool16": ({"heads": 2, "hidden": 44}, {"pool_dtype": "float16"}),
    "exact, gelu": ({"activation": "gelu"}, {"scheme": "w8"}),
    "exact, elu": ({"activation": "elu", "post_norm": False}, {}),
    "linear": ({"readout": "linear", "positions": "none", "capacity": None}, {}),
    "plain": ({"readout": "plain"}, {"scheme": "w8a8-dynamic"}),
}


def bundle_of(name, folder) -> Bundle:
    model, options = MODELS[name]
    return c_bundle(random_model(**model), folder, **options)


def stepper(command, bundle, folder, name="stepper"):
    return compile_c([*command], [SPEAK, bundle.path / "causalrn.c"], bundle, folder / name)


@pytest.mark.cases(1)
@needs_gcc
@pytest.mark.parametrize("name", MODELS)
def test_gcc_has_nothing_to_warn_of(tmp_path, name):
    stepper(["gcc", *STRICT, "-O2"], bundle_of(name, tmp_path), tmp_path)


@pytest.mark.cases(1)
@needs_clang
@pytest.mark.parametrize("name", MODELS)
def test_clang_has_nothing_to_warn_of(tmp_path, name):
    stepper([CLANG, *STRICT, "-O1"], bundle_of(name, tmp_path), tmp_path)


@pytest.mark.cases(0)
@needs_gcc
@pytest.mark.parametrize("name", ["exact", "exact, pool16", "exact, gelu", "linear", "plain"])
def test_optimization_and_vector_widths_change_no_bit(tmp_path, name):
    bundle, outputs = bundle_of(name, tmp_path), []
    for level in ("-O2", "-O3"):
        program = stepper(["gcc", "-std=c99", level], bundle, tmp_path, f"stepper{level}")
        for isa in (AVX2, AVX512):
            if subprocess.run([program, bundle.path / "weights.bin", isa], input=b"", check=False).returncode == 0:
                outputs.append(logits_of([program], TOKENS, bundle).tobytes())
    if not outputs:
        pytest.skip("this processor has neither AVX2 nor AVX-512")
    assert len(set(outputs)) == 1


@pytest.mark.cases(0)
@needs_gcc
@pytest.mark.parametrize("name", ["exact", "exact, elu", "exact, pool8", "exact, pool16", "linear"])
def test_reproducible_build_gives_the_same_bits_with_any_compiler(tmp_path, name):
    bundle = bundle_of(name, tmp_path)
    builds = [["gcc", "-O3"], ["gcc", "-O0"], ["gcc", "-O2", "-DCAUSALRN_NO_VECTORS"]]
    builds += [[CLANG, "-O2"]] if CLANG else []
    outputs = set()
    for number, command in enumerate(builds):
        command = [*command, "-std=c99", "-DCAUSALRN_REPRODUCIBLE"]
        program = stepper(command, bundle, tmp_path, f"stepper{number}")
        outputs.add(logits_of([program], TOKENS, bundle).tobytes())
    assert len(outputs) == 1


@needs_gcc
@pytest.mark.parametrize(("flags", "words"), [(["-std=c99", "-ffast-math"], "IEEE"), (["-std=gnu99"], "std=c99")])
def test_flags_that_change_the_arithmetic_are_refused(tmp_path, flags, words):
    bundle = bundle_of("exact", tmp_path)
    command = ["gcc", *flags, "-c", bundle.path / "causalrn.c", "-o", tmp_path / "x.o"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert words in result.stderr


@pytest.mark.cases(1)
@needs_gcc
@pytest.mark.parametrize("name", ["exact", "exact, pool8", "exact, pool16", "linear"])
def test_sanitizers_find_nothing(tmp_path, name):
    bundle = bundle_of(name, tmp_path)
    command = ["gcc", "-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = stepper(command, bundle, tmp_path)
    for isa in ([], [PORTABLE]):
        assert np.isfinite(outputs(program, bundle, isa)).all()


def outputs(program, bundle, arguments):
    command = [program, bundle.path / "weights.bin", *arguments]
    result = subprocess.run(command, input=TOKENS.astype(np.int32).tobytes(), capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    return np.frombuffer(result.stdout, np.float32)


@pytest.mark.cases(0)
@needs("gcc", "valgrind", packages="gcc, valgrind")
@pytest.mark.parametrize("name", ["exact, pool8", "linear"])
def test_valgrind_finds_nothing(tmp_path, name):
    bundle = bundle_of(name, tmp_path)
    program = stepper(["gcc", "-std=c99", "-O1", "-g"], bundle, tmp_path)
    command = ["valgrind", "-q", "--error-exitcode=9", program, bundle.path / "weights.bin"]
    result = subprocess.run(command, input=TOKENS.astype(np.int32).tobytes(), capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()[-2000:]


@pytest.mark.cases(1)
@needs(ARM_COMPILER, ARM[0], packages="gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user")
@pytest.mark.parametrize("name", ["exact", "exact, gelu", "linear", "plain"])
def test_aarch64_agrees_with_the_oracle(tmp_path, name):
    model = random_model(**MODELS[name][0])
    bundle = c_bundle(model, tmp_path)
    program = stepper([ARM_COMPILER, "-std=c99", "-O2", "-static"], bundle, tmp_path)
    logits = logits_of([*ARM, program], TOKENS, bundle)
    expected = model.oracle()(torch.from_numpy(TOKENS[None]))[0].numpy()
    assert relative_error(logits, expected) <= LIMIT


@pytest.mark.cases(1)
@needs(ARM_COMPILER, ARM[0], "gcc", packages="gcc-aarch64-linux-gnu, qemu-user, gcc")
@pytest.mark.parametrize("name", ["exact", "exact, pool16"])
def test_reproducible_build_gives_the_same_bits_on_arm(tmp_path, name):
    bundle, outputs = bundle_of(name, tmp_path), []
    for compiler, emulator in (("gcc", ()), (ARM_COMPILER, ARM)):
        command = [compiler, "-std=c99", "-O2", "-static", "-DCAUSALRN_REPRODUCIBLE"]
        outputs.append(logits_of([*emulator, stepper(command, bundle, tmp_path, compiler)], TOKENS, bundle).tobytes())
    assert outputs[0] == outputs[1]


@pytest.mark.cases(0)
@needs_gcc
@pytest.mark.parametrize("flags", [[], ["-mfma", "-DCAUSALRN_NO_VECTORS"]], ids=["two roundings", "one rounding"])
def test_errors_of_exp2_and_gelu_are_as_stated(tmp_path, flags):
    """docs/native.md has the figures for all floats; here for every 997th."""
    if flags and platform.machine() != "x86_64":
        pytest.skip("-mfma is for x86")
    bundle = bundle_of("exact", tmp_path)
    program = compile_c(["gcc", "-std=c99", "-O2", *flags], [SPEAK.parent / "functions.c"], bundle, tmp_path / "x")
    result = subprocess.run([program, "997"], capture_output=True, text=True, check=False)
    if flags and result.returncode < 0:
        pytest.skip("this processor has no FMA")
    exp2, gelu = (float(word) for word in result.stdout.split())
    assert 1e-7 < exp2 <= 2.4e-7
    assert 5e-8 < gelu <= 1.3e-7


@needs("g++", packages="g++")
def test_header_is_fit_for_cpp(tmp_path):
    bundle = bundle_of("exact", tmp_path)
    (tmp_path / "x.cpp").write_text('#include "causalrn.h"\n#include "causalrn_threads.h"\nint main() { return 0; }\n')
    compile_c(["g++", "-Wall", "-Wextra", "-Werror", "-Wpedantic"], [tmp_path / "x.cpp"], bundle, tmp_path / "x")


@pytest.mark.cases(1)
@needs_gcc
@pytest.mark.parametrize("flags", [[], ["-DCAUSALRN_NO_VECTORS"]], ids=str)
def test_prefill_that_fails_in_a_later_part_has_taken_nothing(tmp_path, flags):
    bundle = c_bundle(overflowing_model(), tmp_path)
    sources = [FAILED, bundle.path / "causalrn.c"]
    program = compile_c(["gcc", "-std=c99", "-O1", *flags], sources, bundle, tmp_path / "failed")
    for time in ("1", "16", "17", "33"):  # one part, a whole one, two and three
        result = subprocess.run([program, bundle.path / "weights.bin", time], check=False)
        assert result.returncode == 0, time
