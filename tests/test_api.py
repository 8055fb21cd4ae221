"""The public names: lazy, complete, documented; results stand for paths; bad input is the package's own error."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys

import pytest

import causalrn
from causalrn.cli import COMMANDS, group

FUNCTIONS = (
    "bench",
    "compile",
    "convert",
    "export",
    "generate_file",
    "predict",
    "profile",
    "quantize",
    "reseal",
    "resume_training",
    "train",
    "verify",
)


def workflow(name):
    """A function; `export` is a package that can be called."""
    from causalrn.workflows import export

    return export.export if name == "export" else getattr(causalrn, name.replace("-", "_"))


def test_every_public_name_is_there():
    assert set(causalrn.__all__) <= set(dir(causalrn))
    for name in causalrn.__all__:
        assert getattr(causalrn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        causalrn.nothing  # noqa: B018


def test_importing_loads_neither_numpy_nor_torch():
    code = "import sys, causalrn; print({'numpy', 'torch', 'onnx', 'onnxruntime', 'click'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name):
    function = workflow(name)
    text = inspect.getdoc(function)
    for section in ("Args:", "Raises:"):
        assert section in text
    parameters = inspect.signature(function).parameters
    assert all(parameter in text for parameter in parameters)
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values())


NOT_AN_ARGUMENT = {
    "json", "csv", "html", "certificate", "save_outputs", "plot", "export_layer_info", "resume",
    "quiet", "verbose",
}  # fmt: skip
"""What the command line does with a result, or calls another function for."""


@pytest.mark.parametrize(
    "name", ["compile", "convert", "export", "generate-file", "quantize", "reseal", "train", "verify"]
)
def test_keyword_arguments_are_the_command_lines_options(name):
    command = group.get_command(None, name)
    flags = {
        max(p.opts, key=len).lstrip("-").replace("-", "_") for p in command.params if p.param_type_name == "option"
    }
    parameters = set(inspect.signature(workflow(name)).parameters)
    assert flags - NOT_AN_ARGUMENT <= parameters
    own = {"progress", "on_report", "on_result", "layer_details"}
    assert parameters - own - {p.name for p in command.params if p.param_type_name == "argument"} <= flags


def test_every_command_is_listed():
    assert set(COMMANDS) >= {"train", "convert", "export", "quantize", "compile", "verify", "bench"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: causalrn.verify(3),
        lambda: causalrn.verify("nowhere"),
        lambda: causalrn.verify("nowhere", level="depth"),
        lambda: causalrn.verify("nowhere", samples=1.5),
        lambda: causalrn.verify("nowhere", time_budget="long"),
        lambda: causalrn.open_session(None),
        lambda: causalrn.open_session("nowhere"),
        lambda: causalrn.open_session("nowhere", runtime="abacus"),
        lambda: causalrn.open_session("nowhere", threads="many"),
        lambda: causalrn.export("nowhere", output="x"),
        lambda: causalrn.quantize("nowhere", output="x"),
        lambda: causalrn.quantize("nowhere", output="x", scheme="w3"),
        lambda: causalrn.quantize("nowhere", output="x", scheme="w8", keep_blocks_fp32="some"),
        lambda: causalrn.compile("nowhere", output="x", profile=[(1, 2)]),  # type: ignore[list-item]
        lambda: causalrn.compile("nowhere", output="x", capacity="9"),
        lambda: causalrn.convert("nowhere", output="x"),
        lambda: causalrn.convert(b"weights", output="x"),
        lambda: causalrn.train(output="x", task="sort"),
        lambda: causalrn.train(output=7),
        lambda: causalrn.train(output="x", steps=0),
        lambda: causalrn.train(output="x", device=3),
        lambda: causalrn.resume_training("nowhere"),
        lambda: causalrn.bench("nowhere", repeats="often"),
        lambda: causalrn.predict(None),
        lambda: causalrn.profile(3),
        lambda: causalrn.reseal("nowhere", checkpoint="nowhere"),
        lambda: causalrn.reseal(3, checkpoint="nowhere"),
        lambda: causalrn.export("nowhere", output="x", index_type="int16"),
        lambda: causalrn.export("nowhere", output="x", present="yes"),
    ],
)
def test_bad_input_is_the_packages_own_error(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(causalrn.CausalRNError):
        call()
    assert list(tmp_path.iterdir()) == []


def test_closed_session_raises_one_clear_error(exact_bundle, runs, tmp_path):
    for path, runtime in ((exact_bundle, None), (runs["exact"], "parallel"), (runs["exact"], "recurrent")):
        with causalrn.open_session(path, runtime) as session:
            state = session.snapshot()
        for call in (
            lambda: session.step([3]),
            lambda: session.prefill([[0, 3]]),
            session.reset,
            session.snapshot,
            functools.partial(session.restore, state),
            lambda: session.generate("abc"),
            lambda: session.save(tmp_path / "state"),
            lambda: session.load(tmp_path / "state"),
        ):
            with pytest.raises(causalrn.RuntimeUnavailableError, match="has been closed: open it again"):
                call()
        session.close()


def test_session_generates_text_and_keeps_its_state_in_a_file(exact_bundle, tmp_path):
    with causalrn.open_session(str(exact_bundle)) as session:
        first = [(step.tokens.tolist(), step.text) for step in session.generate("abc", max_new_tokens=3)]
        session.save(tmp_path / "state.safetensors")
        rest = [step.text for step in session.generate(None, max_new_tokens=3)]
        session.load(str(tmp_path / "state.safetensors"))
        assert [step.text for step in session.generate(None, max_new_tokens=3)] == rest
        alphabet = session.card.alphabet
        assert all(text == alphabet.decode(tokens) for tokens, text in first)
        with pytest.raises(causalrn.InputError, match="generation has no setting depth"):
            session.generate("abc", **{"depth": 3})
        with pytest.raises(causalrn.InputError, match="`top_k` is 'two'"):
            session.generate("abc", top_k="two")
