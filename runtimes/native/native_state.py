"""The state as the C code lays it out: heads padded to 16 lanes, and for constant sizes two sets that take turns."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from causalrn.bundle.native_spec import pad_heads, padded, padded_hidden
from causalrn.bundle.state_spec import StateSpec
from causalrn.model.config import ModelConfig
from causalrn.runtimes.snapshot import Array
from causalrn.runtimes.state_buffers import StateBuffers, aligned_zeros, check_state


class Tensors(list[Array]):
    """One set of state tensors."""

    @functools.cached_property
    def addresses(self) -> Any:
        """Where they lie, as C takes it."""
        return (ctypes.c_void_p * len(self))(*(array.ctypes.data for array in self))

    @functools.cached_property
    def place(self) -> int:
        """Where :attr:`addresses` lie, as a number."""
        return ctypes.addressof(self.addresses)


class NativeState(StateBuffers):
    """The state of a native session.

    A pool's new rows are written in place, behind those that count; a state of constant size goes from one set of
    tensors to another, so that a call that fails leaves it whole.

    Args:
        spec: the state contract.
        config: the model, for the padding of its heads.
    """

    def __init__(self, spec: StateSpec, config: ModelConfig) -> None:
        self._contract, self._config = spec, config
        hidden = padded_hidden(config.heads, config.head_width)
        tensors = (t if t.is_scale else dataclasses.replace(t, shape=(*t.shape[:-1], hidden)) for t in spec.tensors)
        super().__init__(dataclasses.replace(spec, tensors=tuple(tensors)))

    @property
    def arrays(self) -> Tensors:
        """The tensors that count."""
        return self._tensors

    @arrays.setter
    def arrays(self, arrays: Iterable[Array]) -> None:
        self._tensors = Tensors(arrays)
        self._spare: Tensors | None = None

    def views(self, position: int, pad_rows: int) -> Tensors:
        """All tensors, whole: C is told the position."""
        return self._tensors

    def target(self, *, reused: bool) -> Tensors:
        """Where a call should write: pools in place; else other tensors, new ones unless they may be `reused`."""
        if self._appends:
            return self._tensors
        if self._spare is None or not reused:
            self._spare = Tensors(aligned_zeros(array.shape, array.dtype) for array in self._tensors)
        return self._spare

    def update(self, position: int, outputs: Sequence[Array]) -> None:
        """Take over what :meth:`target` gave."""
        if not self._appends:
            assert outputs is self._spare
            self.swap()

    def swap(self) -> None:
        """Take over what :meth:`target` gave, where that is not the state itself."""
        assert self._spare is not None
        self._tensors, self._spare = self._spare, self._tensors

    def truncate(self, position: int, mark: Sequence[Array]) -> None:
        """Undo updates after `position`: rows beyond it do not count."""
        if not self._appends:
            self.arrays = mark

    def copies(self, position: int) -> dict[str, Array]:
        """Copies by name as the contract has them, without padding."""
        return {name: self._unpadded(value) for name, value in super().copies(position).items()}

    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None:
        """Replace everything by a snapshot's tensors.

        Raises:
            StateError: as :meth:`StateBuffers.load`.
        """
        check_state(self._contract, tensors, position, batch, self.dtype)
        scales = {tensor.name for tensor in self._contract.tensors if tensor.is_scale}
        super().load(
            {n: v if n in scales else pad_heads(v, self._config.heads) for n, v in tensors.items()}, position, batch
        )

    def _unpadded(self, value: Array) -> Array:
        """[..., HP] -> [..., H]; a copy."""
        heads, width = self._config.heads, self._config.head_width
        whole = padded_hidden(heads, width)
        if value.shape[-1:] != (whole,) or whole == heads * width:
            return value
        split = value.reshape(*value.shape[:-1], heads, padded(width))[..., :width]  # [..., G, D]
        return split.reshape(*value.shape[:-1], heads * width).copy()
