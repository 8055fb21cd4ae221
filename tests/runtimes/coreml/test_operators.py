"""Core ML's operators in numpy beside PyTorch's: the evaluator is judged by somebody else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from causalrn.errors import BundleError
from causalrn.runtimes.coreml.evaluator_session import evaluate
from causalrn.runtimes.coreml.operators import OPERATORS
from causalrn.runtimes.coreml.program import Operation, Program

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(2))
W, B = RNG.normal(size=(7, 5)).astype(np.float32), RNG.normal(size=7).astype(np.float32)
T, U, V, C = (torch.from_numpy(array) for array in (X, Y, W, B))
I = np.array  # noqa: E741


CASES = {
    "matmul": ({"x": X, "y": Y, "transpose_y": I(True)}, T @ U.mT),
    "linear": ({"x": X, "weight": W, "bias": B}, functional.linear(T, V, C)),
    "layer_norm": ({"x": X, "axes": I([-1]), "epsilon": I(1e-3)}, functional.layer_norm(T, (5,), eps=1e-3)),
    "gather": ({"x": X, "indices": I([2, 0, -1]), "axis": I(1)}, T[:, [2, 0, -1]]),
    "slice_by_index": (
        {"x": X, "begin": I([1, 0, 1]), "end": I([2, 9, -1]), "squeeze_mask": I([True, False, False])},
        T[1, :, 1:-1],
    ),
    "cumsum": ({"x": X, "axis": I(1)}, T.cumsum(1)),
    "softmax": ({"x": X * 50, "axis": I(-1)}, (T * 50).softmax(-1)),
    "gelu": ({"x": X, "mode": "EXACT"}, functional.gelu(T)),
    "elu": ({"x": X, "alpha": I(1.0, np.float32)}, functional.elu(T)),
    "pad": (
        {"x": X, "pad": I([0, 0, 0, 0, 1, 2]), "mode": "constant", "constant_val": I(1.0, np.float32)},
        functional.pad(T, (1, 2), value=1.0),
    ),
    "reshape": ({"x": X, "shape": I([0, -1])}, T.reshape(3, 20)),
    "band_part": ({"x": X, "lower": I(-1), "upper": I(0)}, T.tril()),
    "reduce_max": ({"x": X, "axes": I([1]), "keep_dims": I(True)}, T.amax(1, keepdim=True)),
    "reduce_mean": ({"x": X, "axes": I([-1, 0])}, T.mean((-1, 0))),
    "reduce_sum": ({"x": X, "axes": I([2])}, T.sum(2)),
    "select": ({"cond": X > 0, "a": X, "b": Y}, torch.where(T > 0, T, U)),
    "concat": ({"values": [X, Y], "axis": I(1)}, torch.cat([T, U], 1)),
    "stack": ({"values": [X, Y], "axis": I(1)}, torch.stack([T, U], 1)),
    "tile": ({"x": X, "reps": I([2, 1, 3])}, T.tile(2, 1, 3)),
    "transpose": ({"x": X, "perm": I([2, 0, 1])}, T.permute(2, 0, 1)),
    "expand_dims": ({"x": X, "axes": I([1])}, T[:, None]),
    "squeeze": ({"x": X[:1], "axes": I([0])}, T[0]),
    "real_div": ({"x": X, "y": Y}, T / U),
    "exp": ({"x": X}, T.exp()),
    "erf": ({"x": X}, T.erf()),
    "rsqrt": ({"x": np.square(X), "epsilon": I(1e-3, np.float32)}, (T.square() + 1e-3).rsqrt()),
    "clip": ({"x": X, "alpha": I(-0.5), "beta": I(0.5)}, T.clamp(-0.5, 0.5)),
    "cast": ({"x": X > 0, "dtype": "fp32"}, (T > 0).float()),
    "fill_like": ({"ref_tensor": X, "value": I(2.0, np.float32)}, torch.full_like(T, 2.0)),
}


@pytest.mark.parametrize(("kind", "case"), CASES.items(), ids=CASES)
def test_an_operator_gives_what_pytorch_gives(kind, case):
    inputs, expected = case
    result = OPERATORS[kind](**inputs)
    assert result.shape == tuple(expected.shape)
    np.testing.assert_allclose(result, expected.numpy(), rtol=2e-6, atol=2e-6)


def test_split_gives_parts():
    parts = OPERATORS["split"](x=X, split_sizes=I([1, 3]), axis=I(1))
    for part, expected in zip(parts, T.split([1, 3], 1), strict=True):
        np.testing.assert_array_equal(part, expected)


def program(*operations, constants=None):
    return Program({}, {operations[-1].kind: ((), np.float32)}, constants or {}, operations)


def test_results_are_rounded_to_the_type_that_the_program_says():
    value = np.array([1.0 + 2**-9, 1.0 + 2**-12], np.float32)
    half = program(Operation("square", {"x": ("x",)}, {"square": np.float16}))
    np.testing.assert_array_equal(evaluate(half, {"x": value})["square"], np.square(value).astype(np.float16))


@pytest.mark.parametrize(
    "operation",
    [
        Operation("lstm", {"x": ("x",)}, {"lstm": np.float32}),
        Operation("square", {"y": ("x",)}, {"square": np.float32}),
        Operation("gelu", {"x": ("x",), "mode": ("mode",)}, {"gelu": np.float32}),
    ],
    ids=["unknown", "another input", "another mode"],
)
def test_what_no_cell_has_is_refused(operation):
    with pytest.raises(BundleError, match=f"operation {operation.kind} is not one"):
        evaluate(program(operation, constants={"mode": "TANH_APPROXIMATION"}), {"x": X})
