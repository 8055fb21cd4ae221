"""The scheduler: every answer equals the run alone, bit for bit, whoever shares the batch; limits and turns hold."""

import dataclasses

import numpy as np
import pytest

from causalrn.errors import CapacityError, InputError, NonFiniteError, QueueFullError, StateError
from causalrn.runtimes import open_session
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.serving import Failed, Finished, Limits, Request, Scheduler, Token, stop_sequences
from causalrn.serving.state_cost import state_bytes
from tests.builders import overflowing_model
from tests.c_tools import HAS_C_COMPILER, c_bundle, needs_c_compiler
from tests.serving.traffic import ends_of, parted, random_request, run_all, tokens_alone, tokens_of

KINDS = [
    (runtime, readout)
    for runtime in ("onnxruntime", *(["native"] if HAS_C_COMPILER else []))
    for readout in ("exact", "linear")
]


@pytest.fixture(scope="module")
def opened(bundles, request):
    folders = {"onnxruntime": bundles}
    if HAS_C_COMPILER:
        folders["native"] = request.getfixturevalue("c_bundles")
    pairs = {kind: [open_session(folders[kind[0]][kind[1]]) for _ in range(2)] for kind in KINDS}
    yield pairs
    for pair in pairs.values():
        for session in pair:
            session.close()


@pytest.fixture(params=KINDS, ids="-".join)
def pair(request, opened):
    """A session to serve with, and one to compare with."""
    for session in opened[request.param]:
        session.reset(1)
    return opened[request.param]


@pytest.fixture
def session(opened, monkeypatch):
    """The quickest one here; its prompts may be split anywhere."""
    chosen = opened[KINDS[-1]][0]
    chosen.reset(1)
    monkeypatch.setattr(chosen, "prefill_chunk", 1)
    return chosen


def greedy(most: int = 4, **settings) -> GenerationOptions:
    return GenerationOptions(max_new_tokens=most, stop_ids=(), **settings)


def test_answers_equal_runs_alone(pair) -> None:
    session, single = pair
    requests = [random_request(seed) for seed in range(24)]
    events = run_all(Scheduler(session, Limits(max_slots=7, chunk_tokens=5, prefill_tokens=12)), requests)
    for request, got in zip(requests, events.values(), strict=True):
        assert tokens_of(got) == tokens_alone(single, request)


def test_neighbours_change_no_answer(pair) -> None:
    session, _ = pair
    alone = run_all(Scheduler(session), [random_request(3)])[0]
    crowd = run_all(Scheduler(session), [random_request(seed) for seed in (9, 3, 4, 5)])[1]
    assert tokens_of(alone) == tokens_of(crowd)


def test_choices_equal_rows_of_a_batch(pair) -> None:
    session, single = pair
    request = dataclasses.replace(random_request(2, choices=3), options=greedy(9, temperature=1.5, seed=8))
    events = run_all(Scheduler(session), [request])[0]
    answers = [tokens_of(events, choice) for choice in range(3)]
    assert answers[0] != answers[1]
    if session.runtime == "native":  # a batch of rows has the bits of rows alone
        assert answers == [tokens_alone(single, request, row) for row in range(3)]
    else:
        assert answers[0] == tokens_alone(single, request)
    assert [type(end) for end in ends_of(events)] == [Finished] * 3


def test_draws_depend_on_the_row(session) -> None:
    request = Request(tokens=(0, 3, 1), options=greedy(12, temperature=2.0, seed=1), choices=2)
    events = run_all(Scheduler(session), [request])[0]
    second = run_all(Scheduler(session), [dataclasses.replace(request, choices=1, first_row=1)])[0]
    assert tokens_of(events, 1) == tokens_of(second)


def test_state_goes_on_bit_for_bit(pair) -> None:
    session, single = pair
    request = Request(tokens=tuple(range(3, 20)), options=greedy(6), keeps_state=True)
    head, tail = parted(request, 8)
    scheduler = Scheduler(session, Limits(chunk_tokens=4))
    (taken,) = run_all(scheduler, [head])[0]
    assert (taken.reason, taken.state.position) == ("taken", 8)
    whole = run_all(scheduler, [dataclasses.replace(tail, state=taken.state)])[1]
    assert tokens_of(whole) == tokens_alone(single, request)[:6]
    end = ends_of(whole)[0].state
    expected = single.snapshot()
    assert end.position == expected.position == 23
    assert np.array_equal(end.logits, expected.logits)
    assert all(np.array_equal(end.tensors[name], value) for name, value in expected.tensors.items())
    going_on = Request(options=greedy(3), state=end)
    more = single.generate(None, going_on.options)
    assert tokens_of(run_all(scheduler, [going_on])[2]) == [int(step.tokens[0]) for step in more]


def test_token_without_room_leaves_nothing_to_go_on_from(pair) -> None:
    session, _ = pair
    full = Request(tokens=(5,) * 40, options=greedy(3), keeps_state=True)
    token, end = run_all(Scheduler(session), [full])[0]
    assert isinstance(token, Token)
    assert (end.reason, end.state.position, end.state.logits) == ("length", 40, None)
    with pytest.raises(InputError, match="nothing to go on from"):
        Scheduler(session).submit(Request(options=greedy(), state=end.state))


def test_stops_end_choices(session) -> None:
    request = Request(tokens=(0, 3, 4, 1), options=greedy(30))
    whole = tokens_of(run_all(Scheduler(session), [request])[0])
    ended = dataclasses.replace(request, stops=((28, 28, 28), tuple(whole[4:6])))
    got = run_all(Scheduler(session), [ended])[0]
    first = next(n for n in range(2, 31) if whole[n - 2 : n] == whole[4:6])
    assert tokens_of(got) == whole[:first]
    assert ends_of(got)[0].reason == "stop"


def test_logprobs_are_of_the_model(pair) -> None:
    session, single = pair
    request = Request(tokens=(0, 3, 4, 1), options=greedy(5, temperature=0.5), logprobs=3)
    events = run_all(Scheduler(session), [request])[0]
    single.reset(1)
    logits = single.prefill([request.tokens])[0, -1].astype(np.float64)
    for event in (event for event in events if isinstance(event, Token)):
        expected = np.log(np.exp(logits) / np.exp(logits).sum())
        assert event.logprobs.chosen == pytest.approx(expected[event.token])
        assert [index for index, _ in event.logprobs.top] == np.argsort(-expected)[:3].tolist()
        logits = single.step([event.token])[0].astype(np.float64)


# --- the prefix cache -----------------------------------------------------------------------------------------------


def test_cached_prefix_changes_no_bit(pair) -> None:
    session, _ = pair
    system = tuple(range(3, 23))
    prompts = [(*system, *tail) for tail in ((4, 5, 6), (9,), (), (4, 5, 6, 7, 8))]
    requests = [Request(tokens=prompt, options=greedy(8), keeps_state=True) for prompt in prompts]
    cached = Scheduler(session, Limits(chunk_tokens=4))
    for request in (*requests, requests[0]):
        got = next(iter(run_all(cached, [request]).values()))
        expected = run_all(Scheduler(session, Limits(chunk_tokens=40, cache_bytes=0)), [request])[0]
        assert tokens_of(got) == tokens_of(expected)
        ends = [ends_of(events)[0].state for events in (got, expected)]
        assert all(np.array_equal(ends[0].tensors[name], ends[1].tensors[name]) for name in ends[0].tensors)
    # a prompt that the runtime takes as one chunk is found as a whole only
    assert cached.cache.hits == (1 if session.next_chunk(0, 23) == 23 else 4)
    assert ends_of(got)[0].cached_tokens == 23  # the whole prompt


def test_clients_share_no_cache(session) -> None:
    scheduler = Scheduler(session, Limits(chunk_tokens=2))
    request = Request(tokens=(3, 4, 5, 6, 7), options=greedy(), client="a")
    run_all(scheduler, [request])
    run_all(scheduler, [dataclasses.replace(request, client="b")])
    assert scheduler.cache.hits == 0
    run_all(scheduler, [request])
    assert scheduler.cache.hits == 1


def test_cache_keeps_to_its_bytes(session) -> None:
    scheduler = Scheduler(session, Limits(chunk_tokens=4, cache_bytes=2000))
    run_all(scheduler, [random_request(seed) for seed in range(30)])
    assert 0 < scheduler.cache.size_bytes <= 2000
    assert 0 < len(scheduler.cache) < 30


# --- limits, turns, ends --------------------------------------------------------------------------------------------


def test_slots_and_bytes_are_never_exceeded(pair) -> None:
    session, _ = pair
    budget = 3 * state_bytes(session, 40)
    scheduler = Scheduler(session, Limits(max_slots=4, state_bytes=budget))
    for seed in range(15):
        scheduler.submit(random_request(seed, choices=1 + seed % 3))
    most = 0
    while not scheduler.is_idle:
        scheduler.advance()
        assert scheduler.running <= 4
        assert scheduler.reserved_bytes <= budget
        most = max(most, scheduler.running)
    assert most >= 3
    assert (scheduler.running, scheduler.reserved_bytes, scheduler._slots.numbers) == (0, 0, ())


def test_long_prompt_holds_nobody_up(session) -> None:
    scheduler = Scheduler(session, Limits(chunk_tokens=2, prefill_tokens=2))
    first = scheduler.submit(Request(tokens=(3,), options=greedy(30)))
    scheduler.advance()
    scheduler.submit(Request(tokens=(4,) * 39, options=greedy(1)))
    for _ in range(10):
        tokens = [event for event in scheduler.advance() if isinstance(event, Token)]
        assert [event.request for event in tokens] == [first]  # one at every step, beside the prompt


def test_prompts_take_turns(session) -> None:
    scheduler = Scheduler(session, Limits(chunk_tokens=2, prefill_tokens=4))
    scheduler.submit(Request(tokens=(4,) * 39, options=greedy(1)))
    scheduler.submit(Request(tokens=(5,) * 39, options=greedy(1)))
    late = scheduler.submit(Request(tokens=(6, 7), options=greedy(1)))
    events = [event for _ in range(3) for event in scheduler.advance()]
    assert {event.request for event in events} == {late}


def test_clients_take_turns(session) -> None:
    scheduler = Scheduler(session, Limits(max_slots=2))
    for _ in range(6):
        scheduler.submit(Request(tokens=(3, 4), options=greedy(4), client="many"))
    few = scheduler.submit(Request(tokens=(5, 6), options=greedy(4), client="few"))
    ended = []
    while not scheduler.is_idle:
        ended += [event.request for event in scheduler.advance() if isinstance(event, Finished)]
    assert ended.index(few) <= 3  # two of the other client ran already


def test_large_request_is_not_passed_for_ever(session) -> None:
    scheduler = Scheduler(session, Limits(max_slots=3))
    scheduler.submit(Request(tokens=(3,), options=greedy(3)))
    scheduler.advance()
    large = scheduler.submit(Request(tokens=(4,), options=greedy(1), choices=3))
    small = scheduler.submit(Request(tokens=(5,), options=greedy(1)))
    order = [event.request for _ in range(9) for event in scheduler.advance() if isinstance(event, Finished)]
    assert order.index(large) < order.index(small)


def test_full_queue_refuses(session) -> None:
    scheduler = Scheduler(session, Limits(max_waiting=3, max_waiting_per_client=2))
    request = Request(tokens=(3,), options=greedy())
    for _ in range(2):
        scheduler.submit(request)
    with pytest.raises(QueueFullError, match="of this client"):
        scheduler.submit(request)
    scheduler.submit(dataclasses.replace(request, client="other"))
    with pytest.raises(QueueFullError, match="try again later"):
        scheduler.submit(dataclasses.replace(request, client="third"))
    scheduler.advance()
    scheduler.submit(request)


def test_cancelled_requests_end_and_free_their_slots(session) -> None:
    scheduler = Scheduler(session, Limits(max_slots=3, chunk_tokens=2, prefill_tokens=2))
    runs = scheduler.submit(Request(tokens=(3,), options=greedy(30)))
    begins = scheduler.submit(Request(tokens=(3,) * 30, options=greedy(5), choices=2))
    waits = scheduler.submit(Request(tokens=(3,), options=greedy(30)))
    scheduler.advance()
    scheduler.advance()
    for number in (runs, begins, waits, 99):
        scheduler.cancel(number)
    events = scheduler.advance()
    assert sorted((event.request, event.choice, event.reason) for event in events) == [
        (runs, 0, "cancelled"),
        (begins, 0, "cancelled"),
        (begins, 1, "cancelled"),
        (waits, 0, "cancelled"),
    ]
    assert scheduler.is_idle
    assert scheduler._slots.numbers == ()


def test_deadlines_end_requests(session) -> None:
    scheduler = Scheduler(session, Limits(max_slots=1))
    scheduler.submit(Request(tokens=(3,), options=greedy(30), deadline=10.0, keeps_state=True))
    scheduler.submit(Request(tokens=(3,), options=greedy(30), deadline=11.0))
    assert all(isinstance(event, Token) for event in scheduler.advance(9.9))
    events = scheduler.advance(10.0)
    assert events[0] == Finished(0, 0, "deadline")  # no state: its session stays as it was
    assert {event.request for event in events[1:]} == {1}
    assert [event[:3] for event in scheduler.advance(11.0)] == [(1, 0, "deadline")]


@needs_c_compiler
def test_failure_of_one_is_no_others(tmp_path) -> None:
    with NativeSession(c_bundle(overflowing_model(), tmp_path)) as session:
        requests = [Request(tokens=(3, 4, token, 5), options=greedy(6)) for token in (3, 28, 7)]
        events = run_all(Scheduler(session, Limits(chunk_tokens=2)), requests)
        alone = [run_all(Scheduler(session), [requests[index]])[0] for index in (0, 2)]
    assert [tokens_of(events[0]), tokens_of(events[2])] == [tokens_of(events) for events in alone]
    (failed,) = events[1]
    assert isinstance(failed.error, NonFiniteError)


def test_foreign_state_fails_its_request_alone(session, opened) -> None:
    foreign = dataclasses.replace(opened[KINDS[-2]][0].snapshot(), logits=np.zeros((1, 29), np.float32))
    scheduler = Scheduler(session)
    events = run_all(scheduler, [Request(options=greedy(), state=foreign), Request(tokens=(3,), options=greedy())])
    assert isinstance(events[0][0], Failed)
    assert isinstance(events[0][0].error, StateError)
    assert len(tokens_of(events[1])) == 4
    assert scheduler.reserved_bytes == 0


@pytest.mark.parametrize("prompt", [(3,), (3, 4, 5, 6)])
def test_choice_that_gets_no_slot_fails_its_request_and_leaves_nothing(session, monkeypatch, prompt) -> None:
    scheduler = Scheduler(session, Limits(chunk_tokens=2))
    admit, calls = scheduler._slots.admit, iter(range(10))

    def admit_two(state):
        if next(calls) == 2:
            raise StateError("no third slot")
        return admit(state)

    monkeypatch.setattr(scheduler._slots, "admit", admit_two)
    (events,) = run_all(scheduler, [Request(tokens=prompt, options=greedy(), choices=3)]).values()
    assert [type(event) for event in events] == [Failed]
    assert scheduler.reserved_bytes == 0
    (events,) = run_all(scheduler, [Request(tokens=prompt, options=greedy())]).values()
    assert len(tokens_of(events)) == 4


@pytest.mark.parametrize(
    ("request_", "error", "reason"),
    [
        (Request(tokens=(3, 29), options=greedy()), InputError, "token id 29 is outside"),
        (Request(tokens=(3,) * 41, options=greedy()), CapacityError, "exceed the capacity of 40"),
        (Request(options=greedy()), InputError, "nothing to go on from"),
        (Request(tokens=(3,), options=greedy(), choices=0), InputError, "choices is 0"),
        (Request(tokens=(3,), options=greedy(), choices=5), InputError, "it must be 1 to 4"),
        (Request(tokens=(3,), options=greedy(9), choices=4), InputError, "more than the budget of 1,000"),
    ],
)
def test_impossible_requests_are_refused(session, request_, error, reason) -> None:
    with pytest.raises(error, match=reason):
        Scheduler(session, Limits(max_slots=4, state_bytes=1000)).submit(request_)


@pytest.mark.parametrize(("name", "value"), [("max_slots", 0), ("cache_bytes", -1), ("chunk_tokens", 1.5)])
def test_limits_that_cannot_be_are_refused(name, value) -> None:
    with pytest.raises(InputError, match=f"`{name}` is {value}"):
        Limits(**{name: value})


def test_stop_texts_need_an_alphabet(session) -> None:
    assert stop_sequences(session.card.alphabet, ("ab", "c")) == ((3, 4), (5,))
    with pytest.raises(InputError, match="stop text is empty"):
        stop_sequences(session.card.alphabet, ("",))
    with pytest.raises(InputError, match="no alphabet"):
        stop_sequences(None, ("a",))
