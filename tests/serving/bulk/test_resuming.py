"""Killed at any byte and any change of a file, a run goes on to the same bytes; what belongs elsewhere is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from causalrn.errors import GenerationInterruptedError, InputError
from causalrn.serving.bulk.part_file import PartFile
from causalrn.workflows.generate_file import generate_file
from tests.serving.bulk.conftest import SETTINGS

KILLS = 20


def in_child(action) -> int:
    """Run something in a fork of this process; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_after(count: int):
    """A stand-in for os.write that writes so many bytes to an output, and then kills its process."""
    left, write = count, os.write

    def written(handle, content):
        nonlocal left
        sent = write(handle, content[:left])
        left -= sent
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return sent

    return written


@pytest.mark.cases(4)
@pytest.mark.parametrize("number", range(KILLS))
def test_run_that_was_killed_goes_on(bundle, prompts, expected, tmp_path, monkeypatch, number) -> None:
    output, count = tmp_path / "out.jsonl", 1 + number * (len(expected) - 1) // (KILLS - 1)
    with monkeypatch.context() as patch:
        patch.setattr("causalrn.serving.bulk.part_file.os.write", dies_after(count))
        assert in_child(lambda: generate_file(bundle, prompts, output, **SETTINGS)) == -signal.SIGKILL
    begun = (tmp_path / "out.jsonl.part").read_bytes()
    assert len(begun) == count
    assert expected.startswith(begun)
    assert not output.exists()
    result = generate_file(bundle, prompts, output, **SETTINGS)
    assert output.read_bytes() == expected
    assert result.resumed_lines == begun.count(b"\n")
    assert (result.lines, result.errors) == (40, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_run_that_was_killed_at_a_change_of_files_goes_on(bundle, prompts, expected, tmp_path) -> None:
    """Python reports what opens, renames and deletes files to audit hooks: a fork is killed before each of them."""
    for number in range(100):
        place = tmp_path / str(number)
        place.mkdir()

        def die(place=place, number=number) -> None:
            left = number

            def hear(event, args) -> None:
                nonlocal left
                if event in ("open", "os.rename", "os.remove", "os.truncate") and str(place) in str(args[:2]):
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hear)
            generate_file(bundle, prompts, place / "out.jsonl", **SETTINGS)

        ended = in_child(die)
        if not (place / "out.jsonl").exists():
            generate_file(bundle, prompts, place / "out.jsonl", **SETTINGS)
        else:  # killed after the last of the work: nothing is left to do but to clear up
            with pytest.raises(InputError, match="is there already"):
                generate_file(bundle, prompts, place / "out.jsonl", **SETTINGS)
        assert (place / "out.jsonl").read_bytes() == expected
        assert [path.name for path in place.iterdir() if path.suffix != ".partial"] == ["out.jsonl"]
        if ended == 0:
            break
    assert 5 < number < 99


@pytest.fixture
def begun(bundle, prompts, expected, tmp_path):
    """An output whose run was stopped after half of its bytes."""
    output = tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("causalrn.serving.bulk.part_file.os.write", dies_after(len(expected) // 2))
        in_child(lambda: generate_file(bundle, prompts, output, **SETTINGS))
    return output


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 6}, "with another `seed`: give what it was begun with, or `restart` begins anew"),
        ({"temperature": 0.0, "stop": "a"}, "another `temperature`, `stop`"),
        ({"threads": 2}, "another `threads`"),
    ],
)
def test_other_settings_are_refused(bundle, prompts, expected, begun, other, words) -> None:
    before = begun.with_name("out.jsonl.part").read_bytes()
    with pytest.raises(InputError, match=words):
        generate_file(bundle, prompts, begun, **{**SETTINGS, **other})
    assert begun.with_name("out.jsonl.part").read_bytes() == before
    generate_file(bundle, prompts, begun, **{**SETTINGS, "max_slots": 2})
    assert begun.read_bytes() == expected


def test_other_input_is_refused_unless_begun_anew(bundle, prompts, begun, tmp_path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(prompts.read_bytes() + b" ")
    with pytest.raises(InputError, match="another `input`"):
        generate_file(bundle, other, begun, **SETTINGS)
    result = generate_file(bundle, other, begun, **SETTINGS, restart=True)
    assert result.resumed_lines == 0
    assert result.lines == 40


def test_part_without_settings_is_refused(bundle, prompts, begun) -> None:
    begun.with_name("out.jsonl.part.json").unlink()
    with pytest.raises(InputError, match=r"lacks out.jsonl.part.json.*`restart`"):
        generate_file(bundle, prompts, begun, **SETTINGS)


@pytest.mark.parametrize("damage", [b"\0" * 300, b'{"index":39}\n', b"nonsense\n"], ids=["zeros", "number", "words"])
def test_garbage_of_a_lost_machine_is_cut_off(bundle, prompts, expected, begun, damage) -> None:
    part = begun.with_name("out.jsonl.part")
    whole = part.read_bytes().rpartition(b"\n")[0] + b"\n"
    part.write_bytes(whole + damage)
    assert generate_file(bundle, prompts, begun, **SETTINGS).resumed_lines == whole.count(b"\n")
    assert begun.read_bytes() == expected


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("in.jsonl")])
def test_something_else_in_the_parts_place_is_left_alone(bundle, prompts, tmp_path, make) -> None:
    make(tmp_path / "out.jsonl.part")
    with pytest.raises(InputError, match=r"out.jsonl.part is no regular file"):
        generate_file(bundle, prompts, tmp_path / "out.jsonl", **SETTINGS)


def test_two_processes_do_not_write_one_output(bundle, prompts, tmp_path) -> None:
    belongs = {"seed": 0}
    with PartFile(tmp_path / "out.jsonl", belongs):
        with pytest.raises(InputError, match="another process writes it"):
            generate_file(bundle, prompts, tmp_path / "out.jsonl", **SETTINGS)
        assert json.loads((tmp_path / "out.jsonl.part.json").read_text()) == belongs


def test_full_disk_keeps_what_is_there(bundle, prompts, expected, tmp_path, monkeypatch) -> None:
    output, write, room = tmp_path / "out.jsonl", os.write, 700

    def fills_up(handle, content):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sent = write(handle, content[:room])
        room -= sent
        return sent

    with monkeypatch.context() as patch:
        patch.setattr("causalrn.serving.bulk.part_file.os.write", fills_up)
        with pytest.raises(OSError, match="No space left") as raised:
            generate_file(bundle, prompts, output, **SETTINGS)
    assert raised.value.filename == str(output)
    assert not output.exists()
    generate_file(bundle, prompts, output, **SETTINGS)
    assert output.read_bytes() == expected


def test_interrupt_keeps_what_is_there_and_says_how_to_go_on(bundle, prompts, expected, tmp_path, monkeypatch) -> None:
    output, append = tmp_path / "out.jsonl", PartFile.append

    def interrupt(part, lines, errors=0) -> None:
        append(part, lines, errors)
        if part.lines > 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "append", interrupt)
        with pytest.raises(GenerationInterruptedError, match=r"keeps \d+ of 40 lines: the same command goes on"):
            generate_file(bundle, prompts, output, **SETTINGS)
    assert generate_file(bundle, prompts, output, **SETTINGS).resumed_lines > 9
    assert output.read_bytes() == expected


def test_input_that_changes_meanwhile_is_found(bundle, prompts, tmp_path, monkeypatch) -> None:
    source, append = tmp_path / "in.jsonl", PartFile.append
    source.write_bytes(prompts.read_bytes())

    def change(part, lines, errors=0) -> None:
        append(part, lines, errors)
        with source.open("ab") as file:
            file.write(b"\n{}")

    monkeypatch.setattr(PartFile, "append", change)
    with pytest.raises(InputError, match=r"has changed while it was read.*`restart`"):
        generate_file(bundle, source, tmp_path / "out.jsonl", **SETTINGS)
    assert not (tmp_path / "out.jsonl").exists()
