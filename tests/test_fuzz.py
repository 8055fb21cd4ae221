"""What strangers may hand over, mutated at random: each parser reads it or refuses it in one line, nothing else.

A few dozen mutations in the ordinary tests; `make fuzz` goes on for FUZZ_SECONDS per parser and prints how far it came.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.array_files import ARCHIVE, read_archive, read_array
from causalrn.bundle.json_values import own_hash
from causalrn.bundle.manifest import Manifest
from causalrn.calibration.table import CalibrationTable
from causalrn.errors import CausalRNError
from causalrn.model.official import read_official
from causalrn.runtimes.opening import open_session
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.training.card import read_card
from causalrn.training.checkpoint_folder import CheckpointFolder
from tests.cli.bad_inputs import TABLE

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
"""Per parser; 0 for the short run."""
_SHORT, _ROUND = 40, 400

Check = Callable[[Any], object]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        inputs: mutations of something that it reads.
        check: reads one of them; CausalRNError is a refusal, what else is raised a fault.
    """

    inputs: st.SearchStrategy[Any]
    check: Check


# --- mutations ------------------------------------------------------------------------------------------------------

_NUMBERS = st.one_of(st.integers(-3, 70), st.sampled_from([2**31, 2**63, -(2**63), 10**9, 10**30]), st.floats())
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=8), st.sampled_from(["exact", "00.sum", "../x"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


def _places(data: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value inside JSON values; of long lists, in the first few."""
    if here:
        yield here
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _places(value, (*here, key))
    elif isinstance(data, list):
        for index, value in enumerate(data[:3]):
            yield from _places(value, (*here, index))


def _edit(data: Any, edits: list[tuple[tuple[Any, ...], Any, bool]]) -> Any:
    """A copy with values replaced, or removed; a place that an earlier edit took away is left alone."""
    copy = json.loads(json.dumps(data))
    for place, value, removes in edits:
        target = copy
        try:
            for key in place[:-1]:
                target = target[key]
            if removes:
                del target[place[-1]]
            else:
                target[place[-1]] = value
        except (LookupError, TypeError):
            continue
    return copy


def edited_json(data: Any) -> st.SearchStrategy[Any]:
    """JSON values with a few of them changed."""
    edit = st.tuples(st.sampled_from(list(_places(data))), _VALUES, st.booleans())
    return st.lists(edit, max_size=3).map(lambda edits: _edit(data, edits))


def edited_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """Content with a few bytes replaced, inserted or removed, and perhaps cut."""
    edit = st.tuples(st.integers(0, len(content)), st.binary(max_size=9), st.integers(0, 9))

    def apply(edits: list[tuple[int, bytes, int]], end: int | None) -> bytes:
        changed = content
        for place, new, removed in edits:
            changed = changed[:place] + new + changed[place + removed :]
        return changed[:end]

    return st.builds(apply, st.lists(edit, max_size=3), st.none() | st.integers(0, len(content)))


def edited_tensors(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with entries of its header changed, or bytes anywhere."""
    size = int.from_bytes(content[:8], "little")
    header, payload = json.loads(content[8 : 8 + size]), content[8 + size :]

    def join(entries: Any, numbers: bytes) -> bytes:
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + numbers

    whole = st.builds(join, edited_json(header), st.just(payload) | edited_bytes(payload))
    return whole | edited_bytes(content)


# --- parsers --------------------------------------------------------------------------------------------------------


def _text(data: Any, own: str | None = None) -> str:
    """JSON text, its own hash in it where it has one, so that what comes after is reached."""
    if own is not None and isinstance(data, dict):
        data = {**data, own: own_hash(data, own)}
    return json.dumps(data)


def _manifest(bundle: Path, folder: Path) -> Target:
    def check(data: Any) -> None:
        read_card(Manifest.parse(_text(data, "manifest_sha256"), folder), "manifest.json")

    return Target(edited_json(json.loads((bundle / "manifest.json").read_text())), check)


def _configuration(run: Path, folder: Path) -> Target:
    (folder / "model.safetensors").write_bytes(b"")
    content = (run / "config.json").read_bytes()

    def check(data: Any) -> None:
        (folder / "config.json").write_bytes(data if isinstance(data, bytes) else _text(data).encode())
        CheckpointFolder.open(folder)

    return Target(edited_json(json.loads(content)) | edited_bytes(content), check)


def _state(bundle: Path, folder: Path) -> Target:
    session = open_session(bundle)
    session.prefill([[0, 3, 4]])
    session.save(folder / "state")

    def check(data: bytes) -> None:
        (folder / "mutated").write_bytes(data)
        session.load(folder / "mutated")
        session.step([3])

    return Target(edited_tensors((folder / "state").read_bytes()), check)


def _table(folder: Path) -> Target:
    def check(data: Any) -> None:
        (folder / "table.json").write_text(_text(data, "calibration_sha256"))
        for method in ("minmax", "percentile", "entropy"):
            CalibrationTable.load(folder / "table.json").limits(method)

    return Target(edited_json(TABLE), check)


def _golden(source: Path, folder: Path) -> Target:
    manifest = Bundle.open(source).manifest
    bundle = Bundle(folder, manifest, "")

    def check(data: bytes) -> None:
        (folder / GOLDEN_NAME).write_bytes(data)
        load_golden(bundle).call_table()

    return Target(edited_tensors((source / GOLDEN_NAME).read_bytes()), check)


def _arrays(folder: Path) -> Target:
    one, several = io.BytesIO(), io.BytesIO()
    np.save(one, np.arange(6).reshape(2, 3))
    np.savez_compressed(several, tokens=np.zeros((1, 3), int), logits=np.ones((1, 3, 29)))

    def check(data: bytes) -> None:
        (folder / "array").write_bytes(data)
        if data.startswith(ARCHIVE):
            read_archive(folder / "array", ("tokens", "logits"), "write it again")
        else:
            read_array(folder / "array", "write it again")

    return Target(edited_bytes(one.getvalue()) | edited_bytes(several.getvalue()), check)


def _weights(run: Path, folder: Path) -> Target:
    def check(data: bytes) -> None:
        (folder / "weights").write_bytes(data)
        read_official(folder / "weights")

    return Target(edited_tensors((run / "model.safetensors").read_bytes()), check)


_COMMANDS = ("run", "inspect", "verify", "quantize", "bench", "convert", "export", "compile", "train --device abacus")
_WORDS = (
    "-o OUT --output --json --prompt --steps --samples --seed --task copy --length --threads --scheme w8 --pool fixed "
    "-d -b 1,2 0,x --profile 1/2 1/2/3 --device --predict --level logits --runtime native --mode step --input-ids "
    "--logits --max-kl --eps --readout exact --heads -- - '' nan inf -1 0 1e9 1e400 99999999999999999999 é / . "
    "NOWHERE BUNDLE --temperature --top-p --top-k --state-in --keep-blocks-fp32 --help -v --version --capacity"
)


def _command_line(call: Callable[..., tuple[int, str, str]], folder: Path) -> Target:
    """Words in any order; nothing is there that could be read, so that nothing is computed."""
    places = {"OUT": str(folder / "out"), "NOWHERE": str(folder / "nowhere"), "BUNDLE": str(folder / "bundle")}
    words = [places.get(word, word) for word in shlex.split(_WORDS)]

    def check(arguments: tuple[str, list[str]]) -> None:
        with contextlib.chdir(folder):  # a word may name a report: `bench` writes one of what it could not measure
            code, _, error = call(*arguments[0].split(), *arguments[1])
        assert code == 2 or (code == 0 and {"--help", "-h", "--version"} & {*arguments[1]}), (code, error)
        assert "Traceback" not in error

    return Target(st.tuples(st.sampled_from(_COMMANDS), st.lists(st.sampled_from(words), max_size=7)), check)


TARGETS = (
    "manifest",
    "checkpoint configuration",
    "state file",
    "calibration table",
    "golden file",
    "command line",
    "arrays",
    "weights",
)


@pytest.fixture
def target(
    request: pytest.FixtureRequest, bundles: dict[str, Path], runs: dict[str, Path], call: Any, tmp_path: Path
) -> Target:
    makers = {
        "manifest": lambda: _manifest(bundles["linear"], tmp_path),
        "checkpoint configuration": lambda: _configuration(runs["linear"], tmp_path),
        "state file": lambda: _state(bundles["exact"], tmp_path),
        "calibration table": lambda: _table(tmp_path),
        "golden file": lambda: _golden(bundles["exact"], tmp_path),
        "command line": lambda: _command_line(call, tmp_path),
        "arrays": lambda: _arrays(tmp_path),
        "weights": lambda: _weights(runs["linear"], tmp_path),
    }
    return makers[request.param]()


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_mutated_input_is_read_or_refused(target: Target, request: pytest.FixtureRequest) -> None:
    counts = {"read": 0, "refused": 0}

    def read(data: Any) -> None:
        refusal = None
        try:
            target.check(data)
        except CausalRNError as error:
            refusal = str(error)
        counts["read" if refusal is None else "refused"] += 1
        assert refusal is None or refusal.strip()

    started = time.monotonic()
    for number in range(10**9):
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
        limits = settings(
            max_examples=_ROUND if SECONDS else _SHORT, deadline=None, database=None, suppress_health_check=checks
        )
        seed(number)(limits(given(target.inputs)(read)))()
        if time.monotonic() - started >= SECONDS:
            break
    assert sum(counts.values()) >= _SHORT
    if SECONDS:
        name = request.node.callspec.params["target"]
        print(f"\n{name}: {counts['read']:,} read, {counts['refused']:,} refused, none else, in {SECONDS:g} s")


def test_a_parser_that_does_anything_else_is_found(tmp_path: Path) -> None:
    """A reader that trusts a header fails within the short run."""

    def trusting(content: bytes) -> None:
        size = int.from_bytes(content[:8], "little")
        json.loads(content[8 : 8 + size])

    def run(data: bytes) -> None:
        trusting(data)

    content = _tensor_file()
    limits = settings(max_examples=_SHORT, deadline=None, database=None, phases=[Phase.generate])
    with pytest.raises((ValueError, ExceptionGroup)):
        seed(0)(limits(given(edited_tensors(content))(run)))()


def _tensor_file() -> bytes:
    import safetensors.torch

    return safetensors.torch.save({"a": torch.zeros(3)})
