"""The first hour of four kinds of users: each step of the README, in its order, run by a shell.

Here with a smaller model that is trained for a moment; `CAUSALRN_AS_WRITTEN=1` changes nothing of what the README says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import causalrn
from tests.builders import ROOT
from tests.test_docs import blocks

pytestmark = pytest.mark.slow
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
AS_WRITTEN = bool(os.environ.get("CAUSALRN_AS_WRITTEN"))
SHORTER = {
    "train --task copy --length 16": "--steps 150 --embedding 32 --hidden 48 --blocks 2 --kernel tiles",
    "verify ": "--samples 50",
    "verify-model ": "--steps 16 --drift-steps 32",
    "bench bundle": "-n 2 -p 4 -r 3 --turn-ms 2",
}
"""What is added to a command that would take its time."""
STRING = "causalrelationxy"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


def section(title: str) -> str:
    """Text of a section of the README."""
    return re.split(r"^## ", TEXT.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def steps(title: str) -> list[str]:
    """Lines of a section that a shell is to run."""
    return [
        line
        for block in blocks(section(title))
        if not block.language
        for line in block.text.splitlines()
        if re.match(r"(causalrn-export|echo|python) ", line)
    ]


def shortened(line: str) -> str:
    """A line with what makes it quick, before the comment behind it and after all else."""
    command, _, _ = line.partition("   #")
    added = next((more for name, more in SHORTER.items() if f"causalrn-export {name}" in command), "")
    return f"{command.rstrip()} {added}".strip()


Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user works: the examples are at hand, as in a clone."""
    folder = tmp_path_factory.mktemp("first-hour")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture(scope="module")
def shell(folder: Path) -> Shell:
    """Run a line; gives what it printed."""

    def run(line: str) -> str:
        command = line if AS_WRITTEN else shortened(line)
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, input="", capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        return result.stdout

    return run


@pytest.fixture(scope="module")
def trained(folder: Path, shell: Shell) -> dict[str, str]:
    """The path of whoever trains here, all of it: what each step printed."""
    return {line: shell(line) for line in steps("You want to train one here")}


@pytest.mark.cases(0)
def test_whoever_trains_here(trained: dict[str, str], folder: Path) -> None:
    train, export, verify, run, bench = trained.values()
    assert "wrote run" in train
    assert "wrote bundle" in export
    assert verify.splitlines()[-2:] == ["wrote report.html", "PASS"]
    assert re.fullmatch("[a-z]+", run.strip())
    if AS_WRITTEN:
        assert run.strip() == STRING
    assert "decode" in bench
    assert (folder / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")


@pytest.mark.cases(0)
def test_whoever_has_only_a_bundle(trained: dict[str, str], shell: Shell) -> None:
    printed = {line: shell(line) for line in steps("You have only a bundle")}
    assert [line for line in printed if line.startswith("echo ")]
    assert printed["causalrn-export verify bundle"].splitlines()[-1] == "PASS"
    (asked,) = [out for line, out in printed.items() if line.startswith("echo ")]
    assert asked == next(out for line, out in trained.items() if "run bundle" in line)


@pytest.mark.cases(0)
def test_whoever_has_a_checkpoint(trained: dict[str, str], folder: Path, shell: Shell) -> None:
    """The bare weights, and the logits that docs/converting.md has recorded in five lines."""
    torch.save(load_file(folder / "run" / "model.safetensors"), folder / "model.pth")
    tokens = np.random.default_rng(0).integers(0, 29, (8, 34))
    with causalrn.open_session(folder / "run", "parallel") as session:
        session.reset(len(tokens))
        np.savez(folder / "logits.npz", tokens=tokens, logits=session.prefill(tokens))
    for name in ("run", "bundle"):
        shutil.move(folder / name, folder / f"{name}-trained")
    printed = {line: shell(line) for line in steps("You trained a model elsewhere")}
    convert, inspect, _, verify, run = printed.values()
    assert "architecture: recorded logits" in convert
    assert "recorded logits" in inspect
    assert "PASS" in verify.splitlines()
    assert run == next(out for line, out in trained.items() if "run bundle" in line), "the same model"


def test_whoever_has_a_model_of_their_own(shell: Shell) -> None:
    (verify, script) = steps("You have a model of your own")
    assert shell(verify).splitlines()[-1] == "PASS"
    assert (ROOT / script.split()[1]).is_file()  # tests/test_examples.py runs it
    if AS_WRITTEN:
        shell(script)


def test_readme_is_short_and_speaks_to_its_readers_in_order() -> None:
    assert len(TEXT.splitlines()) <= 180
    assert max(map(len, TEXT.splitlines())) <= 140
    titles = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    readers = [title for title in titles if title.startswith("You ")]
    assert readers[0] == "You trained a model elsewhere"
    assert len(readers) == 4
    assert all(len(steps(title)) <= 5 for title in readers)
    assert "badge" not in TEXT
    assert all((ROOT / path).is_file() for path in re.findall(r"\]\(([\w/.-]+\.png)\)", TEXT))


def test_lines_are_shortened_before_their_comments() -> None:
    line = "causalrn-export train --task copy --length 16 -o run   # half a minute"
    assert shortened(line).startswith("causalrn-export train --task copy --length 16 -o run --steps")
    assert "#" not in shortened(line)
