"""Pools that are read by one operator, as references read them: the numbers of the cell's own operations."""

import numpy as np
import pytest
import torch

from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from tests.builders import random_model, random_tokens


def _session(options, *, fused):
    model = random_model(**options)
    cell = RecurrentCell.from_model(model, dtype=torch.float64)
    return RecurrentSession(cell.fuse_reading() if fused else cell, ModelCard(model.config))


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 2}, {"norm": "rms"}, {"norm_eps": 1e-2}, {"post_norm": False}]
    + [{"activation": name, "readout": readout} for name in ("relu", "elu", "gelu") for readout in ("exact", "linear")]
    + [{"activation": "relu", "readout": "plain"}, {"readout": "linear"}, {"attention": "softmax", "hidden": 48}],
    ids=str,
)
def test_fused_reading_changes_no_number(options):
    tokens = random_tokens(random_model(**options).config, 3, 20).numpy()
    plain, fused = (_session(options, fused=fused) for fused in (False, True))
    for session in (plain, fused):
        session.reset(3)
    for part in (slice(0, 1), slice(1, 8), slice(8, 9), slice(9, 20)):
        expected, logits = (session.prefill(tokens[:, part]) for session in (plain, fused))
        assert np.allclose(logits, expected, rtol=1e-11, atol=1e-12)
    states = plain.snapshot().tensors
    for name, value in fused.snapshot().tensors.items():
        assert np.allclose(value, states[name], rtol=1e-11, atol=1e-12)


def test_only_cells_that_hold_no_pairs_take_long_chunks():
    assert _session({}, fused=True).prefill_chunk > _session({}, fused=False).prefill_chunk
    assert not _session({"attention": "softmax", "hidden": 48}, fused=True)._cell.reads_fused
