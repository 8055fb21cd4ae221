"""A model that users bring as a session, without a bundle."""

from __future__ import annotations

from typing import Any

from causalrn.model.own.forms import forms_from
from causalrn.runtimes.own_model.model import OwnModel
from causalrn.runtimes.own_model.sessions import StepSession
from causalrn.runtimes.session import Session


def open_model(model: Any = None, **forms: Any) -> Session:
    """A session over the step of a recurrent PyTorch model, and its prefill where it has one.

    Args:
        model: as for :func:`causalrn.verify_recurrent`.
        forms: fields of :class:`causalrn.RecurrentForms`, which go first.

    Raises:
        InputError: functions that are missing, raise something, or give what cannot be a state.

    Example:
        >>> with open_model(model, vocabulary=29) as session:  # doctest: +SKIP
        ...     logits = session.prefill([[1, 5, 7]])  # [1, 3, 29]
        ...     snapshot = session.snapshot()
    """
    own = OwnModel.of(forms_from(model, forms))
    return StepSession(own.cell(), own.card, own.sha256)
