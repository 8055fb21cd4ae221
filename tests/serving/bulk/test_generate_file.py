"""Generation over a file: one line out for each line in, each as if it ran alone, whatever the others are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from causalrn.errors import InputError
from causalrn.runtimes import open_session
from causalrn.serving.bulk import input_file, lines
from causalrn.workflows.generate_file import generate_file
from tests.serving.bulk.conftest import SETTINGS


@pytest.fixture
def run(bundle, tmp_path):
    """Run lines, given as bytes: the answers, and the result."""

    def run_lines(content, **settings):
        (tmp_path / "in.jsonl").write_bytes(content)
        result = generate_file(bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl", overwrite=True, **settings)
        answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
        assert len(answers) == result.lines
        assert [answer["index"] for answer in answers] == list(range(result.lines))
        assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}
        return answers, result

    return run_lines


def test_lines_equal_lone_runs(bundle, prompts, expected) -> None:
    asked = [json.loads(line) for line in prompts.read_text().splitlines()]
    answers = [json.loads(line) for line in expected.splitlines()]
    assert len(asked) == len(answers) == 40
    with open_session(bundle) as session:
        for index, (line, answer) in enumerate(zip(asked, answers, strict=True)):
            assert answer["index"] == index
            assert answer.get("id") == line.get("id")
            if line["prompt"] == "A":
                assert "'A'" in answer["error"]
                assert "tokens" not in answer
                continue
            row = 0 if "seed" in line else index
            session.reset(row + 1)
            steps = list(
                session.generate(
                    [line["prompt"]] * (row + 1),
                    max_new_tokens=line["max_tokens"],
                    temperature=SETTINGS["temperature"],
                    seed=line.get("seed", SETTINGS["seed"]),
                )
            )
            assert answer["tokens"] == [int(step.tokens[row]) for step in steps if step.active[row]]
            assert answer["text"] == "".join(step.texts[row] for step in steps)


def test_slots_and_memory_change_nothing(bundle, prompts, expected, tmp_path) -> None:
    settings = {**SETTINGS, "max_slots": 1, "state_memory": 1, "cache_memory": 0}
    generate_file(bundle, prompts, tmp_path / "out.jsonl", **settings)
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_equal_lines_draw_each_for_itself(run) -> None:
    line = {"prompt": "abc", "temperature": 2.0, "max_tokens": 12}
    same = "\n".join([json.dumps(line)] * 2 + [json.dumps({**line, "seed": 3})] * 2).encode()
    first, second, third, fourth = (answer["tokens"] for answer in run(same)[0])
    assert first != second
    assert third == fourth


BAD_LINES = {
    b"": "the line is empty",
    b"nonsense": "not valid JSON",
    b"[1]": "expected object, got array",
    b'{"prompt": "abc"': "not valid JSON",
    b'{"prompt": "\xff"}': "no UTF-8 (byte 13)",
    b'{"prompt": "\\ud800"}': "not valid JSON",
    b'{"promt": "abc"}': "unknown field promt",
    b'{"id": 3}': "give `prompt` or `tokens`",
    b'{"prompt": "abc", "tokens": [3]}': "and not both",
    b'{"tokens": []}': "`tokens` is empty",
    b'{"tokens": [29]}': "outside the vocabulary",
    b'{"tokens": [3.5]}': "expected int, got float",
    b'{"tokens": [99999999999999999999]}': "expected int <= 9223372036854775807",
    b'{"prompt": "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst"}': "exceed the capacity of 40",
    b'{"prompt": "a", "max_tokens": 0}': "must be at least 1",
    b'{"prompt": "a", "temperature": -1}': "temperature is -1.0",
    b'{"prompt": "a", "temperature": NaN}': "not valid JSON",
    b'{"prompt": "a", "top_p": 0}': "top-p is 0",
    b'{"prompt": "a", "seed": -1}': "seed is -1",
    b'{"prompt": "a", "stop": ""}': "a stop text is empty",
    b'{"prompt": "a", "stop": [1]}': "expected str, got int",
    b'{"id": ' + b"[" * 100_000: "nested too deeply",
}


def test_bad_lines_stop_nothing(run) -> None:
    good = b'{"id": 7, "prompt": "abc", "max_tokens": 2}'
    content = b"".join(line + b"\n" + good + b"\r\n" for line in BAD_LINES)
    answers, result = run(content)
    assert result.errors == len(BAD_LINES)
    for words, bad, fine in zip(BAD_LINES.values(), answers[::2], answers[1::2], strict=True):
        assert words in bad["error"]
        assert "tokens" not in bad
        assert "\n" not in bad["error"]
        assert fine["id"] == 7
        assert len(fine["tokens"]) == 2
        assert "error" not in fine
    assert answers[2 * list(BAD_LINES).index(b'{"id": 3}')]["id"] == 3


def test_file_without_lines(run) -> None:
    assert run(b"")[0] == []
    assert run(b"\xef\xbb\xbf" + b'{"tokens": [3], "max_tokens": 1}')[0][0]["tokens"]


def test_huge_lines_are_errors_and_take_no_memory(run, monkeypatch) -> None:
    monkeypatch.setattr(input_file, "MOST_LINE_BYTES", 100)
    monkeypatch.setattr(input_file, "_PART_BYTES", 16)
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 100)
    good = b'{"tokens": [3], "max_tokens": 1}'
    longest = good + b" " * (99 - len(good))
    content = b"\n".join([b"x" * 1000, longest, longest + b"  ", good, b"[" * 500])
    answers, _ = run(content)
    assert [answer.get("error", "")[:11] for answer in answers] == ["the line is", "", "the line is", "", "the line is"]


def test_stops_end_a_line_and_are_no_text(run) -> None:
    whole = run(b'{"prompt": "abcdefgh"}')[0][0]
    stop = whole["text"][2:4]
    content = json.dumps({"prompt": "abcdefgh", "stop": ["zzzz", stop]}).encode()
    stopped = run(content)[0][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole["text"].split(stop)[0]
    assert run(b'{"prompt": "abcdefgh"}', stop=stop)[0][0] == {**stopped, "index": 0}


def test_id_comes_back_as_it_is(run) -> None:
    ids = ['"a\\u00e9"', "1.50", "[1, {}]", "null", "12345678901234567890123"]
    content = "\r\n".join(f'{{"id":\t{each}, "tokens": [3], "max_tokens": 1}}' for each in ids).encode()
    answers, _ = run(content)
    assert [answer["id"] for answer in answers] == [json.loads(each) for each in ids]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_slots": 0}, "`max_slots` is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"stop": ["Ä"]}, "not in the alphabet"),
        ({"stop": [3]}, "`stop` is 3"),
        ({"runtime": "onnxruntime"}, "`runtime` onnxruntime does not run"),
        ({"provider": "cuda"}, "`provider` cuda is onnxruntime's"),
        ({"output": "in.jsonl"}, "is the input itself"),
        ({"output": "/dev/null"}, "cannot be replaced by a whole file"),
        ({"input": "nothing.jsonl"}, "no such file"),
        ({"input": "."}, "a folder, not a file"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(bundle, tmp_path, monkeypatch, settings, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "a"}')
    with pytest.raises(InputError, match=words.replace("`", "`")):
        generate_file(bundle, **{"input": "in.jsonl", "output": "out.jsonl", **settings})
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_output_that_is_there_is_kept(bundle, prompts, tmp_path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(InputError, match="is there already: name another file, or `overwrite` it"):
        generate_file(bundle, prompts, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_tokens_of_models_without_alphabet(tmp_path) -> None:
    from tests.builders import random_model
    from tests.c_tools import c_bundle

    bare = c_bundle(random_model(1, readout="linear"), tmp_path)
    (tmp_path / "in.jsonl").write_text('{"tokens": [3, 4], "max_tokens": 2}\n{"prompt": "a"}\n')
    generate_file(bare, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["text"] is None
    assert len(first["tokens"]) == 2
    assert "give `tokens`, not `prompt`" in second["error"]
    assert np.asarray(first["tokens"]).max() < 29
