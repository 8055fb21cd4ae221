"""The same program in operators that XNNPACK takes: what it leaves splits a program, and is read and written once more.

XNNPACK has no norm, no mean over one axis and no product of two computed matrices. It has products with weights and of
stacks of matrices, slices, and what works element by element. Nothing is approximated: sums are added in another order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.fx import GraphModule, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

_ATEN = torch.ops.aten
_MOST_TERMS = 2
"""Of a product that is written out term by term: the step's [a; b] has two."""


def spell_for_xnnpack(module: GraphModule) -> GraphModule:
    """Change a module so that XNNPACK takes more of it; it is to be exported again, its shapes open as before.

    Args:
        module: of an exported program, with weights as attributes; changed in place.

    Returns:
        The same module.
    """
    tracer = GraphAppendingTracer(module.graph)
    columns: _Columns = {}
    for node in list(module.graph.nodes):
        spell = _SPELLINGS.get(node.target)
        if spell is None:
            continue
        with module.graph.inserting_before(node):
            spelled = spell(_Call(module, node, tracer, columns))
        if spelled is not None:
            node.replace_all_uses_with(spelled.node)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


_Columns = dict[tuple[Node, int], Any]
"""Columns of masks, which all blocks share."""


class _Call:
    """A call of an operator: its arguments, what is known of them, and constants beside it."""

    def __init__(self, module: GraphModule, node: Node, tracer: GraphAppendingTracer, columns: _Columns) -> None:
        self.module, self.node, self.tracer, self.columns = module, node, tracer, columns

    def __getitem__(self, index: int) -> Any:
        """An argument, None where it is left out; operations on it are recorded before the call."""
        value = self._argument(index)
        return Proxy(value, self.tracer) if isinstance(value, Node) else value

    def shape(self, index: int) -> tuple[Any, ...]:
        """Sizes of an argument; those that are open are symbols."""
        value = self.node.args[index]
        assert isinstance(value, Node)
        return tuple(value.meta["val"].shape)

    def of(self, index: int) -> _Call:
        """The call that an argument comes from."""
        value = self.node.args[index]
        assert isinstance(value, Node)
        return _Call(self.module, value, self.tracer, self.columns)

    def known(self, index: int) -> Tensor | None:
        """An argument that is one of the module's constants."""
        value = self._argument(index)
        if not isinstance(value, Node) or value.op != "get_attr":
            return None
        tensor: Tensor = operator.attrgetter(str(value.target))(self.module)
        return tensor

    def column(self, index: int, number: int) -> Any:
        """A column of an argument [n, m], as [n, 1]."""
        value = self.node.args[index]
        assert isinstance(value, Node)
        if (value, number) not in self.columns:
            self.columns[value, number] = self[index][:, number : number + 1]
        return self.columns[value, number]

    def mean(self, x: Any, width: int, more: float = 0.0) -> Any:
        """Mean over the last axis, plus a number: a product with one row. [..., n] -> [..., 1]."""
        row: Any = self._constant(f"mean_of_{width}", torch.full((1, width), 1 / width))
        added: Any = self._constant("mean_added", torch.full((1,), more)) if more else None
        return functional.linear(x, row, added)

    def _argument(self, index: int) -> Any:
        return self.node.args[index] if index < len(self.node.args) else None

    def _constant(self, name: str, value: Tensor) -> Proxy:
        """A constant of the module, one for each name."""
        if not hasattr(self.module, name):
            self.module.register_buffer(name, value)
        return Proxy(self.module.graph.get_attr(name), self.tracer)


def _rms_norm(call: _Call) -> Any:
    return _normal(call, call[0], call[3]) if _is_without_weights(call) and call[3] is not None else None


def _layer_norm(call: _Call) -> Any:
    if not _is_without_weights(call) or call[3] is not None or call[4] is None:
        return None
    return _normal(call, call[0] - call.mean(call[0], call[1][-1]), call[4])


def _is_without_weights(call: _Call) -> bool:
    """Whether a norm over one axis has ones for weights, as a cell's norms have."""
    weights = call.known(2)
    return weights is not None and weights.ndim == 1 and bool((weights == 1).all())


def _normal(call: _Call, x: Any, eps: float) -> Any:
    """X divided by its root mean square."""
    return x * torch.rsqrt(call.mean(x * x, call[1][-1], eps))


def _addmm(call: _Call) -> Any:
    """Added + left @ right, term by term where there are few. left [n, k], right [k, m]."""
    terms = call.shape(2)[0]
    if terms > _MOST_TERMS:
        return None
    total, right = call[0], call[2]
    for term in range(terms):
        total = total + call.column(1, term) * right[term : term + 1]
    return total


def _mm(call: _Call) -> Any:
    """Left @ right, both computed, as a stack of one product. left [n, k], right [k, m]."""
    if len(call.shape(0)) != 2:
        return None
    (rows, inner), width = call.shape(0), call.shape(1)[1]
    if not isinstance(rows, int) or not isinstance(width, int):
        return None
    stacked = inner if isinstance(inner, int) else -1
    product = torch.bmm(call[0].reshape(1, rows, stacked), call[1].reshape(1, stacked, width))
    return product.reshape(rows, width)


def _embedding(call: _Call) -> Any:
    """A row of a computed matrix [n, m], by a number that is a constant of shape [1, 1]: [1, 1, m]."""
    index = call.known(1)
    if call.known(0) is not None or index is None or index.numel() != 1:
        return None
    return call[0][int(index) : int(index) + 1].reshape(*index.shape, call.shape(0)[1])


def _getitem(call: _Call) -> Any:
    """A part of equal ones along the last axis."""
    parts = call.of(0)
    if parts.node.target is not _ATEN.chunk.default:
        return None
    width, last = parts.shape(0)[-1], len(parts.shape(0)) - 1
    if parts[2] not in (-1, last) or width % parts[1]:
        return None
    size = width // parts[1]
    return parts[0][..., call[1] * size : (call[1] + 1) * size]


_SPELLINGS: dict[Any, Callable[[_Call], Any]] = {
    _ATEN.rms_norm.default: _rms_norm,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.addmm.default: _addmm,
    _ATEN.mm.default: _mm,
    _ATEN.matmul.default: _mm,
    _ATEN.embedding.default: _embedding,
    operator.getitem: _getitem,
}
