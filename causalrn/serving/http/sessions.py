"""/v1/sessions: sequences whose state stays on the server from request to request."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from causalrn.bundle.alphabet import REPLACEMENT
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import StateError
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.state_file import load_state, state_content
from causalrn.serving.http.bodies import read_body, read_json, while_connected
from causalrn.serving.http.completions import answer, json_response
from causalrn.serving.http.generating import Generating, Plan
from causalrn.serving.http.messages import Deleted, SessionAppend, SessionCreate, SessionGenerate, SessionInfo
from causalrn.serving.http.models import Ids, ServedModel, find_model
from causalrn.serving.http.problems import late
from causalrn.serving.http.settings import ServerSettings
from causalrn.serving.requests import DEADLINE, Finished, Request
from causalrn.serving.session_store import SessionStore, UnknownSessionError
from causalrn.serving.state_cost import state_bytes

_STATE_TYPE = "application/octet-stream"
_HEADER_BYTES = 1 << 20
_UNBOUNDED_TOKENS = 1 << 16


class _Hold:
    """A session that a request has taken.

    Attributes:
        state: that it had then.
    """

    def __init__(self, store: SessionStore, owner: str, name: str, state: Snapshot) -> None:
        self._store, self._owner, self._name = store, owner, name
        self._replacing: asyncio.Future[None] | None = None
        self.state = state

    async def replace(self, state: Snapshot) -> None:
        """Have the session go on from another state; what has begun comes to its end, even if its client leaves."""
        replacing = asyncio.to_thread(self._store.replace, self._owner, self._name, state)
        self._replacing = asyncio.ensure_future(replacing)
        await asyncio.shield(self._replacing)

    def end(self) -> None:
        """Let other requests take it: not before a state that is being replaced has been."""
        if self._replacing is None or self._replacing.done():
            self._store.give_back(self._name)
        else:
            self._replacing.add_done_callback(lambda _: self._store.give_back(self._name))


class Sessions:
    """The endpoints with state. Whatever fails, or is left by its client, leaves a session as it was.

    An id is the model's name, a dot, and what the store has given.

    Args:
        models: by name.
    """

    def __init__(self, models: dict[str, ServedModel], settings: ServerSettings) -> None:
        self._models, self._settings = models, settings

    async def create(self, request: HttpRequest) -> Response:
        """A fresh session, with a prompt in it if there is one."""
        body = await read_json(request, self._settings, SessionCreate)
        model = find_model(self._models, body.model)
        state = model.fresh
        if body.prompt is not None:
            ids = model.encode(body.prompt)
            state = await while_connected(request, self._taken(request, model, state, ids))
        name = await asyncio.to_thread(model.store.create, request.state.owner, state)
        return self._described(model, name, state, 201)

    async def describe(self, request: HttpRequest) -> Response:
        """Where a session is."""
        model, name = self._named(request)
        return self._described(model, name, await self._read(request, model, name))

    async def delete(self, request: HttpRequest) -> Response:
        """End a session."""
        model, name = self._named(request)
        await asyncio.to_thread(model.store.delete, request.state.owner, name)
        return json_response(Deleted(f"{model.name}.{name}"))

    async def append(self, request: HttpRequest) -> Response:
        """Take tokens and generate none."""
        model, name = self._named(request)
        body = await read_json(request, self._settings, SessionAppend)
        async with self._using(request, model, name) as hold:
            ids = model.encode(body.prompt, hold.state.position)
            state = await while_connected(request, self._taken(request, model, hold.state, ids))
            await hold.replace(state)
        return self._described(model, name, state)

    async def fork(self, request: HttpRequest) -> Response:
        """Another session that begins where this one is."""
        model, name = self._named(request)
        state = await self._read(request, model, name)
        other = await asyncio.to_thread(model.store.create, request.state.owner, state)
        return self._described(model, other, state, 201)

    async def snapshot(self, request: HttpRequest) -> Response:
        """A session's state file."""
        model, name = self._named(request)
        state = await self._read(request, model, name)
        return Response(await asyncio.to_thread(state_content, state), media_type=_STATE_TYPE)

    async def restore(self, request: HttpRequest) -> Response:
        """Have a session go on from a state file."""
        model, name = self._named(request)
        rows = model.session.capacity or _UNBOUNDED_TOKENS
        most = state_bytes(model.session, rows) + _HEADER_BYTES
        content = await read_body(request, self._settings, _STATE_TYPE, most)
        given = await asyncio.to_thread(_state_from_bytes, content)
        async with self._using(request, model, name) as hold:
            state = await while_connected(request, self._taken(request, model, given, ()))  # the engine checks it
            state = dataclasses.replace(state, text_tails=given.text_tails)
            await hold.replace(state)
        return self._described(model, name, state)

    async def generate(self, request: HttpRequest) -> Response:
        """Generate after a prompt, or from where the session is; the state includes what was generated."""
        model, name = self._named(request)
        body = await read_json(request, self._settings, SessionGenerate)
        plan = Plan.of(model, body)
        async with contextlib.AsyncExitStack() as stack:
            hold = await stack.enter_async_context(self._using(request, model, name))
            state = hold.state
            ids = model.encode(body.prompt, state.position) if body.prompt is not None else ()
            asked = self._request(request, state, ids, options=plan.options, stops=plan.stops, logprobs=plan.logprobs)
            tail = state.text_tails[0] if state.text_tails else b""
            if ids:  # what was begun is never completed
                generating = Generating(model, plan, [asked], hold.replace, before=REPLACEMENT if tail else "")
            else:
                generating = Generating(model, plan, [asked], hold.replace, tail=tail)
            return await answer(request, model, body, plan, [asked], generating, stack.pop_all())

    def _named(self, request: HttpRequest) -> tuple[ServedModel, str]:
        model, _, name = request.path_params["session"].rpartition(".")
        if model not in self._models:
            raise UnknownSessionError("no such session: its id does not begin with the name of a model that is served")
        return self._models[model], name

    def _request(self, http: HttpRequest, state: Snapshot, ids: Ids, **settings: Any) -> Request:
        deadline = time.monotonic() + self._settings.deadline_s
        client = http.state.owner
        return Request(tokens=ids, state=state, keeps_state=True, client=client, deadline=deadline, **settings)

    async def _taken(self, http: HttpRequest, model: ServedModel, state: Snapshot, ids: Ids) -> Snapshot:
        """The state after some tokens."""
        async with model.answers.channel([self._request(http, state, ids)]) as channel:
            async for events in channel:
                for event in events:
                    if isinstance(event, Finished) and event.state is not None:
                        return event.state
                    if isinstance(event, Finished) and event.reason == DEADLINE:
                        raise late()
        raise AssertionError("a request that keeps its state ends with it")

    async def _read(self, http: HttpRequest, model: ServedModel, name: str) -> Snapshot:
        return await asyncio.to_thread(model.store.read, http.state.owner, name)

    @contextlib.asynccontextmanager
    async def _using(self, http: HttpRequest, model: ServedModel, name: str) -> AsyncIterator[_Hold]:
        """A session, which no other request can take meanwhile."""
        taking = asyncio.ensure_future(asyncio.to_thread(model.store.take, http.state.owner, name))
        try:
            state = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the thread goes on: what it takes is given back

            def give_back(done: asyncio.Future[Snapshot]) -> None:
                if not done.cancelled() and done.exception() is None:
                    model.store.give_back(name)

            taking.add_done_callback(give_back)
            raise
        hold = _Hold(model.store, http.state.owner, name, state)
        try:
            yield hold
        finally:
            hold.end()

    @staticmethod
    def _described(model: ServedModel, name: str, state: Snapshot, status: int = 200) -> Response:
        info = SessionInfo(f"{model.name}.{name}", model.name, state.position, model.session.capacity)
        return json_response(info, status)


def _state_from_bytes(content: bytes) -> Snapshot:
    with temporary_folder() as folder:
        path = folder / "state.safetensors"
        path.write_bytes(content)
        try:
            return load_state(path)
        except StateError as error:
            raise StateError(str(error).replace(str(path), "the state file")) from None
