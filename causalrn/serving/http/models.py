"""The models that a server has: each with its engine, its sessions and its names."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import CausalRNError, InputError
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.async_answers import AsyncAnswers
from causalrn.serving.engine import Engine
from causalrn.serving.http.messages import Model
from causalrn.serving.http.settings import ServerSettings
from causalrn.serving.session_store import SessionStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
Ids = tuple[int, ...]


@dataclass(frozen=True)
class ServedModel:
    """A model and what runs it.

    Attributes:
        name: as requests have it.
        engine: runs its requests; `answers` submits those of the event loop.
        store: its sessions.
        fresh: the state that a session begins with.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    engine: Engine
    answers: AsyncAnswers
    store: SessionStore
    fresh: Snapshot
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def session(self) -> Session:
        """What its engine runs."""
        return self.engine.session

    @property
    def fingerprint(self) -> str:
        """Names the weights and their form: the same seed gives the same answer where it is the same."""
        return f"causalrn-{self.session.owner[:16]}"

    @property
    def description(self) -> Model:
        """As `/v1/models` shows it."""
        return Model(self.name, self.created, self.session.capacity, self.session.card.config.vocabulary)

    def encode(self, prompt: str | Sequence[Any], position: int = 0) -> Ids:
        """Token ids of a text or of token ids.

        Args:
            position: where the text begins: at 0 it gets the alphabet's markers.

        Raises:
            InputError: it is empty, or something else, or the alphabet does not have it.
        """
        if not len(prompt):
            raise InputError("the prompt is empty")
        if not isinstance(prompt, str):
            if not all(isinstance(token, int) and not isinstance(token, bool) for token in prompt):
                raise InputError("the prompt is neither a text nor a list of token ids")
            return tuple(prompt)
        alphabet = self.session.card.alphabet
        if alphabet is None:
            raise InputError("this model has no alphabet: give the prompt as token ids")
        return tuple(alphabet.encode_at(prompt, position))

    def encode_all(self, prompt: str | Sequence[Any]) -> list[Ids]:
        """The same for one prompt or several.

        Raises:
            InputError: as :meth:`encode`.
        """
        if isinstance(prompt, str) or not any(isinstance(part, str | list) for part in prompt):
            return [self.encode(prompt)]
        if not all(isinstance(part, str | list) for part in prompt):
            raise InputError("the prompt mixes texts with token ids")
        return [self.encode(part) for part in prompt]


@contextmanager
def serving(sessions: dict[str, Session], settings: ServerSettings) -> Iterator[dict[str, ServedModel]]:
    """Models by name, from their sessions, which are closed at the end; kept states are written.

    Raises:
        InputError: a folder for states that cannot be used.
    """
    with ExitStack() as stack:
        engines = {name: stack.enter_context(Engine(session, settings.limits)) for name, session in sessions.items()}
        folder = settings.state_dir or stack.enter_context(temporary_folder())
        models = {}
        for name, engine in engines.items():
            store = SessionStore(_private_folder(folder / name), settings.store)
            if settings.state_dir is not None:
                stack.callback(store.write_all)
            session = engine.session
            session.reset(1)
            models[name] = ServedModel(name, engine, AsyncAnswers(engine), store, session.snapshot())
        yield models


def _private_folder(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: no folder for states ({error.strerror}): name another `state_dir`") from None
    return path


def named_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """Bundles by name: NAME=PATH, or a path, whose folder's name it then is.

    Raises:
        InputError: a name that cannot be, or two of the same.
    """
    named: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or "/" in name:
            name, path = Path(argument).resolve().name, argument
        if not _NAME.match(name):
            raise InputError(f"{argument}: {name!r} is no name for a model: say NAME=PATH, of letters, digits and ._-")
        if name in named:
            raise InputError(f"two bundles are called {name}: say NAME=PATH")
        named[name] = Path(path)
    return named


def find_model(models: dict[str, ServedModel], name: str) -> ServedModel:
    """A model by name.

    Raises:
        UnknownModelError: there is none.
    """
    if name not in models:
        raise UnknownModelError(f"no model of this name is served: choose from {', '.join(models)}")
    return models[name]


class UnknownModelError(CausalRNError):
    """A model that is not served."""
