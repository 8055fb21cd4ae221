"""`run --state-out` and `--state-in`, each with another bundle of one checkpoint."""

import re

import pytest

from causalrn.export.c99.c99_exporter import COptions
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.export_targets import export_bundle, export_c_bundle
from tests.builders import random_model
from tests.c_tools import needs_c_compiler

ROUTES = [("onnx", "c"), ("c", "fixed"), ("fixed", "web"), ("web", "recurrent"), ("recurrent", "onnx")]


@pytest.fixture
def places(runs, bundles, fixed_bundle, request):
    """By name: a folder, and what `run` needs to be told beside it."""

    def get(name):
        if name in ("c", "web"):
            return request.getfixturevalue(f"{name}_bundles")["exact"], ()
        if name == "recurrent":
            return runs["exact"], ("--runtime", "recurrent")
        return {"onnx": bundles["exact"], "fixed": fixed_bundle}[name], ()

    return get


@pytest.mark.parametrize(("source", "target"), ROUTES, ids=["-".join(route) for route in ROUTES])
def test_text_goes_on_in_another_bundle(call, places, tmp_path, source, target):
    state = tmp_path / "state.safetensors"
    first, options = places(source)
    code, begun, err = call("run", first, "--prompt", "abc", "--max-new-tokens", 5, "--state-out", state, *options)
    assert code == 0, err
    second, more = places(target)
    code, rest, err = call("run", second, "--state-in", state, "--max-new-tokens", 7, *more)
    assert code == 0, err
    _, whole, _ = call("run", second, "--prompt", "abc", "--max-new-tokens", 12, *more)
    assert begun.rstrip("\n") + rest == whole


def check_refusal(call, folder, state, output, words):
    """One line that names the file, exit code 2, and nothing written."""
    code, out, err = call("run", folder, "--state-in", state, "--max-new-tokens", 3, "--state-out", output)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"Error: {re.escape(str(state))}: .*{words}.*\n", err), err
    assert not output.exists()


def test_state_of_another_checkpoint_is_refused(call, bundles, tmp_path):
    model = random_model(3)
    save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
    other = export_bundle(tmp_path / "run", tmp_path / "other", pool="growing", capacity=None, opset=23)
    state = tmp_path / "state.safetensors"
    code, _, err = call("run", other.path, "--prompt", "0 5 6 1", "--max-new-tokens", 3, "--state-out", state)
    assert code == 0, err
    words = "another bundle, of the checkpoint [0-9a-f]{12}[.]{3}, and this session is of [0-9a-f]{12}[.]{3}"
    check_refusal(call, bundles["exact"], state, tmp_path / "next.safetensors", words)


@pytest.mark.cases(0)
@needs_c_compiler
def test_state_of_another_arithmetic_is_refused(call, runs, bundles, tmp_path):
    native = export_c_bundle(runs["exact"], tmp_path / "c", COptions(pool_dtype="int8"))
    state = tmp_path / "state.safetensors"
    code, _, err = call("run", bundles["exact"], "--prompt", "abc", "--max-new-tokens", 3, "--state-out", state)
    assert code == 0, err
    words = "the arithmetic 'float32', and this session computes in 'float32[+]pool8'"
    check_refusal(call, native.path, state, tmp_path / "next.safetensors", words)


def test_parallel_form_of_the_checkpoint_says_why_it_cannot(call, runs, bundles, tmp_path):
    state = tmp_path / "state.safetensors"
    code, _, err = call("run", bundles["exact"], "--prompt", "abc", "--max-new-tokens", 3, "--state-out", state)
    assert code == 0, err
    words = "the parallel form computes everything anew"
    check_refusal(call, runs["exact"], state, tmp_path / "next.safetensors", words)


def test_prompts_of_different_lengths_are_answered_and_leave_no_state(call, runs, tmp_path):
    code, out, err = call("run", runs["exact"], "--prompt", "ab", "--prompt", "abcd", "--max-new-tokens", 3)
    assert (code, len(out.splitlines())) == (0, 2)
    assert "positions of their own" in err
    singly = [call("run", runs["exact"], "--prompt", prompt, "--max-new-tokens", 3)[1] for prompt in ("ab", "abcd")]
    assert out == "".join(singly)
    words = ("--prompt", "ab", "--prompt", "abcd", "--state-out", tmp_path / "state")
    code, _, err = call("run", runs["exact"], *words)
    assert code == 2
    assert "run them singly" in err
    assert not list(tmp_path.iterdir())
