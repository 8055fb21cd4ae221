"""How commands behave among other programs: interrupts, pipes, terminals, unreadable files, what they leave behind."""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from causalrn.cli import inspect_command
from causalrn.cli.console import complain, console, run_reporting_errors
from causalrn.cli.terminal import as_shown
from causalrn.cli.text_lines import visible
from tests.builders import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
ESCAPE = "\x1b[2J\x9b1m"


def run_script(script, *words, **options):
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
        **options,
    )


_INTERRUPTED_IMPORT = """
import sys

class Hook:
    def find_spec(self, name, *rest):
        if name == "click":  # inside of text that is executed, as where dataclasses are defined
            exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)")

sys.meta_path.insert(0, Hook())
from causalrn.__main__ import main
main()
"""


def test_interrupt_while_modules_are_imported_is_one_line():
    result = run_script(_INTERRUPTED_IMPORT)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Error: interrupted\n")


_INTERRUPTED_END = """
import atexit, os, signal, sys
sys.argv = ["causalrn-export", "--version"]
from causalrn.__main__ import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
main()
"""


def test_interrupt_after_the_end_changes_nothing():
    result = run_script(_INTERRUPTED_END)
    assert (result.returncode, result.stderr) == (0, "")
    assert "version" in result.stdout


def test_interrupt_that_was_switched_off_stays_so():
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + _INTERRUPTED_END
    assert run_script(script).returncode == 0


def test_interrupted_command_says_so_in_one_line(call, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect_command.command, "callback", interrupted)
    assert call("inspect", ".") == (130, "", "Error: interrupted\n")


@pytest.mark.parametrize("words", [["--help"], ["run", "BUNDLE", "--prompt", "abc"]], ids=" ".join)
def test_reader_that_goes_away_ends_a_command_quietly(exact_bundle, words):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "causalrn", *(str(exact_bundle) if word == "BUNDLE" else word for word in words)]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT)
    os.close(write)
    assert result.returncode == 141, "as shells show what SIGPIPE ends"
    assert "Error" not in result.stderr
    assert "Traceback" not in result.stderr


def test_control_characters_are_spelled_out():
    assert visible(f"a{ESCAPE}\r\tb\n\x7f") == "a\\x1b[2J\\x9b1m\\x0d\tb\n\\x7f"
    assert visible("né€😀 يوم") == "né€😀 يوم"


def test_text_of_a_model_is_raw_in_files_only(monkeypatch):
    stream = io.StringIO()
    assert as_shown(ESCAPE, stream) == ESCAPE
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert as_shown(ESCAPE, stream) == "\\x1b[2J\\x9b1m"


def test_tables_and_errors_print_no_control_characters(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table(title=f"t{ESCAPE}")
    table.add_column(f"c{ESCAPE}")
    table.add_row(f"r{ESCAPE}")
    table.add_row(Text(f"x{ESCAPE}", "red"))
    for printed in (table, Panel(f"p{ESCAPE}"), f"s{ESCAPE}", Text(f"y{ESCAPE}")):
        console().print(printed)
    complain(f"e{ESCAPE}")
    out, err = capsys.readouterr()
    assert "\x1b[2J" not in out + err
    assert "\x9b" not in out + err
    assert out.count("\\x1b[2J\\x9b1m") == 7
    assert "\x1b[31m" in out, "colors of our own stay"
    lines = [line for line in out.splitlines() if "\\x1b" in line and line[0] == "│"]
    assert len({len(line.replace("\x1b[31m", "").replace("\x1b[0m", "")) for line in lines[:2]}) == 1, (
        "widths are right"
    )


def leaves(value, place=()):
    """Places of all strings and keys in JSON data."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(key, str):
            yield (*place, key), True
        yield from leaves(item, (*place, key))
    if isinstance(value, str):
        yield place, False


def with_escape(data, place, is_key):
    changed = copy.deepcopy(data)
    *parents, last = place
    inner = changed
    for key in parents:
        inner = inner[key]
    if is_key:
        inner[last + ESCAPE] = inner.pop(last)
    else:
        inner[last] += ESCAPE
    return changed


@pytest.mark.parametrize("kind", ["bundle", "run"])
def test_nothing_in_a_folder_reaches_the_terminal_raw(call, exact_bundle, runs, tmp_path, kind):
    folder = tmp_path / "folder"
    shutil.copytree(exact_bundle if kind == "bundle" else runs["exact"], folder)
    path = folder / ("manifest.json" if kind == "bundle" else "config.json")
    data = json.loads(path.read_text())
    places = list(leaves(data))
    assert len(places) > 20
    for place, is_key in places:
        path.write_text(json.dumps(with_escape(data, place, is_key)))
        _, out, err = call("inspect", folder)
        assert "\x1b" not in out + err, place
        assert "\x9b" not in out + err, place


def test_names_in_weights_and_paths_reach_the_terminal_spelled_out(call, tmp_path):
    weights = tmp_path / f"w{ESCAPE}.pth"
    torch.save({f"blocks.0{ESCAPE}": torch.ones(2, 2)}, weights)
    for words in (["convert", weights, "-o", tmp_path / "run", "--readout", "exact"], ["inspect", tmp_path / ESCAPE]):
        code, out, err = call(*words)
        assert code == 2
        assert "\\x1b[2J" in err
        assert "\x1b" not in out + err
    assert "\x1b" not in call(f"ins{ESCAPE}")[2]


@pytest.mark.parametrize(
    ("is_there", "is_readable", "words"),
    [
        (True, False, "make it readable for you"),
        (True, True, "choose a place that you may write to"),
        (False, False, "choose a place that you may write to"),
        (None, False, "you may not enter its folder"),
    ],
)
def test_file_that_may_not_be_read_is_told_from_one_that_may_not_be_written(
    tmp_path, monkeypatch, capsys, is_there, is_readable, words
):
    path = tmp_path / "file"
    if is_there:
        path.touch()

    def refuse(name):
        raise PermissionError(13, "Permission denied", name)

    if is_there is None:
        monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(os, "access", lambda name, mode: is_readable)  # tests may run as root
    assert run_reporting_errors(lambda: refuse(str(path))) == 2
    assert capsys.readouterr().err.startswith(f"Error: {path}: permission denied: {words}")


_CACHE = """
import os, sys
from pathlib import Path
import causalrn.cli

def group(**options):
    folder = Path(sys.argv[1])
    folder.mkdir()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # as torch does when it is imported
    if sys.argv[2] == "used":
        (folder / "kernel").touch()

os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
causalrn.cli.group = group
causalrn.cli.main()
"""


@pytest.mark.parametrize("use", ["unused", "used"])
def test_empty_folder_that_torch_made_is_not_left(tmp_path, use):
    folder = tmp_path / "torchinductor_user"
    assert run_script(_CACHE, folder, use).returncode == 0
    assert folder.exists() == (use == "used")


_NOTE = """
import sys, warnings
import causalrn.cli
from causalrn.errors import FallbackWarning

def group(**options):
    warnings.warn("kept elsewhere\\x1b[2J", FallbackWarning)
    warnings.warn("something else")

causalrn.cli.group = group
causalrn.cli.main()
"""


def test_fallbacks_are_said_in_one_line():
    lines = run_script(_NOTE).stderr.splitlines()
    assert lines[0] == "Note: kept elsewhere\\x1b[2J"
    assert "UserWarning: something else" in lines[1]
