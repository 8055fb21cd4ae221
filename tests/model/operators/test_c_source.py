"""The C of the operators as a program: under sanitizers, with other compilers, on another processor."""

import subprocess

import numpy as np
import pytest
import torch

from causalrn.compiling.processor import vector_flags
from causalrn.model.operators import tiles
from causalrn.model.operators.functions import PairFunction
from tests.builders import ROOT
from tests.c_tools import CLANG, needs, needs_clang, needs_gcc

SOURCES = ROOT / "causalrn" / "model" / "operators" / "c"
SIZES = [
    (1, 1, 1, 1, 2),
    (2, 7, 9, 2, 5),
    (1, 23, 23, 1, 17),
    (3, 4, 70, 2, 16),
    (2, 33, 33, 1, 64),
    (1, 5, 5, 1, 3100),
]

# Reads sizes, then q, k and the gradient; writes the sums and both gradients. No memory is longer than what is in it.
PROGRAM = r"""
#include "pair_sum.c"
#include <stdio.h>

static Real *numbers(int64_t count, int read) {
  Real *out = malloc((size_t)count * sizeof(Real));
  if (!out || (read && fread(out, sizeof(Real), (size_t)count, stdin) != (size_t)count)) exit(2);
  return out;
}

int main(void) {
  int64_t size[7];
  while (fread(size, sizeof(int64_t), 7, stdin) == 7) {
    const int64_t rows = size[3] * size[4], queries = size[0] * size[1] * rows, keys = size[0] * size[2] * rows;
    const Shape shape = {.batch = size[0], .queries = size[1], .keys = size[2], .heads = size[3], .width = size[4],
                         .query_batch_stride = size[1] * rows, .query_stride = rows,
                         .key_batch_stride = size[2] * rows, .key_stride = rows, .centred = size[5],
                         .threads = size[6]};
    Real *q = numbers(queries, 1), *k = numbers(keys, 1), *gradient = numbers(queries, 1);
    Real *out = numbers(queries, 0), *gradient_q = numbers(queries, 0), *gradient_k = numbers(keys, 0);
    if (causalrn_pair_sum(&shape, q, k, out)) return 3;
    if (causalrn_pair_sum_gradients(&shape, q, k, gradient, gradient_q, gradient_k)) return 4;
    fwrite(out, sizeof(Real), (size_t)queries, stdout);
    fwrite(gradient_q, sizeof(Real), (size_t)queries, stdout);
    fwrite(gradient_k, sizeof(Real), (size_t)keys, stdout);
    free(q), free(k), free(gradient), free(out), free(gradient_q), free(gradient_k);
  }
  return 0;
}
"""


def _compare(folder, command, activation, run=(), double=True):
    (folder / "program.c").write_text(PROGRAM)
    defines = [f"-DACTIVATION={activation.upper()}", "-DNORMALIZED=1", f"-DUSE_DOUBLE={double:d}", f"-I{SOURCES}"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", *defines, "-o", "program", "-lm", "-pthread"]
    made = subprocess.run([*command, "program.c", *flags], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    dtype = torch.float64 if double else torch.float32
    generator, given, expected = torch.Generator().manual_seed(0), b"", []
    for index, (batch, queries, keys, heads, width) in enumerate(SIZES):
        shapes = [(batch, steps, heads, width) for steps in (queries, keys, queries)]
        q, k, gradient = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes)
        norm = "layer" if index % 2 else "rms"
        given += np.array([batch, queries, keys, heads, width, norm == "layer", 1 + index % 3], np.int64).tobytes()
        given += b"".join(x.numpy().tobytes() for x in (q, k, gradient))
        function = PairFunction(activation, norm)
        expected += [tiles.sum_pairs(q, k, function), *tiles.differentiate_pairs(q, k, gradient, function)]
    done = subprocess.run([*run, folder / "program"], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    values = np.frombuffer(done.stdout, np.float64 if double else np.float32)
    wanted = torch.cat([x.flatten() for x in expected]).numpy()
    assert np.allclose(values, wanted, rtol=1e-9 if double else 2e-4, atol=1e-11 if double else 2e-4)


@pytest.mark.cases(1)
@needs_gcc
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
@pytest.mark.parametrize(("activation", "double"), [("exp", False), ("gelu", True)])
def test_sanitizers_find_nothing(tmp_path, sanitizer, activation, double):
    command = ["gcc", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    _compare(tmp_path, command, activation, double=double)


@needs_gcc
@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-mavx2", "-mfma"], ["-O2", "-funsigned-char"]], ids=" ".join)
def test_other_options_give_the_same(tmp_path, flags):
    if "-mavx2" in flags and "-mfma" not in vector_flags():
        pytest.skip("this processor has no AVX2")
    _compare(tmp_path, ["gcc", *flags], "elu")


@needs_clang
@pytest.mark.parametrize("activation", ["exp", "relu"])
def test_clang_gives_the_same(tmp_path, activation):
    _compare(tmp_path, [CLANG, "-O2"], activation)


@needs("aarch64-linux-gnu-gcc", "qemu-aarch64", packages="gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user")
@pytest.mark.parametrize(("activation", "double"), [("exp", True), ("gelu", False)])
def test_arm_gives_the_same(tmp_path, activation, double):
    _compare(tmp_path, ["aarch64-linux-gnu-gcc", "-O2", "-static"], activation, ["qemu-aarch64"], double)
