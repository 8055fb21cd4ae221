"""What is spelled for XNNPACK computes the same, and what it does not spell stays; needs no ExecuTorch."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

from causalrn.export.executorch.cell_tracing import example_call
from causalrn.export.executorch.spelling import spell_for_xnnpack
from causalrn.model.cell import RecurrentCell
from tests.builders import random_model, relative_error
from tests.executorch_tools import MODELS

ATEN = torch.ops.aten
SPELLED = {ATEN.rms_norm.default, ATEN.layer_norm.default, ATEN.addmm.default, operator.getitem}
"""What no step of a CausalRN has left."""


def exported(module, *example):
    return torch.export.export(module, example, strict=False).module(check_guards=False)


def operators(module):
    return {node.target for node in module.graph.nodes if node.op == "call_function"}


def calls(cell, graph):
    """Calls with other sizes than the traced one where sizes are open, and states that are not zero."""
    generator = torch.Generator().manual_seed(4)
    for rows in (3, 7):
        time = 1 if graph == "step" else 2 + rows % 4
        tokens = torch.randint(0, 29, (1, time), generator=generator)
        state = []
        for tensor in cell.spec.tensors:
            length = 12 if cell.spec.pool == "fixed" else rows + (1 if graph == "step" else 0)
            value = torch.rand(tensor.sized(batch=1, rows=length), generator=generator) + 0.5
            if tensor.is_pool:
                value[rows:] = 0
            state.append(value)
        yield tokens, torch.tensor(rows), *state


@pytest.mark.cases(2)
@pytest.mark.parametrize("graph", ["step", "prefill"])
@pytest.mark.parametrize("pool", ["growing", "fixed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_spelled_cell_computes_the_same(name, pool, graph):
    model = random_model(3, embedding=16, hidden=16, capacity=12, **MODELS[name])
    cell = RecurrentCell.from_model(model, pool=pool)
    call = example_call(cell, graph, max_batch=1, chunk=8)
    spelled = spell_for_xnnpack(call.trace(cell, is_cell=True).module(check_guards=False))
    again = call.trace(spelled).module()
    for arguments in calls(cell, graph):
        with torch.no_grad():
            results = zip(again(*arguments), cell(*arguments), strict=True)
        assert max(relative_error(result, expected) for result, expected in results) <= 2e-6
    if graph == "step" and "transformer" not in name:
        assert not operators(again) & SPELLED


def test_a_wrong_spelling_would_be_noticed():
    """The comparison above sees a mean over one channel too few."""
    cell = RecurrentCell.from_model(random_model(3, embedding=16, hidden=16, capacity=12), pool="fixed")
    call = example_call(cell, "step", max_batch=1, chunk=8)
    spelled = spell_for_xnnpack(call.trace(cell, is_cell=True).module(check_guards=False))
    spelled.mean_of_16[0, 3] = 0
    arguments = next(iter(calls(cell, "step")))
    with torch.no_grad():
        assert relative_error(spelled(*arguments)[0], cell(*arguments)[0]) > 1e-3


class Weighted(nn.Module):
    """Norms whose weights are not ones."""

    def __init__(self):
        super().__init__()
        self.rms, self.layer = nn.RMSNorm(4), nn.LayerNorm(4)
        with torch.no_grad():
            self.rms.weight[1] = self.layer.bias[1] = 2

    def forward(self, x):
        return self.layer(self.rms(x))


class ManyTerms(nn.Module):
    """Products of more than two terms, and with a stack."""

    def forward(self, x, y):
        return torch.addmm(x, x, y), torch.matmul(x[None], y[None])


class Rows(nn.Module):
    """A table that is read, a computed matrix that is read at computed rows, and parts along the first axis."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, x, index):
        return self.table(index), nn.functional.embedding(index, x), torch.chunk(x, 2)[1]


X = torch.arange(16.0).reshape(4, 4)
LEFT_ALONE = {
    "norms with weights": (Weighted(), (X,), {ATEN.rms_norm.default, ATEN.layer_norm.default}),
    "products of many terms": (ManyTerms(), (X, X), {ATEN.addmm.default, ATEN.matmul.default}),
    "other rows": (Rows(), (X, torch.tensor([2])), {ATEN.embedding.default, ATEN.chunk.default}),
}


@pytest.mark.parametrize(("module", "example", "kept"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_not_a_cells_stays(module, example, kept):
    spelled = spell_for_xnnpack(exported(module, *example))
    assert operators(spelled) >= kept
    with torch.no_grad():
        for result, expected in zip(spelled(*example), module(*example), strict=True):
            torch.testing.assert_close(result, expected)
