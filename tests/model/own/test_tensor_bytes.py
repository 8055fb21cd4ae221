"""Any tensor as bytes: of every dtype and layout, or one clear line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.outside_values import outside_values
from causalrn.model.own.tensor_bytes import tensor_bytes
from causalrn.runtimes.own_model.model import weights_hash


@pytest.mark.parametrize(
    "make",
    [
        lambda value: torch.full((3,), value).to(torch.float8_e4m3fn),
        lambda value: torch.full((3,), value).bfloat16(),
        lambda value: torch.full((3,), value + 1j).conj(),
        lambda value: torch.tensor(value, requires_grad=True),
        lambda value: (torch.eye(3) * value).to_sparse(),
        lambda value: torch.full((2, 3), value).T,
        lambda value: torch.ones(0 if value == 1 else 1),
    ],
)
def test_bytes_tell_numbers_apart(make: Callable[[float], Tensor]) -> None:
    assert tensor_bytes(make(1.0)) == tensor_bytes(make(1.0))
    assert tensor_bytes(make(1.0)) != tensor_bytes(make(2.0))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_layout_that_cannot_be_read_is_told() -> None:
    with pytest.raises(InputError, match=r"float32 \[3, 3\], torch.sparse_csr\) cannot be read"):
        tensor_bytes(torch.eye(3).to_sparse_csr())


def with_buffer(value: Tensor) -> RecurrentForms:
    net = nn.Embedding(3, 3)
    with torch.no_grad():
        net.weight.fill_(1)
    net.register_buffer("table", value, persistent=False)
    return RecurrentForms(net, lambda tokens, state: (net(tokens), state), lambda batch: [], 3)


def test_weights_hash_covers_buffers_that_are_not_saved_and_shapes_and_dtypes() -> None:
    values = [torch.zeros(4), torch.ones(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32)]
    assert len({weights_hash(with_buffer(value)) for value in values}) == len(values)


def test_sparse_and_short_buffers_are_watched() -> None:
    assert "table" in outside_values(with_buffer(torch.eye(2).to_sparse()))
    assert "table" in outside_values(with_buffer(torch.ones(2).to(torch.float8_e5m2)))
