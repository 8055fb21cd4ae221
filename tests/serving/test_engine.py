"""The engine: any thread asks, everybody hears their own answer, and its end is clear to all."""

import concurrent.futures
import threading

import pytest

from causalrn.errors import CapacityError, QueueFullError, RuntimeUnavailableError, ServerClosedError
from causalrn.runtimes import open_session
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.serving import Engine, Failed, Finished, Limits, Request, Token
from tests.serving.traffic import random_request, tokens_alone, tokens_of


def endless(**settings) -> Request:
    return Request(tokens=(3,), options=GenerationOptions(max_new_tokens=39, stop_ids=()), **settings)


@pytest.fixture
def engine(served):
    with Engine(open_session(served["linear"]), Limits(max_slots=6, max_waiting=64)) as engine:
        yield engine


@pytest.fixture
def held(engine):
    """The engine, whose steps wait until the event is set."""
    gate, slots = threading.Event(), engine._scheduler._slots
    quick = type(slots)._advance

    def slow(*arguments):
        assert gate.wait(20)
        return quick(slots, *arguments)

    slots._advance = slow
    yield engine, gate
    gate.set()


def test_threads_hear_their_own_answers(engine, served) -> None:
    requests = [random_request(seed) for seed in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: tokens_of(engine.answer(request)), requests))
    with open_session(served["linear"]) as single:
        assert answers == [tokens_alone(single, request) for request in requests]
    now = engine.statistics()
    assert (now.running, now.waiting, now.reserved_bytes) == (0, 0, 0)
    assert now.generated_tokens == sum(map(len, answers))


def test_sink_hears_a_step_at_once(engine) -> None:
    steps, ended = [], threading.Event()

    def sink(events) -> None:
        steps.append(events)
        if sum(isinstance(event, Finished) for step in steps for event in step) == 5:
            ended.set()

    for _ in range(5):
        engine.submit(endless(), sink)
    assert ended.wait(20)
    assert max(sum(isinstance(event, Token) for event in step) for step in steps) >= 2
    assert len(steps) < 5 * 40


def test_cancelled_answer_ends(held) -> None:
    engine, gate = held
    answer = engine.answer(endless(keeps_state=True))
    answer.cancel()
    gate.set()
    *_, end = answer
    assert end[2:4] == ("cancelled", None)
    engine.cancel(answer.number)  # once more is no error


def test_refusals_come_at_once(held) -> None:
    engine, _ = held
    with pytest.raises(CapacityError):
        engine.answer(Request(tokens=(3,) * 41))
    for _ in range(64):
        engine.submit(endless(), lambda events: None)
    refused = 0
    for _ in range(7):  # six may run already
        try:
            engine.answer(endless())
        except QueueFullError:
            refused += 1
    assert refused >= 1


def test_drained_engine_takes_nothing_new(held) -> None:
    engine, gate = held
    answer = engine.answer(endless())
    assert not engine.drain(0.05)
    with pytest.raises(ServerClosedError, match="takes no more requests"):
        engine.answer(endless())
    gate.set()
    assert engine.drain(20)
    assert len(tokens_of(answer)) == 39


def test_closed_engine_ends_what_runs(served) -> None:
    engine = Engine(open_session(served["linear"]), Limits(max_slots=1))
    slots, begun = engine._scheduler._slots, threading.Event()
    quick = type(slots)._advance

    def slow(*arguments):
        begun.set()
        threading.Event().wait(0.05)
        return quick(slots, *arguments)

    slots._advance = slow
    answers = [engine.answer(endless()) for _ in range(3)]
    assert begun.wait(20)
    engine.close()
    for answer in answers:
        with pytest.raises(ServerClosedError, match="the server has ended"):
            list(answer)
    with pytest.raises(RuntimeUnavailableError, match="closed"):
        engine.session.step([3])


def test_failed_engine_tells_everybody(served) -> None:
    with Engine(open_session(served["linear"])) as engine:

        def broken(*arguments):
            raise MemoryError("no memory is left")

        engine._scheduler._slots._advance = broken
        events, ended = [], threading.Event()

        def sink(step) -> None:
            events.extend(step)
            ended.set()

        engine.submit(endless(choices=2), sink)
        assert ended.wait(20)
        (failed,) = events
        assert isinstance(failed, Failed)
        assert "no memory is left" in str(failed.error)
        assert isinstance(engine.failure, MemoryError)
        with pytest.raises(ServerClosedError):
            engine.answer(endless())
        assert engine.drain(1)
