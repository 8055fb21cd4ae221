"""The recipes of CONTRIBUTING.md, followed: what it takes to add something, and that the places they name are there."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

import causalrn
from causalrn.bundle import targets
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.cli import COMMANDS
from causalrn.errors import InputError
from causalrn.model.normalization import normalize
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.parity.results import LEVELS
from examples import room_command
from examples.rounded_weights import round_weights
from examples.toy_target import TOY, ToySession
from tests.builders import random_model

ROOT = Path(__file__).parents[1]


# --- add a runtime ----------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_row() -> Iterator[None]:
    causalrn.register_target(TOY)
    yield
    targets.unregister_target(TOY.name)


@pytest.fixture(params=["exact", "linear"])
def toy_bundle(bundles: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An ONNX bundle whose manifest says "toy": what an exporter of one's own would write."""
    source = Bundle.open(bundles[request.param])
    folder = tmp_path / "toybundle"
    shutil.copytree(source.path, folder)
    seal_bundle(folder, dataclasses.replace(source.manifest, target="toy", streams=()))
    return folder


def readout_of(bundle: Path) -> str:
    return str(Bundle.open(bundle).manifest.model["readout"])


@pytest.mark.cases(0)
@pytest.mark.usefixtures("toy_row")
def test_a_target_of_ones_own_is_verified_at_all_levels_that_it_has(
    toy_bundle: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    for checkpoint in (None, runs[readout_of(toy_bundle)]):
        report = causalrn.verify(toy_bundle, checkpoint=checkpoint, samples=20)
        assert report.passed
        report.save_json(tmp_path / "report.json")
        results = json.loads((tmp_path / "report.json").read_text())["results"]
        checked = {result["level"] for result in results if result["form"].startswith("toyruntime")}
        assert checked == {*LEVELS} - {"layer"}


@pytest.mark.cases(1)
@pytest.mark.usefixtures("toy_row")
def test_verify_finds_a_target_of_ones_own_that_computes_something_else(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ToySession._run

    def off(self, tokens, position, state):
        logits, outputs = right(self, tokens, position, state)
        return logits * np.float32(1.001), outputs

    monkeypatch.setattr(ToySession, "_run", off)
    assert not causalrn.verify(toy_bundle).passed


@pytest.mark.usefixtures("toy_row")
def test_a_target_of_ones_own_takes_part_in_benchmarks(toy_bundle: Path) -> None:
    """Candidates run in processes of their own, which get the row with the candidate."""
    result = causalrn.bench(toy_bundle, depth=[4], decode=4, prefill=[8], repeats=3, turn_ms=5)
    assert {row.workload.kind for row in result.report.measured} == {"decode", "prefill"}
    assert {row.runtime for row in result.report.measured} == {"toyruntime"}
    assert not result.failures


@pytest.mark.usefixtures("toy_row")
def test_a_target_of_ones_own_generates_what_onnxruntime_generates(toy_bundle: Path, bundles: dict[str, Path]) -> None:
    generated = []
    for path in (toy_bundle, bundles[readout_of(toy_bundle)]):
        with causalrn.open_session(path) as session:
            generated.append([step.tokens.tolist() for step in session.generate("abcd", max_new_tokens=12)])
    assert len(generated[0]) > 0
    assert generated[0] == generated[1]


@pytest.mark.usefixtures("toy_row")
def test_commands_take_a_target_of_ones_own(call: Callable[..., tuple[int, str, str]], toy_bundle: Path) -> None:
    code, out, error = call("inspect", toy_bundle)
    assert code == 0, error
    assert "toy" in out
    code, out, error = call("run", toy_bundle, "--prompt", "abcd", "--max-new-tokens", 4)
    assert code == 0, error
    assert "toyruntime: 4 tokens" in out + error
    code, _, error = call("run", toy_bundle, "--prompt", "abcd", "--threads", 2)
    assert code == 2
    assert "--threads 2 is onnxruntime's" in error


@pytest.mark.usefixtures("toy_row")
def test_a_level_that_a_target_does_not_have_is_refused(toy_bundle: Path) -> None:
    with pytest.raises(InputError, match="toyruntime does not show what happens between blocks"):
        causalrn.verify(toy_bundle, level="layer")


def test_bundles_of_unknown_targets_are_refused_by_name(toy_bundle: Path) -> None:
    with pytest.raises(InputError, match="no runtime of this version runs bundles for 'toy'"):
        causalrn.open_session(toy_bundle)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """As if a package had been installed that names this under the group of targets."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [p for p in points if p.group == group])

    def add(name: str, value: str) -> None:
        points.append(EntryPoint(name, value, "causalrn.targets"))
        targets._installed.cache_clear()

    yield add
    targets._installed.cache_clear()


def test_rows_of_installed_packages_are_found(install: Callable[[str, str], None], toy_bundle: Path) -> None:
    install("toy", "examples.toy_target:TOY")
    assert TOY in targets.all_targets()
    with causalrn.open_session(toy_bundle) as session:
        assert isinstance(session, ToySession)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("no_such_package:ROW", "ModuleNotFoundError"), ("examples.toy_target:ToySession", "it is no causalrn.bundle")],
)
def test_a_broken_entry_point_is_reported_and_breaks_nothing_else(
    broken: str, reason: str, install: Callable[[str, str], None], toy_bundle: Path, exact_bundle: Path
) -> None:
    install("bad", broken)
    install("toy", "examples.toy_target:TOY")
    for path in (toy_bundle, exact_bundle):
        with causalrn.open_session(path) as session:
            assert session.position == 0
    (fault,) = targets.installed_faults()
    assert fault.startswith("bad (")
    assert reason in fault
    with pytest.raises(InputError, match=r"cannot be loaded: bad \("):
        targets.find_target("elsewhere", "bundle")


# --- add a quantization scheme ----------------------------------------------------------------------------------------


def test_a_rule_of_ones_own_makes_a_bundle_that_runs(exact_bundle: Path, tmp_path: Path) -> None:
    """The rule alone: what SCHEMES and the budget add is the check of what it loses."""
    source, folder = Bundle.open(exact_bundle), tmp_path / "rounded"
    shutil.copytree(exact_bundle, folder)
    models = load_graphs(source)
    for model in models.values():
        round_weights(model, bits=6)
    save_graphs(models, folder, checked=True)
    sealed = seal_bundle(folder, source.manifest)
    tokens = np.arange(3, 23)[None]
    with causalrn.open_session(source) as before, causalrn.open_session(sealed) as after:
        expected, output = before.prefill(tokens), after.prefill(tokens)
    error = np.abs(output - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.5  # it rounds, and it is still the model


# --- add a command ----------------------------------------------------------------------------------------------------


def test_a_command_of_ones_own_is_found_by_its_name(
    call: Callable[..., tuple[int, str, str]], exact_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "room", "Print what a state takes.")
    monkeypatch.setitem(sys.modules, "causalrn.cli.room_command", room_command)
    assert "room" in call("--help")[1]
    bytes_per_token = Bundle.open(exact_bundle).manifest.state.bytes_per_token
    code, out, _ = call("room", exact_bundle, "--tokens", 10)
    assert code == 0
    assert out == f"{10 * bytes_per_token:,} bytes\n"
    code, _, error = call("room", exact_bundle, "--tokens", 41)
    assert code == 2
    assert error == "Error: --tokens 41 is beyond the capacity of 40: ask for fewer\n"


# --- add a readout ----------------------------------------------------------------------------------------------------

FORGETTING = 0.9


def forgetting_by_definition(a: torch.Tensor, b: torch.Tensor, config: object) -> torch.Tensor:
    """o_i = sum over j <= i of 0.9^(i - j) exp(LN0 a_i + LN0 b_j), as the formula says. [B, T, H] -> [B, T, H]."""
    a, b = normalize(a, "layer"), normalize(b, "layer")
    o = torch.zeros_like(a)
    for i in range(a.shape[1]):
        for j in range(i + 1):
            o[:, i] += FORGETTING ** (i - j) * (a[:, i] + b[:, j]).exp()
    return o


def forgetting(a: torch.Tensor, b: torch.Tensor, config: object) -> torch.Tensor:
    """The same in fast form: exp(LN0 a_i) times a sum that a matrix product with the powers gives."""
    a, b = normalize(a, "layer"), normalize(b, "layer")
    age = torch.arange(a.shape[1])[:, None] - torch.arange(a.shape[1])  # [T, T]
    powers = torch.where(age >= 0, a.new_tensor(FORGETTING) ** age.clamp(min=0), 0.0)
    return a.exp() * (powers @ b.exp())


@pytest.mark.parametrize("time", [1, 2, 17, 40])
def test_a_readout_of_ones_own_equals_its_definition_in_the_whole_model(time: int) -> None:
    model: SequenceModel = random_model(0, readout="linear").double()
    tokens = torch.arange(time)[None] % 29
    definition, fast = (model(tokens, mixer) for mixer in (forgetting_by_definition, forgetting))
    assert torch.allclose(fast, definition, rtol=1e-9, atol=1e-9)
    if time > 2:  # it is another model than the linear readout's
        assert not torch.allclose(fast, model(tokens), rtol=1e-3)


# --- places that the recipes name -------------------------------------------------------------------------------------

_PLACE = re.compile(r"`([\w.]+)` in\s+\[`([\w/.]+)`\]\(([\w/.]+)\)")
_PATH = re.compile(r"`((?:causalrn|calibration|docs|examples|export|runtimes|tests)/[\w./]*)`")


def missing_places(text: str) -> list[str]:
    """Paths that are not there, and places "`name` in [`path`](path)" whose file does not define the name."""
    missing = [path for path in _PATH.findall(text) if "NAME" not in path and not (ROOT / path).exists()]
    for name, shown, path in _PLACE.findall(text):
        file = ROOT / path
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        defined = re.search(rf"^\s*(?:def |class )?{re.escape(name)}\b", source, re.MULTILINE)
        if shown != path or defined is None:
            missing.append(f"{name} in {path}")
    return missing


def test_places_that_the_recipes_name_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(_PLACE.findall(text)) > 25
    assert len(_PATH.findall(text)) > 40
    assert missing_places(text) == []


def test_missing_places_are_found() -> None:
    path = "causalrn/bundle/targets.py"
    good = f"`Target` in [`{path}`]({path}), `_ROWS` in\n[`{path}`]({path})"
    assert missing_places(good) == []
    assert missing_places(f"`Nothing` in [`{path}`]({path})") == [f"Nothing in {path}"]
    assert missing_places("`tests/` and `tests/nothing.py`") == ["tests/nothing.py"]
