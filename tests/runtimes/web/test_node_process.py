"""A Node process whose module loops, stays silent or prints what it likes is ended, with one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from causalrn.errors import BundleError, CausalRNError, RuntimeUnavailableError
from causalrn.runtimes.web import node_process
from causalrn.runtimes.web.node_process import NodeProcess
from tests.web_tools import HAS_WEB

pytestmark = pytest.mark.skipif(not HAS_WEB, reason="the web target: install clang, lld and nodejs")

MODULES = {
    "loops when it is read": ("for (;;) {}", "no answer in"),
    "loops when it is opened": ("export const load = () => { for (;;) {} };", "no answer in"),
    "never answers": ("setInterval(() => 0, 1000); export const load = () => new Promise(() => 0);", "no answer in"),
    "prints a little": (
        "import { writeSync } from 'node:fs'; writeSync(1, 'hi'); setInterval(() => 0, 1000);"
        "export const load = () => new Promise(() => 0);",
        "no answer in",
    ),
    "prints a lot": (
        "import { writeSync } from 'node:fs'; writeSync(1, 'noise '.repeat(1000));"
        "export const load = () => new Promise(() => 0);",
        "writes to standard output",
    ),
    "prints a frame of noise": (
        "import { writeSync } from 'node:fs'; writeSync(1, Uint32Array.of(0x4e524301, 4, 0)); writeSync(1, '{\"a}');"
        "export const load = () => new Promise(() => 0);",
        "writes to standard output",
    ),
    "ends": ("process.exit(3);", "node ended"),
    "throws": ("throw new Error('gone wrong');", "node ended"),
}


def folder_with(tmp_path: Path, module: str) -> Path:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "causalrn.js").write_text(module)
    return tmp_path


@pytest.mark.parametrize(("module", "words"), MODULES.values(), ids=MODULES)
def test_a_module_that_does_not_answer_is_ended(tmp_path, monkeypatch, module, words) -> None:
    monkeypatch.setattr(node_process, "_ANSWER_S", 2.0 if words == "no answer in" else 60.0)
    with pytest.raises(CausalRNError, match=words) as caught:
        NodeProcess(folder_with(tmp_path, module))
    assert isinstance(caught.value, BundleError | RuntimeUnavailableError)
    assert "\n" not in str(caught.value)


def test_a_call_that_does_not_answer_ends_the_process(tmp_path, monkeypatch) -> None:
    """Also one whose request is more than a pipe holds: a process that does not read blocks whoever writes."""
    module = "export const load = async () => ({engine: 'c', position: 0, prefill() { for (;;) {} }});"
    process = NodeProcess(folder_with(tmp_path, module))
    monkeypatch.setattr(node_process, "_ANSWER_S", 1.0)
    monkeypatch.setattr(node_process, "_TOKEN_S", 0.0)
    with pytest.raises(RuntimeUnavailableError, match="no answer in 1 s"):
        process.call("prefill", [np.zeros(3, np.int32)], position=0, rows=0)
    with pytest.raises(RuntimeUnavailableError, match="has been closed"):
        process.call("reset")


def test_a_request_larger_than_a_pipe_goes_through(tmp_path) -> None:
    module = (
        "export const load = async () => ({engine: 'c', position: 0,"
        "prefill: async (tokens) => Float32Array.of(tokens.length)});"
    )
    process = NodeProcess(folder_with(tmp_path, module))
    answer = process.call("prefill", [np.zeros(1 << 20, np.int32)], position=0, rows=0)
    assert np.frombuffer(answer, np.float32).tolist() == [1 << 20]
    process.close()
