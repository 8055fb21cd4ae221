"""What Ray is started with, and what runs in it, without Ray."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import pytest

from causalrn.errors import InputError, RuntimeUnavailableError, ServerClosedError
from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.ray import application, starting
from causalrn.serving.ray.application import Front, Held, ModelReplica


@pytest.mark.parametrize("kind", [Exception, RuntimeError, ConnectionError, ValueError])
def test_ray_that_does_not_start_is_one_clear_error(monkeypatch, kind) -> None:
    """Ray raises a bare Exception where the machine is too busy."""

    def fail(cpus, *, is_local):
        raise kind("the node\n  timed out")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setattr(starting, "check_installed", lambda: None)
    monkeypatch.setattr(starting, "_start", fail)
    with (
        pytest.raises(RuntimeUnavailableError, match=r"Ray does not start \(.*\): the node timed out$"),
        starting.running_ray(1),
    ):
        raise AssertionError("it has started")


@pytest.mark.parametrize("prompt", [{"tokens": "abc"}, {"tokens": [1.5]}, {"max_tokens": "many"}])
def test_malformed_prompt_is_an_error_of_input(monkeypatch, prompt) -> None:
    """As its docstring says; over HTTP it is status 400 already."""
    monkeypatch.setattr(application, "keep_replica_to_loopback", lambda: None)
    front = Front(SimpleNamespace(options=lambda **_: None))

    async def ask() -> list[list[int] | str]:
        return [part async for part in front.generate(prompt)]

    with pytest.raises(InputError, match=r"\$\.(tokens|max_tokens)"):
        asyncio.run(ask())


def test_request_goes_on_from_the_version_that_it_was_given() -> None:
    """Another one of its session ends while it asks the store; it fails at its end, not with a fresh state before."""
    before, after = (Snapshot(position, 1, {}, None, "owner") for position in (3, 4))
    held = Held(3, before)

    async def begin(session, request, known):
        assert known == 3
        held.version, held.state = 4, after
        return 3, None

    replica = ModelReplica.__new__(ModelReplica)
    replica._store = SimpleNamespace(begin=SimpleNamespace(remote=begin))
    version, state = asyncio.run(replica._state("anna", "request", held))
    assert version == 3
    assert state is before


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ServerClosedError("replicas died"), "replicas died"),
        (MemoryError("0x7f"), "the server has failed (MemoryError): ask again"),
    ],
)
def test_stream_that_fails_ends_with_one_error(error, text) -> None:
    class Failing(Front):
        async def generate(self, prompt, session=""):
            yield [7]
            raise error

    async def lines() -> list[bytes]:
        return [line async for line in Failing.__new__(Failing)._lines({}, "")]

    assert [json.loads(line) for line in asyncio.run(lines())] == [{"tokens": [7]}, {"error": text}]
