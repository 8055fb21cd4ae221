"""What the documents say is so: snippets run, command lines parse, generated pages are fresh, the site builds."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import causalrn
from causalrn.cli import COMMANDS, group
from tests.test_house import modules_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "deploy").glob("*.md"),
    ]
)

# --- blocks of a document ---------------------------------------------------------------------------------------------


GOES_ON = "goes on"


@dataclass(frozen=True)
class Block:
    """A block of code, and what an HTML comment before it says to its test.

    "run OLD as NEW"; "no run: REASON"; or "goes on": the blocks before it run first, in the same process.
    """

    line: int
    language: str
    text: str
    comment: str = ""

    @property
    def runnable(self) -> str:
        """Its text, as it is to be run; empty where it is not."""
        if self.comment.startswith("no run: "):
            return ""
        if self.comment == GOES_ON:
            return self.text
        old, _, new = self.comment.removeprefix("run ").partition(" as ")
        assert not self.comment or old in self.text, f"line {self.line}: {old!r} is not in the block"
        return self.text.replace(old, new) if self.comment else self.text


_COMMENT = re.compile(r"<!-- test: (.*) -->")


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks, and blocks that are indented by four blanks after an empty line (language "")."""
    lines, comment, index = text.splitlines(), "", 0
    while index < len(lines):
        line, start = lines[index], index
        index += 1
        if found := _COMMENT.fullmatch(line.strip()):
            comment = found[1]
        elif line.lstrip().startswith("```"):
            indent = len(line) - len(line.lstrip())
            while lines[index].strip() != "```":
                index += 1
            body = "\n".join(each[indent:] for each in lines[start + 1 : index])
            yield Block(start + 1, line.strip().removeprefix("```"), body, comment)
            comment, index = "", index + 1
        elif line.startswith("    ") and start and not lines[start - 1].strip():
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index].strip()):
                index += 1
            yield Block(start + 1, "", "\n".join(each[4:] for each in lines[start:index]), comment)
            comment = ""
        elif line.strip():
            comment = ""


def test_blocks_are_found() -> None:
    text = (
        "a\n\n    one\n\n    two\n\nb\n<!-- test: run 1 as 2 -->\n\n```python\nx = 1\n```\n"
        "- c\n  ```sh\n  ls\n  ```\n<!-- test: no run: slow -->\n```python\ny\n```\n"
    )
    found = list(blocks(text))
    assert [(block.language, block.text.strip()) for block in found] == [
        ("", "one\n\ntwo"),
        ("python", "x = 1"),
        ("sh", "ls"),
        ("python", "y"),
    ]
    assert [block.runnable.strip() for block in found] == ["one\n\ntwo", "x = 2", "ls", ""]


def python_blocks() -> list[tuple[Path, Block]]:
    found = []
    for path in DOCUMENTS:
        before = ""
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == "python" and block.runnable:
                text = block.runnable if block.comment != GOES_ON else f"{before}\n{block.text}"
                found.append((path, dataclasses.replace(block, text=text, comment="")))
                before = text
    return found


def test_blocks_that_go_on_have_those_before_them() -> None:
    texts = [block.text for path, block in python_blocks() if path.name == "bundle-only.md"]
    assert len(texts) == 3
    assert texts[1].startswith(texts[0])
    assert texts[2].startswith(texts[1])


# --- command lines ----------------------------------------------------------------------------------------------------

_LINE = re.compile(r"(?:\$ )?(?:\.venv/bin/|torchrun .* )?causalrn-export (.*)")
_INLINE = re.compile(r"`(causalrn-export [^`]+)`")


def command_lines(text: str) -> Iterator[str]:
    """Arguments of `causalrn-export` in blocks and in running text, comments behind them removed."""
    for block in blocks(text):
        if block.language in ("", "sh", "text", "console"):
            for line in block.text.splitlines():
                if found := _LINE.match(line):
                    yield re.split(r"\s+#|\s{4,}| \| ", found[1])[0].strip()
    yield from (found.removeprefix("causalrn-export ") for found in _INLINE.findall(text.replace("\n", " ")))


def faults_of(line: str) -> str:
    """What is wrong with a command line; "" where it could run. A line with "..." is no whole one."""
    name, *arguments = shlex.split(line)
    command = group.get_command(click.Context(group), name) if name in COMMANDS else None
    if command is None:
        return "" if name.isupper() or name.startswith("-") or name == "..." else f"no command {name}"
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [part.partition("=")[0] for part in arguments if part.startswith("-") and part != "-"]
    unknown = sorted(set(given) - options - {"-h", "--help"})
    if unknown:
        return f"{name} has no {unknown[0]}"
    whole = not any(part in ("...", "[...]") or part.isupper() or "|" in part for part in arguments)
    if whole and arguments and given:
        try:
            command.make_context(name, list(arguments), parent=click.Context(group, **group.context_settings))
        except click.UsageError as error:
            return "" if isinstance(error, click.MissingParameter) else error.format_message()
    return ""


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if "causalrn-export " in path.read_text()], ids=str)
def test_command_lines_of_documents_parse(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(command_lines(path.read_text(encoding="utf-8")))
    assert lines
    assert {line: fault for line in lines if (fault := faults_of(line))} == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("verify bundle --checkpoint run", ""),
        ("verify bundle --chekpoint run", "verify has no --chekpoint"),
        ("prove bundle", "no command prove"),
        ("export run -o bundle --pool deep", "'deep' is not one of"),
        ("export RUN -o BUNDLE", ""),
        ("bench bundle -d many", "many"),
    ],
)
def test_faults_of_command_lines_are_found(line: str, fault: str) -> None:
    assert fault in faults_of(line)
    assert bool(fault) == bool(faults_of(line))


def unknown_options(text: str) -> list[str]:
    """Options in backticks that no command has; those of other programs are named with their program."""
    commands = [group.get_command(click.Context(group), name) for name in COMMANDS]
    known = {option for command in commands if command for parameter in command.params for option in parameter.opts}
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [
        span
        for span in re.findall(r"`([^`\n]+)`", prose)
        if not re.search(r"\.py |torchrun |gcc |ruff |cmake |pkg-config ", span)
    ]
    given = [option for span in spans for option in re.findall(r"(?<![\w-])(--[a-z][\w-]*)", span)]
    return sorted({*given} - known - {"--help", "--every-case"})  # the last is the tests' own


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_options_that_documents_name_exist(path: Path) -> None:
    assert unknown_options(path.read_text(encoding="utf-8")) == []


def test_unknown_options_are_found() -> None:
    text = (
        "`--drift-steps N`, `--drift-setps`\n\n```sh\nx --no-such\n```\n`benchmarks/x.py --run RUN` and `export --pol`"
    )
    assert unknown_options(text) == ["--drift-setps", "--pol"]


# --- what is run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents call run and bundle: copying 16 letters, trained for a moment."""
    folder = tmp_path_factory.mktemp("workspace")
    run = causalrn.train(
        task="copy", length=16, steps=30, batch=16, embedding=32, hidden=32, blocks=2, output=folder / "run"
    )
    assert run is not None
    causalrn.export(run, output=folder / "bundle")
    return folder


@pytest.mark.cases(4)
@pytest.mark.slow
@pytest.mark.parametrize(("path", "block"), python_blocks(), ids=lambda value: getattr(value, "name", None))
def test_python_blocks_of_documents_run(path: Path, block: Block, workspace: Path, tmp_path: Path) -> None:
    """Each in a process of its own, as a script in a folder that holds a bundle, unless the block makes one."""
    if "causalrn.train(" not in block.text:
        shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    (tmp_path / "script.py").write_text(block.runnable, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:steps take", "script.py"],  # as pyproject.toml has it
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "FAIL" not in result.stdout


QUICK = ("inspect", "run")
"""Commands whose lines in the documents are run; `train`, `verify` and others have tests of their own."""


def quick_lines() -> list[str]:
    lines = [line for path in DOCUMENTS for line in command_lines(path.read_text(encoding="utf-8"))]
    quick = {line for line in lines if line.startswith(tuple(f"{name} bundle" for name in QUICK))}
    return sorted(line for line in quick if not line.endswith(("--interactive", "--prompt -")))  # nobody types here


@pytest.mark.slow
@pytest.mark.parametrize("line", quick_lines())
def test_quick_command_lines_of_documents_run(
    line: str, workspace: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    code, out, error = call(*shlex.split(line))
    assert code == 0, error
    assert out


# --- docstrings -------------------------------------------------------------------------------------------------------

DOCTESTED = [
    "causalrn",
    *modules_of("bundle", "model", "training", "runtimes", "workflows"),
    *(f"causalrn.cli.{name}" for name in ("flags", "number_types", "text_lines")),
]


@pytest.mark.parametrize("name", [name for name in DOCTESTED if "trt_" not in name])
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples_in_docstrings() -> None:
    finder = doctest.DocTestFinder()
    names = [name for name in DOCTESTED if ">>>" in source_of(name)]
    found = [
        example for name in names for test in finder.find(importlib.import_module(name)) for example in test.examples
    ]
    assert len([example for example in found if doctest.SKIP not in example.options]) > 12


def source_of(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


# --- generated pages, and the site ------------------------------------------------------------------------------------


def script_of_docs(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_reference_is_what_help_prints() -> None:
    script = script_of_docs("make_cli_reference")
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert text == script.page(), "renew it: python docs/make_cli_reference.py"
    assert all(f"## causalrn-export {name}\n" in text for name in COMMANDS)
    assert max(len(line) for line in text.splitlines()) <= 120


def test_help_of_the_reference_is_that_of_the_command(call: Callable[..., tuple[int, str, str]]) -> None:
    script = script_of_docs("make_cli_reference")
    _, out, _ = call("serve", "--help")
    assert out.partition(" serve ")[2].split() == script.help_text("serve").partition(" serve ")[2].split()


def test_tour_has_a_row_for_every_command_and_function() -> None:
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "tour.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`([\w-]+)`", " ".join(rows)))
    functions = {name for name in causalrn.__all__ if inspect.isfunction(getattr(causalrn, name))}
    assert {*COMMANDS, *functions} <= named


def test_picture_of_the_architecture_is_fresh() -> None:
    script = script_of_docs("make_architecture_picture")
    text = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert text == script.picture(), "renew it: python docs/make_architecture_picture.py"


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    errors = {name for name in causalrn.__all__ if name.endswith("Error")}  # by automodule
    missing = [name for name in {*causalrn.__all__} - errors - {"__version__"} if not re.search(rf"\b{name}\b", text)]
    assert missing == []
    assert "automodule:: causalrn.errors" in text


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-n", "-q", "docs", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pages = {page.relative_to(tmp_path / "site").as_posix() for page in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "readme.html", "contributing.html", "reference/cli.html", "reference/api.html"} < pages
    manual = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "man", "-d", str(tmp_path / "site" / ".doctrees")]
    subprocess.run([*manual, "docs", str(tmp_path / "man")], cwd=ROOT, check=True)
    shown = (tmp_path / "man" / "causalrn-export.1").read_text(encoding="utf-8").replace("\\-", "-")
    assert all(f"Usage: causalrn-export {name} [OPTIONS]" in shown for name in COMMANDS)
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "deploy").glob("*.md")]:
        link = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert link == "index.html" or f'href="{link}"' in index, f"{page.name} is in no table of contents"


def test_hooks_use_the_tools_of_this_environment() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    values = {key: re.findall(rf"^[ -]*{key}: (.*)$", text, re.MULTILINE) for key in ("repo", "language", "entry")}
    assert set(values["repo"]) == {"local"}
    assert values["language"] == ["system"] * 3
    assert values["entry"] == [".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy"]
