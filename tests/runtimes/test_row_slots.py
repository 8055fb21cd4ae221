"""Slots of onnxruntime whose states have one size: one step takes sequences at positions of their own."""

import numpy as np
import pytest

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.runtimes import open_session
from causalrn.runtimes.cell_slots import CellSlots, RowSlots
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.export import export
from causalrn.workflows.quantize import quantize
from tests.builders import random_model, relative_error

SIZES = {"embedding": 16, "hidden": 16, "capacity": 24}
LINEAR = {**SIZES, "readout": "linear"}
CASES = {
    "portable": (LINEAR, {"profile": "portable", "index_type": "int32", "single_file": True}, True),
    "unbounded": ({**LINEAR, "capacity": None, "positions": "none"}, {}, True),
    "linear-transformer": ({**SIZES, "heads": 2, "attention": "linear"}, {}, True),
    "counts": ({**LINEAR, "post_norm": False}, {}, False),
    "ort-format": (LINEAR, {"ort_format": True}, False),
}


@pytest.fixture(scope="module", params=["linear", "w8", *CASES])
def case(request, tmp_path_factory, bundles):
    tmp_path = tmp_path_factory.mktemp("rows")
    options, exported, takes_rows = CASES.get(request.param, ({}, {}, True))
    folder = tmp_path / "bundle"
    if request.param in CASES:
        model = random_model(**options)
        save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
        export(tmp_path / "run", output=folder, **exported)
    elif request.param == "w8":
        quantize(bundles["linear"], output=folder, scheme="w8", max_kl=1.0)
    else:
        folder = bundles["linear"]
    with open_session(folder, "onnxruntime") as session:
        yield session, takes_rows


@pytest.mark.cases(2)
def test_rows_at_positions_of_their_own_are_what_each_is_alone(case):
    session, takes_rows = case
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 29, 12) for _ in range(5)]
    expected = [session_logits(session, row) for row in rows]
    bound = TOLERANCES["float32", "onnxruntime"].relative
    with session.slots() as slots:
        assert type(slots) is (RowSlots if takes_rows else CellSlots)
        numbers = [slots.admit() for _ in rows]
        taken = [0] * 5
        for turn in range(24):  # who steps changes from turn to turn: all, a few, one
            some = [i for i in range(5) if taken[i] < 12 and (turn % 3 == 0 or (turn + i) % (turn % 3 + 1) == 0)]
            given = slots.step({numbers[i]: int(rows[i][taken[i]]) for i in some})
            for i in some:
                assert relative_error(given[numbers[i]], expected[i][taken[i]]) <= bound
                taken[i] += 1
            if turn == 7:  # a state that was joined goes elsewhere, and comes back
                moved = slots.snapshot(numbers[2])
                slots.release(numbers[2])
                assert slots.admit(moved) == numbers[2]
    assert min(taken) >= 9


@pytest.mark.cases(2)
def test_prompts_and_steps_go_together(case):
    session, _ = case
    rows = [np.random.default_rng(n).integers(0, 29, 10) for n in range(4)]
    expected = [session_logits(session, row) for row in rows]
    bound = TOLERANCES["float32", "onnxruntime"].relative
    with session.slots() as slots:
        numbers = [slots.admit() for _ in rows]
        taken = [0] * 4
        for counts in ((1, 1, 1, 1), (1, 3, 1, 1), (2, 1, 4, 1), (1, 1, 1, 5), (4, 2, 2, 1), (1, 1, 1, 1)):
            calls = {n: row[t : t + c] for n, row, t, c in zip(numbers, rows, taken, counts, strict=True)}
            given = slots.prefill(calls)
            for place, count in enumerate(counts):
                wanted = expected[place][taken[place] : taken[place] + count]
                assert relative_error(given[numbers[place]], wanted) <= bound
                taken[place] += count


def session_logits(session, tokens):
    session.reset(1)
    return np.stack([session.step([token])[0] for token in tokens])
