"""A Ray Serve application: replicas of one model, streams that survive a replica's end, sessions that move.

`Front` takes requests and streams answers. It sends a session's requests to the replica that has its state (Ray Serve's
multiplexing). A replica that dies in the middle of an answer is no end of it: the request goes to another one, from the
state that the session had, and what was sent already is left out. Draws depend on seed and position alone, so that the
answer has the bits that it would have had.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import CausalRNError, InputError, ServerClosedError
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.async_answers import AsyncAnswers
from causalrn.serving.bulk.job import BulkJob
from causalrn.serving.bulk.lines import Prompt, request_of
from causalrn.serving.engine import Engine
from causalrn.serving.ray.starting import check_installed, keep_replica_to_loopback
from causalrn.serving.ray.states import StateStore
from causalrn.serving.requests import Request, Token

_LOG = logging.getLogger("causalrn.serving")
_TRIES = 20
_MOST_CACHED = 256
"""States that a replica keeps of sessions that come back to it."""


@dataclasses.dataclass
class Held:
    """What a replica has of a session; it asks the store only whether that is the newest."""

    version: int = -1
    state: Snapshot | None = None


class ModelReplica:
    """One process with the model; requests run in one batch.

    Args:
        job: the bundle, how it runs, and settings of requests that have none.
        store: handle of the :class:`~causalrn.serving.ray.states.StateStore`.
    """

    def __init__(self, job: BulkJob, store: Any) -> None:
        keep_replica_to_loopback()
        session = open_bundle(Bundle.open(job.path), job.session, job.runtime)
        self._job, self._store, self._engine = job, store, Engine(session, job.limits)
        self._answers = AsyncAnswers(self._engine)

    async def hold(self, session: str) -> Held:
        """What this replica has of a session; Ray Serve routes by it, see :func:`build_application`."""
        return Held()

    async def generate(self, prompt: Prompt, name: str, session: str) -> AsyncIterator[list[int] | str]:
        """Lists of tokens as they come, and last why it ends; the session's state is kept before that.

        Args:
            name: of the request; the same one if it has to be sent again.
            session: to go on with, or that begins; "" for none.
        """
        held = await self.hold(session) if session else Held()
        version, state = await self._state(session, name, held) if session else (0, None)
        request = self._request(prompt, state, keeps=bool(session))
        async with self._answers.channel([request]) as channel:
            async for events in channel:
                for event in events:
                    if isinstance(event, Token):
                        yield [event.token]
                        continue
                    if session and event.state is not None:
                        await self._store.end.remote(session, name, version, event.state)
                        held.version, held.state = version + 1, event.state
                    yield event.reason

    async def _state(self, session: str, name: str, held: Held) -> tuple[int, Snapshot | None]:
        known, own = held.version, held.state  # a request that ends meanwhile changes what is held
        version, state = await self._store.begin.remote(session, name, known)
        return version, own if version == known else state

    def _request(self, prompt: Prompt, state: Snapshot | None, *, keeps: bool) -> Request:
        alphabet = self._engine.session.card.alphabet
        request = request_of(prompt, 0, self._job.defaults, alphabet, position=0 if state is None else state.position)
        return dataclasses.replace(request, state=state, keeps_state=keeps)

    def check_health(self) -> None:
        """Called by Ray Serve: a replica whose engine has failed is replaced."""
        if self._engine.failure is not None:
            raise self._engine.failure


class Front:
    """Takes requests, and sees them through.

    Args:
        replicas: handle of the :class:`ModelReplica` deployment.
    """

    def __init__(self, replicas: Any) -> None:
        keep_replica_to_loopback()
        self._replicas = replicas.options(stream=True)

    async def generate(self, prompt: dict[str, Any], session: str = "") -> AsyncIterator[list[int] | str]:
        """Lists of tokens as they come, and last why it ends: "stop" or "length".

        Args:
            prompt: as a line of `generate-file`: "prompt" or "tokens", "max_tokens", "seed", ...
            session: any name: requests with the same one go on with its state.

        Raises:
            InputError: a request that cannot run. ServerClosedError: replicas have died again and again.
        """
        asked = _prompt(prompt)
        name, sent = uuid.uuid4().hex, 0
        for _ in range(_TRIES):
            place = self._replicas.options(multiplexed_model_id=session) if session else self._replicas
            seen = 0
            try:
                async for part in place.generate.remote(asked, name, session):
                    seen += isinstance(part, list)
                    if isinstance(part, list) and seen <= sent:
                        continue  # the first time that it was sent, it came through
                    sent = seen
                    yield part
                    if isinstance(part, str):
                        return
            except Exception as error:
                if not _is_of_a_replica(error):
                    raise _own_error(error) from None
                await asyncio.sleep(0.2)
        raise ServerClosedError(f"replicas died {_TRIES} times over this request: ask again later")

    async def __call__(self, request: Any) -> Any:
        """HTTP: a body as :meth:`generate` takes it, with "session" in it; the answer is a JSON value a line."""
        from starlette.responses import JSONResponse, StreamingResponse

        try:
            body = msgspec.json.decode(await request.body(), type=dict[str, Any])
            session = body.pop("session", "")
            _prompt(body)
            if not isinstance(session, str):
                raise InputError("`session` is a text")
        except (msgspec.MsgspecError, InputError, UnicodeDecodeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return StreamingResponse(self._lines(body, session), media_type="application/x-ndjson")

    async def _lines(self, body: dict[str, Any], session: str) -> AsyncIterator[bytes]:
        try:
            async for part in self.generate(body, session):
                key = "finish_reason" if isinstance(part, str) else "tokens"
                yield msgspec.json.encode({key: part}) + b"\n"
        except CausalRNError as error:
            yield msgspec.json.encode({"error": str(error)}) + b"\n"
        except Exception as error:  # a client is told in any case: a stream that is cut off says nothing
            _LOG.exception("a stream has failed")
            yield msgspec.json.encode({"error": f"the server has failed ({type(error).__name__}): ask again"}) + b"\n"


def _prompt(fields: dict[str, Any]) -> Prompt:
    try:
        return msgspec.convert(fields, Prompt)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from None


def _is_of_a_replica(error: Exception) -> bool:
    """Whether a replica, not the request, is at fault."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import RayServeException

    return isinstance(error, RayActorError | RayServeException | ServerClosedError)


def _own_error(error: Exception) -> Exception:
    """What a replica raised, without what Ray puts around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def build_application(
    job: BulkJob,
    *,
    min_replicas: int = 1,
    max_replicas: int = 4,
    ongoing_requests: int = 32,
    cpus: float = 1.0,
    sessions: int = 10_000,
) -> Any:
    """The application, for `ray.serve.run`.

    Args:
        job: the bundle, how it runs, and settings of requests that have none. Every machine has it at the same path.
        min_replicas, max_replicas: Ray Serve keeps as many as there is work for.
        ongoing_requests: that a replica should have; more of them start another one.
        cpus: of each replica.
        sessions: whose states are kept.

    Raises:
        RuntimeUnavailableError: Ray is not installed.

    Example:
        >>> serve.run(build_application(BulkJob(Path("/models/copy"))))  # doctest: +SKIP
    """
    check_installed()
    import ray
    from ray import serve

    job = dataclasses.replace(job, path=Path(job.path).resolve())

    class RoutedReplica(ModelReplica):
        hold = serve.multiplexed(max_num_models_per_replica=_MOST_CACHED)(ModelReplica.hold)

    store = ray.remote(num_cpus=0, max_restarts=-1)(StateStore).remote(sessions)
    replicas = serve.deployment(
        RoutedReplica,
        name="ModelReplica",
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=2 * ongoing_requests,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": ongoing_requests,
        },
        health_check_period_s=2,
    )
    front = serve.deployment(Front, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1024)
    return front.bind(replicas.bind(job, store))
