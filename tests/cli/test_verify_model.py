"""`verify-model` as users call it: what it prints and writes, its exit codes, what it says of bad files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from causalrn.runtimes.parity.results import MODEL_LEVELS
from tests.builders import ROOT

Call = Callable[..., tuple[int, str, str]]
SCHEMA = json.loads((ROOT / "docs" / "verify-report.schema.json").read_text())
FEW = ("--steps", 8, "--drift-steps", 32, "--time-budget", 5)
MODEL = '''
import torch
from torch import nn


class Decaying(nn.Module):
    """Its state is a decaying sum of what was read."""

    vocabulary = 7

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, tokens):
        ages = torch.arange(tokens.shape[1])[:, None] - torch.arange(tokens.shape[1])
        weights = torch.where(ages < 0, 0.0, 0.5**ages.clamp(min=0))
        return self.head(torch.einsum("ts,bse->bte", weights.to(self.head.weight.dtype), self.embedding(tokens)))

    def step(self, tokens, state):
        state = 0.5 * state + self.embedding(tokens)
        return self.head(state), state

    def initial_state(self, batch):
        return self.head.weight.new_zeros(batch, 4)


class Forgetting(Decaying):
    def step(self, tokens, state):
        return super().step(tokens, state[:1] * 0 + state * 0)


def make():
    torch.manual_seed(0)
    return Decaying()


def functions():
    model = make()
    return {"parallel": model, "step": model.step, "initial_state": model.initial_state, "vocabulary": 7}


def without_vocabulary():
    return {name: value for name, value in functions().items() if name != "vocabulary"}


def forgetting():
    torch.manual_seed(0)
    return Forgetting()


def raising():
    raise KeyError("weights\\nare missing")


def leaving():
    raise SystemExit(3)


def nothing():
    return None


def asking(path):
    return make()


def half():
    return make().half()


NUMBER = 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


def test_right_model_passes_with_exit_0(call: Call, file: Path) -> None:
    code, out, err = call("verify-model", f"{file}:make", *FEW)
    assert code == 0, out + err
    assert out.rstrip().endswith("PASS")
    assert "Decaying, 63 parameters, vocabulary 7, unbounded" in out
    assert "1 tensor of constant size, 16 bytes" in out


@pytest.mark.parametrize("function", ["functions", "without_vocabulary"])
def test_functions_are_taken_in_place_of_a_module(call: Call, file: Path, function: str) -> None:
    code, out, err = call("verify-model", f"{file}:{function}", *FEW, "--level", "logits", "--vocabulary", 7)
    assert code == 0, out + err


def test_wrong_step_fails_with_exit_1_and_says_where(call: Call, file: Path) -> None:
    code, out, _ = call("verify-model", f"{file}:forgetting", *FEW, "--level", "logits", "--level", "state")
    assert code == 1
    words = " ".join(out.split())
    assert words.endswith("FAIL")
    assert "step gives other logits than the parallel form, from step 1 on" in words
    assert "00.state is never read" in words


def test_output_fits_80_columns(call: Call, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("verify-model", f"{file}:forgetting", *FEW, "--level", "logits", "--level", "contract")
    lines = [line for line in out.splitlines() if not line.startswith("note: ")]  # which a terminal wraps
    assert max(map(len, lines)) <= 80


def test_levels_that_are_named_are_checked_alone(call: Call, file: Path) -> None:
    code, out, _ = call("verify-model", f"{file}:make", *FEW, "--level", "rows", "--level", "contract", "--json", "-")
    report = json.loads(out[: out.rindex("}") + 1])
    assert code == 0
    assert [result["level"] for result in report["results"]] == ["contract", "rows"]


def test_json_goes_to_standard_output_and_follows_the_schema(call: Call, file: Path) -> None:
    code, out, _ = call("verify-model", f"{file}:forgetting", *FEW, "--level", "logits", "--json", "-")
    report: dict[str, Any] = json.loads(out)
    jsonschema.validate(report, SCHEMA)
    assert code == 1
    assert report["passed"] is False
    assert report["attributions"][0]["cause"] == "step"


def test_reports_are_written_as_files(call: Call, file: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("report.json", "report.html", "outputs.npz")}
    options = (
        "--json",
        places["report.json"],
        "--html",
        places["report.html"],
        "--save-outputs",
        places["outputs.npz"],
    )
    code, out, err = call("verify-model", f"{file}:make", *FEW, "--level", "logits", *options)
    assert code == 0, out + err
    assert json.loads(places["report.json"].read_text())["verdict"] == "PASS"
    assert "Decaying" in places["report.html"].read_text()
    with np.load(places["outputs.npz"]) as outputs:
        assert outputs["recurrent.logits"].shape == (3, 8, 7)


def test_help_names_every_level_and_what_the_function_returns(call: Call) -> None:
    code, out, _ = call("verify-model", "--help")
    words = " ".join(out.split())
    assert code == 0
    assert all(level in words for level in MODEL_LEVELS)
    assert "a module with step, initial_state and vocabulary" in words


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{file}", "names no function in a file"),
        ("{file}:", "names no function in a file"),
        (":make", "names no function in a file"),
        ("{folder}/none.py:make", "none.py is no file"),
        ("{folder}:make", "is no file"),
        ("{file}:maker", "has no function 'maker'"),
        ("{file}:NUMBER", "has no function 'NUMBER'"),
        ("{file}:raising", "raised KeyError"),
        ("{file}:leaving", "raised SystemExit: 3"),
        ("{file}:nothing", "gave None: it must return the model"),
        ("{file}:asking", "missing 1 required positional argument: 'path'"),
        ("{file}:half", "is float16: verify the model in float32"),
        ("{file}:without_vocabulary", "--vocabulary is missing: say how many token ids there are"),
    ],
)
def test_place_that_does_not_fit_is_told_in_one_line(call: Call, file: Path, place: str, words: str) -> None:
    code, out, err = call("verify-model", place.format(file=file, folder=file.parent), *FEW)
    assert code == 2
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.txt", b"def make(): pass", "is no Python file"),
        ("model.py", b"def make(:", "raised SyntaxError"),
        ("model.py", b"import nowhere_to_be_found", "raised ModuleNotFoundError: No module named"),
        ("model.py", b"raise SystemExit('bye')", "raised SystemExit: bye"),
        ("model.py", b"\x00\x01", "raised SyntaxError"),
        ("model.py", b"make = None\n\xff\xfe", "raised SyntaxError"),
        ("model.py", b"", "has no function 'make'"),
    ],
)
def test_file_that_does_not_fit_is_told_in_one_line(
    call: Call, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = call("verify-model", f"{path}:make", *FEW)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--steps", 3),
        ("--batch", 0),
        ("--vocabulary", 1),
        ("--capacity", 3),
        ("--level", "guards"),
        ("--level", "padding"),
        ("--time-budget", "nan"),
    ],
)
def test_option_that_does_not_fit_is_told(call: Call, file: Path, options: tuple[object, ...]) -> None:
    code, out, err = call("verify-model", f"{file}:make", *options)
    assert (code, out) == (2, "")
    assert str(options[0]) in err
    assert "Traceback" not in err


def test_folder_that_is_not_there_is_told_before_anything_runs(call: Call, file: Path) -> None:
    code, out, err = call("verify-model", f"{file}:raising", "--json", "no/such/folder/report.json")
    assert (code, out) == (2, "")
    assert "no/such/folder is no folder" in err


def test_file_imports_what_lies_beside_it(call: Call, file: Path) -> None:
    other = file.parent / "uses_it.py"
    other.write_text("from my_model import make as make\n")
    code, out, err = call("verify-model", f"{other}:make", *FEW, "--level", "contract")
    assert code == 0, out + err


def test_file_is_a_module_while_its_model_runs(call: Call, tmp_path: Path) -> None:
    """Dataclasses look their annotations up in sys.modules, and steps may import what lies beside the file."""
    (tmp_path / "beside_the_file.py").write_text("FACTOR = 0.5\n")
    path = tmp_path / "late.py"
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    settings = "\n\n@dataclass\nclass Settings:\n    known: ClassVar[int] = 1\n    width: int = 4\n"
    late = "        from beside_the_file import FACTOR\n        state = FACTOR * state"
    path.write_text(head + MODEL.replace("        state = 0.5 * state", late) + settings)
    known = set(sys.modules), list(sys.path)
    code, out, err = call("verify-model", f"{path}:make", *FEW, "--level", "logits")
    assert code == 0, out + err
    assert not {name for name in set(sys.modules) - known[0] if name.startswith("_causalrn_verified")}
    assert sys.path == known[1]
    sys.modules.pop("beside_the_file", None)
