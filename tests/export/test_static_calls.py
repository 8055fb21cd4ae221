"""The cell by names and shapes that never change, as converters want it."""

import pytest
import torch

from causalrn.bundle.converted_spec import plain_name
from causalrn.errors import ConfigError
from causalrn.export.static_calls import NamedCell, static_chunk, static_inputs
from causalrn.model.cell import RecurrentCell
from causalrn.model.folding import fold
from causalrn.model.state import derive_state
from tests.builders import random_model

MODELS = {
    "exact": {},
    "exact, 2 heads": {"heads": 2},
    "exact, rms": {"norm": "rms"},
    "linear": {"readout": "linear"},
    "plain": {"readout": "plain"},
    "softmax attention": {"attention": "softmax", "heads": 2},
    "linear attention": {"attention": "linear", "heads": 2},
}


@pytest.mark.parametrize("pool", ["growing", "fixed", "concat"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_buffers_lie_row_by_row_in_every_cell(options, pool):
    cell = RecurrentCell.from_model(random_model(**options), pool=pool)
    assert [name for name, buffer in cell.named_buffers() if not buffer.is_contiguous()] == []


def test_a_transposed_weight_is_refused():
    cell = RecurrentCell.from_model(random_model(), pool="fixed")
    cell.blocks[1].w3 = cell.blocks[1].w3.t().contiguous().t()
    with pytest.raises(ConfigError, match=r"blocks\.1\.w3"):
        NamedCell(cell)


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("time", [1, 8])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_named_calls_give_what_the_cell_gives(options, time, present):
    model = random_model(**options)
    spec = derive_state(model.config, "fixed", present=present and model.config.state_kind == "pool")
    cell = RecurrentCell(fold(model), spec)
    inputs = static_inputs(spec, time, position_shape=(1,))
    generator = torch.Generator().manual_seed(0)
    inputs["tokens"] = torch.randint(0, 29, (1, time), generator=generator, dtype=torch.int32)
    named = NamedCell(cell)(**inputs)
    logits, *outputs = cell(inputs["tokens"], torch.tensor(0, dtype=torch.int32), *list(inputs.values())[2:])
    assert list(named) == ["logits", *(plain_name(tensor.output) for tensor in spec.tensors)]
    for value, expected in zip(named.values(), [logits, *outputs], strict=True):
        assert torch.equal(value, expected)


def test_a_prefill_is_no_longer_than_the_capacity():
    spec = derive_state(random_model().config, "fixed", 9)
    assert (static_chunk(spec, 16), static_chunk(spec, 4)) == (9, 4)
