"""The one interface of every runtime: a running model with its state. An error leaves the state as it was."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections.abc import Iterator
from typing import Unpack

import numpy as np
import numpy.typing as npt

from causalrn.bundle.disk.files import as_path
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import CapacityError, InputError, RuntimeUnavailableError, StateError
from causalrn.runtimes.checks import as_array, check_batch, check_snapshot, check_tokens
from causalrn.runtimes.closing import Closing
from causalrn.runtimes.exclusive import exclusive
from causalrn.runtimes.generation import GeneratedStep, Prompts, generate
from causalrn.runtimes.generation_options import GenerationOptions, GenerationSettings, choose_options
from causalrn.runtimes.slots import Slots, SnapshotSlots
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.training.card import ModelCard


class Session(Closing):
    """A running model with its state: `step`, `prefill`, `reset`, `snapshot`, `restore`, `generate`.

    Args:
        card: the model.
        capacity: most positions; None without a bound.
        owner: what its states belong to; of a hash alone nothing says where else they would mean the same.

    Attributes:
        max_batch: most sequences; None without a bound.
        text_tails: per row the bytes of a character that generated tokens have begun, and that going on may complete;
            () where no row has one. A state keeps them; tokens that are given, not generated, end them.

    One thread at a time: a call while another thread's runs raises SharedSessionError and does nothing. Which thread
    calls does not matter. As a context manager it closes itself.
    """

    runtime = ""

    def __init__(self, card: ModelCard, capacity: int | None, owner: str | StateOrigin) -> None:
        self.card = card
        self.capacity = capacity
        self.origin = StateOrigin(owner) if isinstance(owner, str) else owner
        self.owner = self.origin.owner
        self.max_batch: int | None = None
        self.text_tails: tuple[bytes, ...] = ()
        self._position = 0
        self._batch = 1
        self._logits: FloatArray | None = None
        self._probed: list[list[FloatArray]] | None = None
        self._turn = threading.RLock()  # step calls nest in generate's
        self._is_closed = False

    @property
    def gpu(self) -> str:
        """Name of the GPU that it runs on; empty on the CPU."""
        return ""

    @property
    def position(self) -> int:
        """Tokens seen so far; the same for every row of the batch."""
        return self._position

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self._batch

    @property
    def last_logits(self) -> FloatArray | None:
        """[B, V] after the last token, a copy; None at position 0, and where the last token found no room."""
        return None if self._logits is None else self._logits.copy()

    @exclusive
    def step(self, tokens: npt.ArrayLike) -> FloatArray:
        """Take one token per row.

        Args:
            tokens: integers [B] (or one integer for B = 1).

        Returns:
            Logits, [B, V], of what comes next.

        Raises:
            InputError: wrong shape, dtype or token id.
            CapacityError: the position is the capacity already.
            NonFiniteError: NaN or infinity came out.
        """
        given = as_array(tokens)
        if given.ndim > 1:
            raise InputError(f"a step takes one token per row, not an array of shape {list(given.shape)}: use prefill")
        ids = self._checked(given.reshape(-1, 1))
        return self._advance_checked(ids, single=True)[:, 0]

    @exclusive
    def prefill(self, tokens: npt.ArrayLike) -> FloatArray:
        """Take T tokens per row at once, onto whatever the state holds.

        Args:
            tokens: integers [B, T], T >= 1.

        Returns:
            Logits [B, T, V].

        Raises:
            InputError, CapacityError, NonFiniteError: as :meth:`step`; nothing has been taken then.
        """
        return self._advance_checked(self._checked(as_array(tokens)), single=False)

    @exclusive
    def reset(self, batch: int | None = None) -> None:
        """Forget everything; `batch` changes the number of sequences.

        Raises:
            InputError: no number of sequences, or too many.
        """
        batch = self._batch if batch is None else batch
        check_batch(batch, self.max_batch)
        self._clear(batch)
        self._position, self._batch, self._logits, self.text_tails = 0, batch, None, ()

    @exclusive
    def snapshot(self) -> Snapshot:
        """A copy of the state that later steps do not change."""
        logits = None if self._logits is None else self._logits.copy()
        belongs = self.owner, self.text_tails, *self.origin.kinds
        return Snapshot(self._position, self._batch, self._copy_state(), logits, *belongs)

    @exclusive
    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot: of a session like this one bit for bit, of another kind of bundle within rounding.

        Raises:
            StateError: it belongs to other weights or does not fit; the state is left as it was.
        """
        check_snapshot(snapshot, self.origin, self.card, capacity=self.capacity, max_batch=self.max_batch)
        self._load_state(snapshot)
        self._position, self._batch, self.text_tails = snapshot.position, snapshot.batch, snapshot.text_tails
        self._logits = None if snapshot.logits is None else snapshot.logits.copy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file (safetensors, bound to its weights), whole or not at all.

        Raises:
            InputError: a place that cannot be written to.
        """
        save_state(as_path(path, "path"), self.snapshot())

    @exclusive
    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a state file, as :meth:`restore` from a snapshot.

        Raises:
            StateError: a file that is missing, corrupt, or of other weights; the state is left as it was.
        """
        source = as_path(path, "path")
        snapshot = load_state(source)
        try:
            self.restore(snapshot)
        except StateError as error:
            raise StateError(f"{source}: {error}") from None

    @exclusive
    def generate(
        self,
        prompt: Prompts,
        options: GenerationOptions | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[GeneratedStep]:
        """Generate after a prompt, one item per token.

        Args:
            prompt: one text, several, token ids [B, T], a list of token ids, or None to go on from the state. Those
                of different lengths run in :meth:`slots`.
            options: settings as an object.
            settings: fields of :class:`~causalrn.runtimes.generation_options.GenerationOptions`: max_new_tokens,
                temperature, top_k, top_p, seed, stop.

        Raises:
            InputError: a prompt or setting that does not fit; CapacityError: a prompt beyond the capacity.

        Example:
            >>> for step in session.generate("abc", max_new_tokens=8):  # doctest: +SKIP
            ...     print(step.tokens, step.text)
        """
        return generate(self, prompt, choose_options(options, settings))

    def slots(self) -> Slots:
        """Sequences of the same model at positions of their own, that join and leave at any token.

        Native sessions read weights once for many of them, and so does onnxruntime where the state has one size; other
        runtimes take one after the other.
        """
        return SnapshotSlots(self)

    @contextlib.contextmanager
    def probing(self) -> Iterator[None]:
        """A context in which every call also records the residual stream: see :attr:`streams`.

        Raises:
            RuntimeUnavailableError: this runtime, or this bundle, cannot show it.
        """
        self._switch_probing(True)
        try:
            yield
        finally:
            if not self._is_closed:
                self._switch_probing(False)

    @exclusive
    def _switch_probing(self, on: bool) -> None:
        self._set_probing(on)
        self._probed = [] if on else None

    @property
    def streams(self) -> list[FloatArray]:
        """What each block read from the residual stream in the last call, and last what the head read.

        N + 1 arrays [B, T, E], only inside :meth:`probing`; with layer norm centred over E, as they are read.
        """
        assert self._probed is not None, "ask inside probing()"
        return [np.concatenate(parts, axis=1) for parts in zip(*self._probed, strict=True)]

    def _set_probing(self, on: bool) -> None:
        """Have :meth:`_advance` append to `_probed`, per chunk of tokens, N + 1 arrays [B, T, E]; or stop it."""
        raise RuntimeUnavailableError(f"the runtime {self.runtime} does not show what happens between blocks")

    def close(self) -> None:
        """Release what the runtime holds, after a call of another thread that still runs.

        Later calls raise RuntimeUnavailableError. Closing twice does nothing.
        """
        with self._turn:
            if not self._is_closed:
                self._is_closed = True
                self._release()

    def _release(self) -> None:
        """Release what the runtime holds; called once."""

    def check(self, tokens: npt.ArrayLike) -> None:
        """Check that the session could take these tokens [B, T] now.

        Raises:
            InputError, CapacityError: as :meth:`prefill`.
        """
        self._checked(as_array(tokens))

    def end(self) -> None:
        """Note that the last chosen token found no room: nothing can be generated from here."""
        self._logits = None

    def check_room(self, tokens: int) -> None:
        """Check that so many more positions fit.

        Raises:
            CapacityError: they do not.
        """
        if self.capacity is not None and self._position + tokens > self.capacity:
            raise CapacityError(
                f"{tokens} more positions after {self._position} exceed the capacity of {self.capacity}: "
                "use a shorter prompt, or a model with more positions"
            )

    def _checked(self, tokens: npt.NDArray[np.generic]) -> IntArray:
        ids = check_tokens(tokens, self._batch, self.card.config.vocabulary)
        self.check_room(ids.shape[1])
        return ids

    def _advance_checked(self, tokens: IntArray, *, single: bool) -> FloatArray:
        if self._probed is not None:
            self._probed.clear()
        logits = self._advance(tokens, single=single)
        self._position += tokens.shape[1]
        self._logits = logits[:, -1].copy()
        self.text_tails = ()
        return logits

    @abstractmethod
    def _advance(self, tokens: IntArray, *, single: bool) -> FloatArray:
        """Run checked tokens [B, T] -> [B, T, V]; on an error, leave the state as it was."""

    @abstractmethod
    def _clear(self, batch: int) -> None:
        """Set up a fresh state."""

    @abstractmethod
    def _copy_state(self) -> dict[str, Array]:
        """Copies of the state tensors."""

    @abstractmethod
    def _load_state(self, snapshot: Snapshot) -> None:
        """Take over a snapshot's tensors; check them all before changing anything."""
