"""What tests of the TensorRT session share: kinds of bundles, tokens, comparing states."""

from __future__ import annotations

import numpy as np

from causalrn.export.trt.profiles import Sizes

CAPACITY = 40
GROWING = Sizes(growing=((1, 8, 16), (17, 32, CAPACITY)))
KINDS = {"fixed": Sizes(), "growing": GROWING, "linear": Sizes(), "plain": Sizes()}


def tokens_of(batch, time, seed):
    return np.random.default_rng(seed).integers(0, 29, (batch, time))


def same_state(one, two):
    first, second = one.snapshot(), two.snapshot()
    assert first.position == second.position
    assert first.tensors.keys() == second.tensors.keys()
    for name, value in first.tensors.items():
        assert value.dtype == second.tensors[name].dtype
        np.testing.assert_array_equal(value, second.tensors[name], err_msg=name)
