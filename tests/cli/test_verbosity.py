"""What a user meets first: suggestions, how much is said, how wide, and what a wrong folder is told to be."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causalrn.cli import COMMANDS, group, prompt_input
from causalrn.cli.console import console
from causalrn.cli.text_lines import breaks
from tests.builders import ROOT

Call = Callable[..., tuple[int, str, str]]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("exprot", "did you mean export?"),
        ("verify_model", "did you mean verify-model or verify?"),
        ("zzz", "causalrn-export --help lists them"),
    ],
)
def test_unknown_command_suggests_what_is_near(call: Call, word: str, answer: str) -> None:
    code, out, error = call(word)
    assert (code, out) == (2, "")
    assert error.splitlines()[-1] == f"Error: there is no command {word}: {answer}"


def test_folder_in_place_of_a_command_is_told_so(call: Call, tmp_path: Path) -> None:
    code, _, error = call(tmp_path)
    assert code == 2
    assert f"but a file or folder: name a command before it, as inspect {tmp_path}" in error


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["verify", "RUN"], "a RUN, not a bundle: `export` makes a bundle of it; `run`, `bench` and `inspect` take it"),
        (["export", "BUNDLE", "-o", "new"], "a bundle, not a RUN: `verify`, `quantize`, `run`, `bench` and `inspect`"),
        (["verify", "BUNDLE", "--checkpoint", "BUNDLE"], "a bundle, not a RUN"),
        (["run", "PARENT", "--prompt", "a"], "not a RUN or bundle: name PARENT/mine in it"),
        (["verify", "PARENT"], "not a bundle: it holds a RUN, PARENT/mine; name a bundle, which `export` writes"),
        (["export", "WEIGHTS", "-o", "new"], "it holds weights, model.pth: `convert` makes a RUN of them"),
        (["export", "WEIGHTS/model.pth", "-o", "new"], "a file of weights, not a RUN: `convert` makes a RUN of it"),
        (["verify", "REST"], "its manifest.json is missing: copy the bundle again, or `export` it again"),
        (["inspect", "EMPTY"], "it is empty; name a RUN (`train`, `convert`) or a bundle (`export`)"),
        (["bench", "NOWHERE"], "no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_folder_is_told_what_it_is_and_who_takes_it(
    call: Call, exact_bundle: Path, runs: dict[str, Path], tmp_path: Path, words: list[str], answer: str
) -> None:
    for name in ("EMPTY", "PARENT", "WEIGHTS", "REST"):
        (tmp_path / name).mkdir()
    (tmp_path / "PARENT" / "mine").symlink_to(runs["exact"])
    (tmp_path / "WEIGHTS" / "model.pth").write_bytes(b"weights")
    for name in ("golden.safetensors", "weights.bin"):
        shutil.copy(exact_bundle / name, tmp_path / "REST")
    known = {"RUN": str(runs["exact"]), "BUNDLE": str(exact_bundle), "new": str(tmp_path / "new")}
    names = ("EMPTY", "PARENT", "WEIGHTS", "REST", "NOWHERE")
    placed = [str(tmp_path / word) if word.startswith(names) else known.get(word, word) for word in words]
    code, _, error = call(*placed)
    assert code == 2
    assert answer.replace("PARENT", str(tmp_path / "PARENT")) in error
    assert not (tmp_path / "new").exists()


# --- how much is said -------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_but_what_was_asked_for(call: Call, exact_bundle: Path, damaged: Path) -> None:
    assert call("verify", exact_bundle, "--level", "logits", "-q") == (0, "", "")
    assert call("-q", "verify", damaged, "--level", "logits") == (1, "", "")
    code, out, error = call("run", exact_bundle, "--prompt", "abc", "--quiet")
    assert (code, error) == (0, "")
    assert out.strip()
    code, out, error = call("run", exact_bundle, "--prompt", "ABC", "-q")
    assert (code, out) == (2, "")
    assert error.startswith("Error: ")


def test_verbose_says_versions_times_and_where_an_error_arose(call: Call, exact_bundle: Path, tmp_path: Path) -> None:
    code, out, error = call("verify", exact_bundle, "--level", "logits", "-v")
    assert code == 0
    assert error.startswith("causalrn ")
    assert any(line.startswith("steps, onnxruntime: ") and line.endswith(" s") for line in error.splitlines())
    assert out == call("verify", exact_bundle, "--level", "logits")[1]
    code, _, error = call("inspect", tmp_path, "-v")
    assert code == 2
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in call("inspect", tmp_path)[2]


def test_quiet_and_verbose_contradict_each_other(call: Call, exact_bundle: Path) -> None:
    code, _, error = call("-q", "inspect", exact_bundle, "-v")
    assert code == 2
    assert "--quiet and --verbose contradict each other" in error


def test_version_has_a_short_option(call: Call) -> None:
    assert call("-V") == call("--version")
    assert call("-V")[0] == 0


def test_verify_names_every_file_that_it_wrote(call: Call, exact_bundle: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("json", "html", "save-outputs", "certificate")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    code, out, _ = call("verify", exact_bundle, "--level", "logits", *options)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("wrote ")] == [
        f"wrote {path}" for path in files.values()
    ]


# --- how wide ---------------------------------------------------------------------------------------------------------


def in_terminal(columns: int, *words: object) -> str:
    """What a command shows in a terminal that is so wide, output and errors."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "causalrn", *map(str, words)]
    environment = {**ENVIRONMENT, "TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so where the last one who writes has gone
            break
        if not part:
            break
        parts.append(part)
    process.wait()
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80])
def test_errors_break_between_words_in_a_terminal(call: Call, tmp_path: Path, columns: int) -> None:
    expected = call("inspect", tmp_path)[2]
    assert expected.count("\n") == 1, "one line where it is no terminal"
    shown = in_terminal(columns, "inspect", tmp_path)
    assert shown.split() == expected.split(), "every word is whole"
    assert all(len(line) <= columns or " " not in line for line in shown.splitlines())


def test_reports_break_between_words_in_a_terminal(call: Call, exact_bundle: Path) -> None:
    expected = call("verify", exact_bundle, "--level", "logits")[1]
    shown = in_terminal(80, "verify", exact_bundle, "--level", "logits")
    assert shown.split() == expected.split()
    assert max(map(len, expected.splitlines())) > 80
    assert all(len(line) <= 80 or " " not in line.strip() for line in shown.splitlines())


@given(st.text(alphabet="ab  \n", max_size=200), st.integers(1, 100))
def test_lines_break_between_words_at_any_width(text: str, width: int) -> None:
    places = [0, *breaks(text, width), len(text)]
    lines = [line.rstrip() for start, end in itertools.pairwise(places) for line in text[start:end].split("\n")]
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_sentences_stay_whole_in_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console().print("word " * 40)
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setenv("COLUMNS", "40")  # whoever says how wide it is gets that
    console().print("word " * 40)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns_and_has_no_ranges_of_machines(call: Call, name: str) -> None:
    _, out, _ = call(*filter(None, [name]), "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "<=x" not in out
    assert "RANGE" not in out
    assert all(option in out for option in ("-q, --quiet", "-v, --verbose"))


def test_shells_complete_commands_and_choices() -> None:
    def completed(*words: str) -> list[str]:
        environment = {
            **ENVIRONMENT,
            "_CAUSALRN_EXPORT_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("causalrn-export", *words)),
            "COMP_CWORD": str(len(words)),
        }
        script = "import sys; sys.argv = ['causalrn-export']; from causalrn.__main__ import main; main()"
        command = [sys.executable, "-c", script]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [line.removeprefix("plain,") for line in result.stdout.splitlines()]

    assert completed("ver") == ["verify", "verify-model"]
    assert completed("export", "--target", "exec") == ["executorch"]


def test_every_command_has_examples() -> None:
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert f"causalrn-export {name} " in str(command.epilog) or name == "doctor", name


# --- prompts ----------------------------------------------------------------------------------------------------------

UNTRAINED = "note: a prompt of 3 letters; trained on 19: what comes may be wrong\n"


def test_length_that_was_not_trained_is_said_once_on_standard_error(call: Call, exact_bundle: Path) -> None:
    words = ("run", exact_bundle, "--max-new-tokens", 2)
    _, _, error = call(*words, "--prompt", "abc", "--prompt", "def")
    assert error.startswith(UNTRAINED)
    assert error.count("trained on") == 1
    assert "trained on" not in call(*words, "--prompt", "abcdefghijklmnopqrs")[2]


def test_prompts_come_from_files_and_standard_input(
    call: Call, exact_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("abc\n\ndef\r\n")
    words = ("run", exact_bundle, "--max-new-tokens", 3)
    expected = call(*words, "--prompt", "abc", "--prompt", "def")[1]
    assert len(expected.splitlines()) == 2
    assert call(*words, "--prompt-file", tmp_path / "prompts.txt")[1] == expected
    for option in ("--prompt", "--prompt-file"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\ndef")))
        assert call(*words, option, "-")[1] == expected


def test_more_than_is_read_of_standard_input_is_refused_and_not_cut(
    call: Call, exact_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_input, "_MOST_BYTES", 1 << 20)
    for size in ((1 << 20) + 1, 1 << 22):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a" * size)))
        code, out, error = call("run", exact_bundle, "--prompt", "-")
        assert (code, out) == (2, "")
        assert error == "Error: standard input holds more than 1 MiB: put prompts into several files\n"


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"ab\xffc\n"])
def test_files_without_prompts_are_one_line(call: Call, exact_bundle: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    code, out, error = call("run", exact_bundle, "--prompt-file", path)
    assert (code, out) == (2, "")
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert str(path) in error or "not in the alphabet" in error


def test_prompts_are_answered_as_they_are_typed(
    call: Call, exact_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", exact_bundle, "--max-new-tokens", 3)
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc\nABC\ndef\n\nnever\n"))
    code, out, error = call(*words, "--interactive")
    assert code == 0
    expected = [call(*words, "--prompt", prompt)[1] for prompt in ("abc", "def")]
    assert out == "".join(expected)
    assert "character 'A'" in error, "what is wrong with one prompt does not end it"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "nothing to run: give --prompt, --prompt-file, --interactive"),
        (["-i", "--prompt", "abc"], "--interactive asks for prompts itself"),
        (["-i", "--json", "-"], "--interactive asks for prompts itself"),
        (["--input-ids", "x.npy", "--logits", "y.npy", "--prompt-file", "p"], "starts from a fresh state"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_inputs_that_contradict_each_other_are_refused(
    call: Call, exact_bundle: Path, words: list[str], answer: str
) -> None:
    code, out, error = call("run", exact_bundle, *words)
    assert (code, out) == (2, "")
    assert answer in error
