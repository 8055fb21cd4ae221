"""What a model's operations do, seen one by one: which compute in fewer bits than float64, which draw numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from causalrn.runtimes.snapshot import FloatArray

_NARROW = {
    torch.float32: "float32",
    torch.complex64: "float32",  # each part
    torch.float16: "float16",
    torch.complex32: "float16",
    torch.bfloat16: "bfloat16",
}
_CASTS = ("to", "_to_copy")
_MOVES = ("detach", "clone", "view", "reshape", "alias", "contiguous", "select", "slice", "stack", "lift_fresh")


@dataclass(frozen=True)
class NarrowOperation:
    """An operation of a float64 model whose result is narrower.

    Attributes:
        operation: PyTorch's name, e.g. "softplus".
        dtype: "float32", "float16" or "bfloat16".
        module: path of the innermost module that was running; "" outside of all.
    """

    operation: str
    dtype: str
    module: str

    def describe(self) -> str:
        """For people: "softplus in float32 (blocks.0)"."""
        words = f"a cast to {self.dtype}" if self.operation in _CASTS else f"{self.operation} in {self.dtype}"
        return f"{words}{f' ({self.module})' if self.module else ''}"


def some(operations: Sequence[NarrowOperation]) -> str:
    """The first of them, for people, and how many more there are; "" where there is none."""
    words = [operation.describe() for operation in operations]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every operation with its result, and the path of the module that runs it."""

    def __init__(self, look: Callable[[str, Any, str], None], before: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._look, self._before = look, before
        self.running: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._before()
        out = function(*args, **(kwargs or {}))
        self._look(function.overloadpacket.__name__.rstrip("_"), out, self.running[-1] if self.running else "")
        return out


@contextlib.contextmanager
def watched(
    modules: Sequence[nn.Module], look: Callable[[str, Any, str], None], before: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """A context in which `look` is called with the name of each operation, what came out, and the module's path.

    Before each operation `before` is called.
    """
    watch = _Watch(look, before)
    paths = {part: path for module in modules for path, part in module.named_modules()}

    def enter(part: nn.Module, _: Any) -> None:
        watch.running.append(paths[part])

    def leave(*_: Any) -> None:
        watch.running.pop()

    hooks = [part.register_forward_pre_hook(enter) for part in paths]
    hooks += [part.register_forward_hook(leave, always_call=True) for part in paths]
    try:
        with watch:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def narrow_operations(run: Callable[[], Any], modules: Sequence[nn.Module]) -> tuple[NarrowOperation, ...]:
    """What a float64 model computes in fewer bits, in order of appearance.

    Args:
        run: runs it.
        modules: of the model, to name places.
    """
    found: dict[NarrowOperation, None] = {}

    def look(name: str, out: Any, path: str) -> None:
        if name in _MOVES:
            return
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and value.dtype in _NARROW and value.numel():
                found[NarrowOperation(name, _NARROW[value.dtype], path)] = None

    with torch.inference_mode(), watched(modules, look):
        run()
    return tuple(found)


def random_parts(run: Callable[[], FloatArray], modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """Paths of the modules that draw random numbers, "the model" outside of all; nothing where two runs are equal.

    Args:
        run: gives logits.
        modules: of the model.
    """
    if np.array_equal(run(), run(), equal_nan=True):
        return ()
    found: dict[str, None] = {}
    generator = torch.get_rng_state()

    def before() -> None:
        nonlocal generator
        generator = torch.get_rng_state()

    def look(_: str, __: Any, path: str) -> None:
        if not torch.equal(torch.get_rng_state(), generator):
            found[path or "the model"] = None

    with watched(modules, look, before):
        run()
    return tuple(found)
