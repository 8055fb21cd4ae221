"""Objects in processes of their own: results, errors, deaths."""

import importlib
import os
from functools import partial

import pytest

from causalrn.errors import InputError, RuntimeUnavailableError
from causalrn.runtimes.bench.worker import Worker


class Served:
    def __init__(self, start):
        if start < 0:
            raise InputError("below zero: start higher")
        self.count = start

    def add(self, number):
        self.count += number
        return self.count

    def process(self):
        return os.getpid()

    def fail(self, kind):
        errors = {"ours": InputError("no: do otherwise"), "theirs": ZeroDivisionError("by\nzero"), "mute": ValueError()}
        raise errors[kind]

    def miss(self):
        importlib.import_module("nowhere_to_be_found")

    def fill(self):
        raise MemoryError

    def die(self):
        os._exit(7)


@pytest.fixture(scope="module")
def worker():
    worker = Worker(partial(Served, 40))
    yield worker
    worker.close()


def test_object_lives_elsewhere_and_keeps_its_state(worker):
    assert worker.call("process") != os.getpid()
    assert worker.call("add", 1) == worker.call("add", 0)


def test_errors_come_back_as_ours(worker):
    with pytest.raises(InputError, match="no: do otherwise"):
        worker.call("fail", "ours")
    for call, text in (
        (("fail", "theirs"), "ZeroDivisionError: by zero"),
        (("fail", "mute"), "ValueError"),
        (("miss",), "needs nowhere_to_be_found, which is not installed"),
        (("fill",), "not enough memory: ask for fewer"),
        (("nothing",), "AttributeError"),
    ):
        with pytest.raises(RuntimeUnavailableError, match=text):
            worker.call(*call)
    assert isinstance(worker.call("add", 0), int), "and it goes on"


def test_object_that_cannot_be_made_is_an_error():
    with pytest.raises(InputError, match="below zero: start higher"):
        Worker(partial(Served, -1))


def test_death_is_an_error_and_stays_one():
    worker = Worker(partial(Served, 0))
    for _ in range(2):
        with pytest.raises(RuntimeUnavailableError, match=r"its process died \(exit code 7\)"):
            worker.call("die")
    worker.close()


def test_reply_of_an_interrupted_call_answers_no_other(worker, monkeypatch):
    assert worker.is_idle
    fresh = Worker(partial(Served, 0))
    with monkeypatch.context() as patch:
        patch.setattr(fresh, "_result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fresh.call("add", 5)
    assert not fresh.is_idle
    with pytest.raises(RuntimeUnavailableError, match="interrupted in the middle of a call"):
        fresh.call("process")
    fresh.close()
