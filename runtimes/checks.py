"""What every session checks: tokens before anything runs, logits before anything is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import InputError, NonFiniteError, StateError
from causalrn.model.config import CausalRNConfig, Configuration
from causalrn.runtimes.snapshot import FloatArray, IntArray, Snapshot
from causalrn.training.card import ModelCard

NON_FINITE = "the model gave NaN or infinity: its weights, or the values they reach, are out of range"


def shortened(error: Exception) -> str:
    """What another package says, in one line that is not too long."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= 160 else f"{reason[:60]} ... {reason[-95:]}"


def check_tokens(tokens: npt.NDArray[np.generic], batch: int, vocabulary: int) -> IntArray:
    """Tokens of B sequences, int64 [B, T], contiguous.

    Raises:
        InputError: another shape, no integers, or an id outside the vocabulary.
    """
    if tokens.ndim != 2 or tokens.shape[0] != batch or tokens.shape[1] < 1:
        raise InputError(
            f"tokens have shape {list(tokens.shape)}, this session takes {batch} rows of at least 1 token: "
            "call reset(batch=...) to change the number of rows"
        )
    if tokens.dtype.kind not in "iu":
        raise InputError(f"tokens have dtype {tokens.dtype}, they must be integers")
    low, high = (tokens.item(),) * 2 if tokens.size == 1 else (tokens.min(), tokens.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is outside the vocabulary of {vocabulary} (0 to V - 1)")
    return np.ascontiguousarray(tokens, dtype=np.int64)


def as_array(tokens: npt.ArrayLike) -> npt.NDArray[np.generic]:
    """Whatever tokens are given as, as an array.

    Raises:
        InputError: rows of different lengths.
    """
    try:
        return np.asarray(tokens)
    except ValueError:
        raise InputError("the rows of the tokens have different lengths: a batch advances in lockstep") from None


def check_finite(logits: FloatArray) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: there is one.
    """
    # NaN and infinity survive a sum; only where it is not finite (it may overflow by itself) every value is looked at
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.add.reduce(logits, axis=None)
    if not math.isfinite(total) and not np.isfinite(logits).all():
        raise NonFiniteError(NON_FINITE)


def hides_rows(config: Configuration, spec: StateSpec) -> bool:
    """Whether logits can be finite although a pool row holds an infinity, which float16 has from 65,520 on.

    relu(-inf) and a softmax's weight of -inf are 0; but LN0 of a row with an infinity holds NaN, and so does its exp.
    """
    return spec.pool_dtype == "float16" and not (isinstance(config, CausalRNConfig) and config.activation == "exp")


def check_batch(batch: Any, most: int | None) -> None:
    """Refuse a number of sequences that a session cannot have.

    Args:
        most: that it takes; None without a bound.

    Raises:
        InputError: no whole number, or out of range.
    """
    if not isinstance(batch, int) or isinstance(batch, bool):
        raise InputError(f"batch is {batch!r}: it must be a whole number")
    if batch < 1:
        raise InputError(f"batch is {batch}: it must be at least 1")
    if most is not None and batch > most:
        raise InputError(f"batch is {batch}, and this session takes {most} sequences at most: run fewer")


def check_snapshot(
    snapshot: Snapshot, origin: StateOrigin, card: ModelCard, *, capacity: int | None, max_batch: int | None
) -> None:
    """Check what every snapshot has to be for a session to go on from it; its shapes are the state contract's.

    Args:
        origin: of the session's own states.

    Raises:
        StateError: it belongs to other weights, is larger than the session, or holds NaN or infinity.
    """
    origin.check_takes(snapshot.origin)
    if snapshot.position < 0 or snapshot.batch < 1:
        raise StateError(f"the state cannot be: position {snapshot.position}, {snapshot.batch} sequences")
    if capacity is not None and snapshot.position > capacity:
        raise StateError(f"the state holds {snapshot.position} positions, this session has {capacity}")
    if max_batch is not None and snapshot.batch > max_batch:
        raise StateError(f"the state holds {snapshot.batch} sequences, this session takes {max_batch} at most")
    logits, shape = snapshot.logits, (snapshot.batch, card.config.vocabulary)
    if logits is not None and (
        logits.shape != shape or logits.dtype not in (np.float32, np.float64) or not np.isfinite(logits).all()
    ):
        raise StateError(f"the state's logits are not finite floating-point numbers of shape {list(shape)}")
    for name, value in snapshot.tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise StateError(f"state tensor {name} holds NaN or infinity: restore another state")
    _check_text_tails(snapshot, card.alphabet)


def _check_text_tails(snapshot: Snapshot, alphabet: Alphabet | None) -> None:
    """Check that what a snapshot has of begun characters can be.

    Raises:
        StateError: it is of another number of rows, or holds bytes that begin no character.
    """
    tails = snapshot.text_tails
    if not tails:
        return
    if (
        alphabet is None
        or len(tails) != snapshot.batch
        or any(alphabet.text_stream(tail).tail != tail for tail in tails)
    ):
        raise StateError("the state's text ends with bytes that begin no character: restore another state")
