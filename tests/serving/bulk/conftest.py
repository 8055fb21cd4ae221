"""A bundle that opens in a moment, and a file of prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.workflows.generate_file import generate_file
from tests.builders import random_model
from tests.c_tools import HAS_C_COMPILER, c_bundle

SETTINGS = {"temperature": 0.7, "seed": 5, "max_slots": 7}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HAS_C_COMPILER:
        pytest.skip("needs a C compiler: install gcc or clang")
    folder = tmp_path_factory.mktemp("bulk")
    return c_bundle(random_model(1, readout="linear"), folder, alphabet=Alphabet("letters")).path


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 lines: most with settings of their own, some that cannot run."""
    rng = random.Random(0)
    lines = []
    for index in range(40):
        line = {"prompt": "".join(rng.choices("abcdefgh", k=rng.randint(1, 18))), "max_tokens": rng.randint(1, 12)}
        if index % 3 == 0:
            line |= {"id": {"name": f"line {index}"}, "seed": index}
        if index % 9 == 4:
            line["prompt"] = "A"
        lines.append(json.dumps(line))
    path = tmp_path_factory.mktemp("prompts") / "in.jsonl"
    path.write_text("\n".join(lines))  # the last line lacks its end
    return path


@pytest.fixture(scope="session")
def expected(bundle: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted run writes."""
    output = tmp_path_factory.mktemp("expected") / "out.jsonl"
    generate_file(bundle, prompts, output, **SETTINGS)
    return output.read_bytes()
