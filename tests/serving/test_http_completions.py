"""Completions as clients of OpenAI's know them: every answer equals the run alone, by the real client and by curl."""

import concurrent.futures
import json
import shutil
import subprocess

import numpy as np
import openai
import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.runtimes import open_session
from tests.serving.servers import running

LETTERS = Alphabet("letters")


@pytest.fixture(scope="module")
def server(served):
    with running(served) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none is needed", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def single(served):
    """What generation gives without a server: texts of so many rows."""
    with open_session(served["linear"]) as linear, open_session(served["exact"]) as exact:
        sessions = {"linear": linear, "exact": exact}

        def texts(model, prompt, rows=1, **options):
            session = sessions[model]
            session.reset(rows)
            parts = [""] * rows
            for step in session.generate([prompt] * rows, **options):
                parts = [text + added for text, added in zip(parts, step.texts, strict=True)]
            return parts

        yield texts


def test_models_are_listed(client, server) -> None:
    assert sorted(model.id for model in client.models.list()) == ["exact", "linear"]
    assert client.models.retrieve("exact").id == "exact"
    with pytest.raises(openai.NotFoundError, match="no model of this name"):
        client.models.retrieve("other")


@pytest.mark.parametrize("model", ["linear", "exact"])
@pytest.mark.parametrize("temperature", [0, 1.3])
def test_answers_equal_runs_alone(client, single, model, temperature) -> None:
    settings = {"temperature": temperature, "seed": 11, "top_p": 0.95}
    answer = client.completions.create(model=model, prompt="abcdef", max_tokens=20, n=3, **settings)
    assert [choice.text for choice in answer.choices] == single(model, "abcdef", 3, max_new_tokens=20, **settings)
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}
    assert answer.usage.prompt_tokens == 8
    assert answer.usage.total_tokens == 8 + answer.usage.completion_tokens


def test_stream_is_the_whole_in_parts(client) -> None:
    settings = {"model": "linear", "prompt": "xyz", "max_tokens": 24, "seed": 5, "n": 2, "temperature": 1.5}
    whole = client.completions.create(**settings)
    texts, ends = ["", ""], [None, None]
    *parts, last = client.completions.create(stream=True, stream_options={"include_usage": True}, **settings)
    for part in parts:
        for choice in part.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert (last.choices, last.usage.total_tokens) == ([], whole.usage.total_tokens)


def test_many_clients_hear_their_own_answer(client, single) -> None:
    def ask(seed: int) -> str:
        prompt = LETTERS.decode(np.random.default_rng(seed).integers(3, 29, 1 + seed % 17))
        stream = client.completions.create(
            model="linear", prompt=prompt, max_tokens=20, seed=seed, temperature=1, stream=True
        )
        return "".join(part.choices[0].text for part in stream)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    for seed, answer in enumerate(answers):
        prompt = LETTERS.decode(np.random.default_rng(seed).integers(3, 29, 1 + seed % 17))
        assert answer == single("linear", prompt, max_new_tokens=20, seed=seed, temperature=1)[0]


def test_stop_is_no_part_of_the_text(client) -> None:
    settings = {"model": "linear", "prompt": "abc", "max_tokens": 25, "temperature": 1.5, "seed": 3}
    text = client.completions.create(**settings).choices[0].text
    stop = text[6:8]
    for stream in (False, True):
        answer = client.completions.create(stop=["zzzz", stop], stream=stream, **settings)
        parts = [choice for part in (answer if stream else [answer]) for choice in part.choices]
        assert "".join(part.text for part in parts) == text[: text.index(stop)]
        assert parts[-1].finish_reason == "stop"


def test_logprobs_have_places_in_the_text(client) -> None:
    settings = {"model": "linear", "prompt": "abc", "max_tokens": 8, "seed": 3, "logprobs": 2, "stop": "zz"}
    answer = client.completions.create(**settings).choices[0]
    shown = answer.logprobs
    tokens = [token for token in shown.tokens if not token.startswith("<")]
    assert "".join(tokens) == answer.text
    assert all(answer.text[place:].startswith(token) for place, token in zip(shown.text_offset, tokens, strict=False))
    assert all(len(top) == 2 for top in shown.top_logprobs)
    assert all(max(top.values()) >= own for top, own in zip(shown.top_logprobs, shown.token_logprobs, strict=True))
    streamed = [part.choices[0].logprobs for part in client.completions.create(stream=True, **settings)]
    assert [token for part in streamed for token in part.tokens] == shown.tokens
    assert [place for part in streamed for place in part.text_offset] == shown.text_offset


def test_prompts_of_tokens_and_several(client) -> None:
    settings = {"model": "linear", "max_tokens": 6, "temperature": 0}
    texts = client.completions.create(prompt=["abc", "xy"], **settings).choices
    ids = client.completions.create(prompt=[LETTERS.prompt("abc"), LETTERS.prompt("xy")], **settings).choices
    one = client.completions.create(prompt=LETTERS.prompt("xy"), **settings).choices
    assert [choice.text for choice in texts] == [choice.text for choice in ids]
    assert one[0].text == texts[1].text
    assert [choice.index for choice in texts] == [0, 1]


def test_drawn_seed_is_told(server) -> None:
    body = {"model": "linear", "prompt": "abc", "max_tokens": 20, "temperature": 1.5}
    _, headers, first = server.ask("POST", "/v1/completions", body)
    _, _, again = server.ask("POST", "/v1/completions", body | {"seed": int(headers["x-causalrn-seed"])})
    assert first["choices"] == again["choices"]


def test_answer_ends_at_the_capacity(client) -> None:
    answer = client.completions.create(
        model="linear", prompt=[3] * 38, max_tokens=30, temperature=0, extra_body={"top_k": 1}
    )
    assert answer.usage.completion_tokens <= 3
    with pytest.raises(openai.BadRequestError, match="exceed the capacity of 40"):
        client.completions.create(model="linear", prompt=[3] * 41)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": []}, 400, "the prompt is empty"),
        ({"prompt": "Abc"}, 400, "character 'A' at place 1"),
        ({"prompt": [3, 29]}, 400, "token id 29 is outside"),
        ({"prompt": [3, "a"]}, 400, "mixes texts with token ids"),
        ({"prompt": [True, 3]}, 400, "neither a text nor a list of token ids"),
        ({"prompt": [[3], [[4]]]}, 400, "neither a text nor a list of token ids"),
        ({"model": "other"}, 404, "no model of this name is served: choose from linear, exact"),
        ({"max_tokens": 0}, 400, "max_tokens: expected int >= 1"),
        ({"temperature": -1}, 400, "temperature: expected float >= 0"),
        ({"temperature": "hot"}, 400, "temperature: expected float"),
        ({"n": 33}, 400, "are more than 32 choices"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": "A"}, 400, "character 'A'"),
        ({"logprobs": 6}, 400, "logprobs"),
        ({"seed": -1}, 400, "seed"),
        ({"echo": True}, 400, "echo"),
        ({"logit_bias": {"3": 1}}, 400, "logit_bias means nothing here"),
        ({"tempreature": 1}, 400, "tempreature"),
    ],
)
def test_impossible_requests_are_refused(server, changes, status, reason) -> None:
    given, _, answer = server.ask("POST", "/v1/completions", {"model": "linear", "prompt": "abc"} | changes)
    assert given == status
    assert reason.lower() in answer["error"]["message"].lower()
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "`" not in answer["error"]["message"]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_streams(server, single) -> None:
    body = json.dumps({"model": "exact", "prompt": "abc", "max_tokens": 9, "temperature": 0, "stream": True})
    command = ["curl", "-sN", f"{server.url}/v1/completions", "-H", "content-type: application/json", "-d", body]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    *events, end = [line.removeprefix("data: ") for line in output.splitlines() if line]
    assert end == "[DONE]"
    text = "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
    assert text == single("exact", "abc", max_new_tokens=9)[0]


def test_metrics_count(server) -> None:
    before = server.complete(prompt="abc", max_tokens=3)["usage"]["completion_tokens"]
    assert before >= 1
    status, _, text = server.ask("GET", "/metrics")
    assert status == 200
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(lines['causalrn_generated_tokens_total{model="linear"}']) >= before
    assert float(lines['causalrn_running_sequences{model="linear"}']) == 0
    assert float(lines['causalrn_http_requests_total{method="POST",route="/v1/completions",status="200"}']) >= 1
    assert float(lines['causalrn_first_token_seconds_count{model="linear"}']) >= 1
