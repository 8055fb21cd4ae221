"""Weights files: what the C source reads back is what was packed."""

import struct
import zlib

import numpy as np
import pytest

from causalrn.bundle.native_spec import LANES, padded
from causalrn.export.c99.packing import PANEL, _panels, pack_payload, weights_file
from causalrn.model.folding import fold
from tests.builders import random_model


def test_panels_hold_every_weight_where_the_kernel_looks_for_it():
    weight = np.arange(112 * 20, dtype=np.float32).reshape(112, 20)  # a panel of 96 outputs, and one of 16
    packed = _panels(weight, 1)
    for output, column in ((0, 0), (95, 19), (96, 0), (111, 7)):
        first = output // (PANEL * LANES) * PANEL * LANES
        width = min(112 - first, PANEL * LANES)
        assert packed[first * 20 + column * width + output - first] == weight[output, column]


def test_int8_panels_keep_four_inputs_of_an_output_together():
    weight = np.arange(16 * 8, dtype=np.int8).reshape(16, 8)
    assert np.array_equal(_panels(weight, 4).reshape(2, 16, 4)[1, 3], weight[3, 4:])


def test_padding_is_zero_and_every_array_starts_at_a_cache_line():
    model = random_model(embedding=20, hidden=30, heads=3)
    payload = pack_payload(fold(model), 40, "float32")
    assert len(payload) % 64 == 0
    table = np.frombuffer(payload[: 29 * 32 * 4], np.float32).reshape(29, 32)  # wte [V, EP]
    assert np.array_equal(table[:, 20:], np.zeros((29, 12)))
    assert np.allclose(table[:, :20], fold(model).wte.numpy(), rtol=1e-6)


def test_rounding_to_int8_is_off_by_half_a_step_at_most():
    model = random_model()
    whole, rounded = (pack_payload(fold(model), 40, scheme) for scheme in ("float32", "w8"))
    tables = 4 * padded(32) * (29 + 40)
    exact = np.frombuffer(whole[tables : tables + 4 * 64 * 32], np.float32).reshape(32, 64)  # [E, 2 HP]
    int8 = np.frombuffer(rounded[tables : tables + 64 * 32], np.int8).reshape(32, 64)
    scale = np.frombuffer(rounded[tables + 64 * 32 + 64 * 4 :][: 64 * 4], np.float32)
    assert np.abs(int8 * scale - exact).max() <= 0.501 * scale.max()
    assert np.abs(int8).max(0).tolist() == [127] * 64


def test_header_says_what_it_is():
    content = weights_file(b"payload!", 0xABCD)
    assert content[:4] == b"CRNW"
    assert struct.unpack("<IIIII", content[4:24]) == (0x01020304, 1, 0xABCD, 8, zlib.crc32(b"payload!"))
    assert struct.unpack("<I", content[60:64]) == (zlib.crc32(content[:60]),)


@pytest.mark.parametrize("scheme", ["float32", "w8", "w8a8-dynamic"])
def test_packing_is_reproducible(scheme):
    first, second = (pack_payload(fold(random_model()), 40, scheme) for _ in range(2))
    assert first == second
