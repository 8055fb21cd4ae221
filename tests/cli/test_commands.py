"""The commands as users call them: what they write and say, and one line for every mistake."""

import json
import subprocess
import sys

import click
import numpy as np
import pytest
import torch

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.cli import COMMANDS, group
from causalrn.cli.console import run_reporting_errors
from tests.builders import GOLDEN, official_state


def _assert_one_line(result, *words):
    code, _, error = result
    assert code == 2
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_a_summary_and_an_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"causalrn-export {command}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_options_do_and_keeps_words_and_examples_whole(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = group.get_command(click.Context(group), command)
    assert [option.name for option in found.params if isinstance(option, click.Option) and not option.help] == []
    _, out, _ = call(command, "--help")
    assert [line for line in out.splitlines() if len(line) > 80 or line.endswith("-")] == []
    aligned = [line for line in found.epilog.splitlines() if "  " in line]
    assert [line for line in aligned if f"  {line}" not in out.splitlines()] == []


@pytest.mark.parametrize("option", ["length", "batch", "embedding", "hidden", "accumulate", "key"])
def test_huge_numbers_are_bad_usage(call, tmp_path, option):
    code, _, error = call("train", "-o", tmp_path / "run", f"--{option}", 10**30)
    assert code == 2
    assert f"--{option}" in error


def test_help_needs_no_heavy_package():
    script = (
        "import sys; from causalrn.cli import group\n"
        "group(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.slow
def test_main_job_from_training_to_generation(call, tmp_path):
    """The whole path on a small task: three letters, a few hundred steps."""
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    code, out, _ = call("train", "--length", 3, "--steps", 150, "-o", run)
    assert code == 0
    assert "copied" in out
    assert call("export", run, "-o", bundle)[0] == 0
    code, out, _ = call("verify", bundle, "--checkpoint", run, "--samples", 200, "--json", tmp_path / "r.json")
    assert code == 0
    assert out.rstrip().endswith("PASS")
    report = json.loads((tmp_path / "r.json").read_text())
    tasks = {
        row["form"]: row["figures"]["after"]
        for row in (*report["measured"], *report["results"])
        if row["level"] == "task"
    }
    assert list(tasks) == ["parallel", "recurrent, steps", "onnxruntime, steps", "onnxruntime, prefill"]
    assert [row["form"] for row in report["measured"]] == ["parallel"]  # what the others are compared with
    assert len({task["right"] for task in tasks.values()}) == 1
    assert tasks["parallel"]["counted"] == 200
    assert tasks["parallel"]["accuracy"] >= 0.995
    code, out, _ = call("run", bundle, "--prompt", "xyz")
    assert (code, out) == (0, "xyz\n")


@pytest.mark.cases(0)
@pytest.mark.parametrize(("name", "readout"), [("exact", "exact"), ("linear", "linear")])
def test_official_checkpoints_convert_export_and_agree_with_their_logits(call, tmp_path, name, readout):
    golden = np.load(GOLDEN / f"official_{name}_copy8.npz")
    np.save(tmp_path / "ids.npy", golden["tokens"])
    source = GOLDEN / f"official_{name}_copy8.pth"
    code, out, _ = call("convert", source, "-o", tmp_path / "run", "--readout", readout)
    assert code == 0
    assert "architecture: likelihood: " in out
    assert max(map(len, out.splitlines()[2:8])) <= 80
    assert call("export", tmp_path / "run", "-o", tmp_path / "bundle")[0] == 0
    bound = TOLERANCES["float32", "onnxruntime"].logit_bound(np.abs(golden["logits_fp64"]).max())
    for folder, runtime in (("bundle", "onnxruntime"), ("run", "recurrent"), ("run", "parallel")):
        for mode in ("step", "prefill", "mixed"):
            out = tmp_path / f"{runtime}-{mode}.npy"
            arguments = ("--input-ids", tmp_path / "ids.npy", "--logits", out, "--runtime", runtime, "--mode", mode)
            assert call("run", tmp_path / folder, *arguments)[0] == 0
            logits = np.load(out)
            assert logits.dtype == np.float32
            assert np.abs(logits - golden["logits_fp64"]).max() <= bound


def test_conversion_to_the_wrong_readout_is_refused_unless_forced(call, tmp_path):
    arguments = ("convert", GOLDEN / "official_exact_copy8.pth", "-o", tmp_path / "run", "--readout", "linear")
    _assert_one_line(call(*arguments), "with linear+", "exact+exp, heads 1", "leave out --readout", "--force")
    assert not (tmp_path / "run").exists()
    assert call(*arguments, "--force")[0] == 0


@pytest.mark.cases(0)
@pytest.mark.parametrize("name", ["transformer", "linear_transformer"])
def test_baselines_convert_by_their_keys_and_agree_with_the_official_logits(call, tmp_path, name):
    golden = np.load(GOLDEN / f"{name}.npz")
    torch.save(official_state(name), tmp_path / "w.pth")
    np.save(tmp_path / "ids.npy", golden["tokens"])
    _assert_one_line(
        call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--readout", "exact"), "--readout", "transformer"
    )
    _assert_one_line(call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--samples", 5), "name its --heads")
    code, out, _ = call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--samples", 5, "--heads", 1)
    assert code == 0
    assert "the architecture is assumed" in out
    assert call("export", tmp_path / "run", "-o", tmp_path / "bundle")[0] == 0
    certificate = tmp_path / "bundle" / "certificate.json"
    levels = [word for level in ("logits", "state", "split", "layer") for word in ("--level", level)]
    arguments = ("--checkpoint", tmp_path / "run", "--certificate", certificate, *levels)
    code, out, _ = call("verify", tmp_path / "bundle", *arguments)
    assert (code, out.splitlines().count("PASS")) == (0, 1)
    for shown in (out, call("verify", tmp_path / "bundle", *levels)[1], call("inspect", tmp_path / "bundle")[1]):
        assert "note: the architecture is assumed" in shown
    assert json.loads(certificate.read_text())["report"]["known_by"]["how"] == "assumed"
    arguments = ("--input-ids", tmp_path / "ids.npy", "--logits", tmp_path / "out.npy", "--mode", "mixed")
    assert call("run", tmp_path / "bundle", *arguments)[0] == 0
    bound = TOLERANCES["float32", "onnxruntime"].logit_bound(np.abs(golden["logits_fp64"]).max())
    assert np.abs(np.load(tmp_path / "out.npy") - golden["logits_fp64"]).max() <= bound


@pytest.mark.cases(0)
@pytest.mark.slow
def test_text_model_is_verified_on_its_text(call, tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"the quick brown fox. " * 100)
    sizes = ("--length", 12, "--steps", 40, "--batch", 16, "--embedding", 16, "--blocks", 1, "--readout", "linear")
    assert call("train", "--task", "text", "--text", text, *sizes, "-o", tmp_path / "run")[0] == 0
    assert call("export", tmp_path / "run", "-o", tmp_path / "bundle")[0] == 0
    code, out, _ = call("verify", tmp_path / "bundle", "--samples", 20)
    assert code == 0
    assert "name it with --text" in out
    code, out, _ = call(
        "verify", tmp_path / "bundle", "--checkpoint", tmp_path / "run", "--samples", 20, "--text", text
    )
    assert code == 0
    assert "/240" in out
    assert call("run", tmp_path / "bundle", "--prompt", "the qu", "--max-new-tokens", 3)[0] == 0


@pytest.mark.slow
def test_lookup_model_is_asked_with_a_blank(call, tmp_path):
    sizes = ("--length", 4, "--key", 1, "--steps", 3, "--batch", 8, "--embedding", 16, "--blocks", 1)
    assert call("train", "--task", "lookup", *sizes, "-o", tmp_path / "run")[0] == 0
    code, _, error = call("run", tmp_path / "run", "--prompt", "abcd b", "--max-new-tokens", 2)
    assert code == 0
    assert "position 9" in error  # BOS abcd SEP b, and two more


@pytest.mark.parametrize("kind", ["bundle", "run"])
def test_inspect_shows_model_state_and_files(call, exact_bundle, runs, tmp_path, kind):
    folder = exact_bundle if kind == "bundle" else runs["exact"]
    code, out, _ = call("inspect", folder, "--json", tmp_path / "i.json")
    assert code == 0
    assert "[t, B, 32]" in out
    data = json.loads((tmp_path / "i.json").read_text())
    assert data["model"]["hidden"] == 32
    assert data["state"]["bytes"]["16"] == 2 * 16 * 32 * 4


def test_state_files_continue_a_generation(call, exact_bundle, tmp_path):
    state = tmp_path / "s.safetensors"
    _, whole, _ = call("run", exact_bundle, "--prompt", "abc", "--max-new-tokens", 12, "--temperature", 2)
    _, first, _ = call(
        "run", exact_bundle, "--prompt", "abc", "--max-new-tokens", 5, "--temperature", 2, "--state-out", state
    )
    _, rest, _ = call("run", exact_bundle, "--state-in", state, "--max-new-tokens", 7, "--temperature", 2)
    assert first.strip() + rest.strip() == whole.strip()


def test_batch_prints_a_line_per_prompt(call, exact_bundle):
    code, out, _ = call("run", exact_bundle, "--prompt", "abc", "--prompt", "xyz", "--max-new-tokens", 3)
    assert code == 0
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "BUNDLE"], ["nothing to run"]),
        (["run", "BUNDLE", "--prompt", "a" * 60], ["62 more positions", "capacity of 40"]),
        (["run", "BUNDLE", "--prompt", "Hi"], ["'H'", "alphabet"]),
        (["run", "BUNDLE", "--prompt", "a", "--runtime", "abacus"], ["abacus", "onnxruntime"]),
        (["run", "BUNDLE", "--prompt", "a", "--runtime", "parallel"], ["parallel", "bundle"]),
        (["run", "BUNDLE", "--prompt", "a", "--provider", "cuda"], ["cuda", "onnxruntime"]),
        (["run", "BUNDLE", "--prompt", "a", "--top-p", "2"], ["top-p"]),
        (["run", "BUNDLE", "--prompt", "a", "--mode", "step"], ["--input-ids"]),
        (["run", "BUNDLE", "--input-ids", "x.npy"], ["--logits"]),
        (["run", "BUNDLE", "--input-ids", "NOFILE", "--logits", "OUT"], ["no such file"]),
        (["run", "BUNDLE", "--input-ids", "FLOATS", "--logits", "OUT"], ["float64 [2, 3]", "integers [B, T]"]),
        (
            ["run", "BUNDLE", "--input-ids", "TOOBIG", "--logits", "OUT"],
            ["toobig.npy", "token id 99", "vocabulary of 29"],
        ),
        (["run", "BUNDLE", "--input-ids", "TOOLONG", "--logits", "OUT"], ["41 more positions"]),
        (["run", "BUNDLE", "--input-ids", "TEXT", "--logits", "OUT"], ["numpy.save"]),
        (["run", "BUNDLE", "--state-in", "TEXT"], ["corrupt state file"]),
        (["run", "NOFILE", "--prompt", "a"], ["no such folder"]),
        (["run", "BUNDLE", "--prompt", "abc", "--state-out", "BUNDLEFILE"], ["lies in the bundle"]),
        (["run", "BUNDLE", "--prompt", "abc", "--state-out", "NOFILE/x"], ["is no folder"]),
        (["run", "BUNDLE", "--input-ids", "TOOBIG", "--logits", "TOOBIG"], ["token ids itself"]),
        (["run", "BUNDLE", "--prompt", ""], ["prompt is empty"]),
        (["inspect", "BUNDLE", "--json", "BUNDLEFILE"], ["lies in the bundle"]),
        (["convert", "PTH", "-o", "RUN", "--readout", "exact"], ["earlier RUN"]),
        (["demo", "-o", "BUNDLE"], ["holds a RUN or bundle"]),
        (["demo", "-o", "TEXT"], ["is a file"]),
        (["inspect", "NOFILE"], ["no such folder"]),
        (["verify", "NOFILE"], ["no such folder"]),
        (["verify", "RUN"], ["not a bundle"]),
        (["verify", "BUNDLE", "--runtime", "parallel"], ["without --checkpoint"]),
        (["verify", "BUNDLE", "--steps", "5"], ["--checkpoint"]),
        (["verify", "BUNDLE", "--checkpoint", "RUN", "--steps", "99"], ["99", "capacity of 40"]),
        (["verify", "BUNDLE", "--checkpoint", "OTHERRUN"], ["another model"]),
        (["export", "RUN", "-o", "OUT", "--opset", "9"], ["opset 9"]),
        (["export", "RUN", "-o", "OUT", "--capacity", "50"], ["50", "40 learned positions"]),
        (["export", "RUN", "-o", "RUN"], ["holds other files"]),
        (["export", "RUN", "-o", "OUT", "--capacity", "1"], ["capacity 1", "at least 2"]),
        (["train", "-o", "OUT", "--learning-rate", "1e300"], ["learning rate is 1e+300", "at most 1000"]),
        (["run", "RUN", "--prompt", "a", "--provider", "cuda"], ["cuda", "onnxruntime"]),
        (["export", "BUNDLE", "-o", "OUT"], ["a bundle, not a RUN"]),
        (["train", "-o", "RUN", "--steps", "1"], ["--overwrite"]),
        (["train", "-o", "OUT", "--heads", "7"], ["heads 7", "hidden 64"]),
        (["train", "-o", "OUT", "--readout", "linear", "--head-scale", "max"], ["head_scale max", "linear"]),
        (["train", "-o", "OUT", "--until", "95"], ["--until is 95"]),
        (["train", "-o", "OUT", "--readout", "linear", "--heads", "2"], ["heads 2", "readout linear"]),
        (["train", "-o", "OUT", "--model", "transformer", "--readout", "exact"], ["--model transformer", "--readout"]),
        (["train", "-o", "OUT", "--model", "transformer", "--no-post-norm"], ["--model transformer", "--no-post-norm"]),
        (["train", "-o", "OUT", "--model", "transformer", "--heads", "3"], ["heads 3", "embedding 64"]),
        (["train", "-o", "OUT", "--task", "copy", "--key", "2"], ["--task copy", "--key"]),
        (["train", "-o", "OUT", "--task", "copy", "--text", "TEXT"], ["--task copy", "--text"]),
        (["train", "-o", "OUT", "--task", "text"], ["--task text needs --text"]),
        (["train", "-o", "OUT", "--task", "text", "--text", "NOFILE"], ["no such file"]),
        (["train", "-o", "OUT", "--task", "text", "--text", "TEXT"], ["too few for length 128", "--length"]),
        (["train", "-o", "OUT", "--task", "lookup", "--length", "3", "--key", "3"], ["key 3", "length 3"]),
        (["train", "-o", "OUT", "--kernel", "triton"], ["kernel triton", "on a GPU (device cuda)", "on cpu"]),
        (["train", "-o", "OUT", "--compile", "--kernel", "tiles"], ["compile", "exact+exp", "--compile"]),
        (["verify", "BUNDLE", "--task", "lookup"], ["--task lookup", "its task is copy"]),
        (["verify", "BUNDLE", "--text", "TEXT"], ["--text", "not trained on a text"]),
        (["train", "-o", "OUT", "--accumulate", "65"], ["accumulate is 65", "64 sequences"]),
        (["train", "-o", "RUN", "--resume"], ["training.safetensors"]),
        (["train", "-o", "RUN", "--resume", "--steps", "5"], ["--resume"]),
        (["train", "-o", "OUT", "--device", "abacus"], ["abacus", "--device auto"]),
        (["train", "-o", "OUT", "--learning-rate", "0"], ["learning rate"]),
        (["convert", "TEXT", "-o", "OUT", "--readout", "exact"], ["ids.txt"]),
        (["convert", "PTH", "-o", "OUT", "--readout", "linear", "--head-scale", "max"], ["head_scale max"]),
        (["convert", "PTH", "-o", "OUT", "--readout", "exact", "--heads", "5"], ["heads 5"]),
        (["convert", "PTH", "-o", "OUT", "--heads", "2"], ["exact+exp, heads 1", "leave out --heads", "--force"]),
        (["convert", "PTH", "-o", "OUT", "--reference", "TEXT"], ["ids.txt", "numpy.savez"]),
        (["convert", "PTH", "-o", "OUT", "--tokens", "TOOBIG"], ["toobig.npy", "too few to compare on"]),
        (["convert", "PTH", "-o", "OUT", "--model", "transformer"], ["--model transformer", "causalrn"]),
        (["convert", "LINEAR", "-o", "OUT", "--model", "transformer"], ["--model transformer", "linear-transformer"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) > 1 else None,
)
def test_every_mistake_is_one_clear_line(call, tmp_path, runs, bundles, arguments, words):
    np.save(tmp_path / "floats.npy", np.zeros((2, 3)))
    np.save(tmp_path / "toobig.npy", np.array([[1, 99]]))
    np.save(tmp_path / "toolong.npy", np.zeros((1, 41), np.int64))
    (tmp_path / "ids.txt").write_text("1 2 3")
    torch.save(official_state("linear_transformer"), tmp_path / "linear.pth")
    places = {
        "BUNDLE": bundles["exact"],
        "RUN": runs["exact"],
        "OTHERRUN": runs["linear"],
        "OUT": tmp_path / "out",
        "NOFILE": tmp_path / "nothing",
        "NOFILE/x": tmp_path / "nothing" / "x",
        "BUNDLEFILE": bundles["exact"] / "weights.bin",
        "FLOATS": tmp_path / "floats.npy",
        "TOOBIG": tmp_path / "toobig.npy",
        "TOOLONG": tmp_path / "toolong.npy",
        "TEXT": tmp_path / "ids.txt",
        "PTH": GOLDEN / "official_exact_copy8.pth",
        "LINEAR": tmp_path / "linear.pth",
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    _assert_one_line(call(*(places.get(a, a) for a in arguments)), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "bundle/weights.bin"), "weights.bin: the disk is full"),
        (PermissionError(13, "Permission denied", "out"), "out: permission denied"),
        (MemoryError(), "not enough memory"),
        (ModuleNotFoundError("no torch", name="torch"), "pip install 'causalrn[export]'"),
    ],
)
def test_failures_of_the_machine_are_one_clear_line(capfd, error, message):
    def fail():
        raise error

    assert run_reporting_errors(fail) == 2
    text = capfd.readouterr().err
    assert message in text
    assert text.count("\n") == 1


def test_full_disk_leaves_no_half_bundle(call, runs, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "weights.bin")

    monkeypatch.setattr("causalrn.bundle.graph_files._share_weights", full)
    _assert_one_line(call("export", runs["linear"], "-o", tmp_path / "bundle"), "disk is full")
    assert list(tmp_path.iterdir()) == []


def test_torch_is_only_needed_where_it_is_used(call, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _assert_one_line(call("train", "-o", tmp_path / "run"), "torch", "pip install 'causalrn[export]'")


@pytest.mark.cases(0)
def test_demo_shows_the_whole_path(call, tmp_path, monkeypatch):
    monkeypatch.setattr("causalrn.training.plan.PRESETS", {"tiny": _tiny_preset()})
    torch.manual_seed(0)
    code, out, _ = call("demo", "-o", tmp_path / "demo", "--length", 2)
    assert code == 1  # twenty steps teach nothing, and demo says so by its exit code
    for heading in ("1. train", "2. export", "3. verify", "4. generate", "PASS", "copy "):
        assert heading in out
    assert (tmp_path / "demo" / "bundle" / "manifest.json").exists()
    weights = (tmp_path / "demo" / "run" / "model.safetensors").read_bytes()
    _assert_one_line(call("demo", "-o", tmp_path / "demo"), "run is there already", "--overwrite")
    (tmp_path / "demo" / "bundle" / "thesis.tex").write_text("mine")
    _assert_one_line(call("demo", "-o", tmp_path / "demo"), "thesis.tex", "--overwrite")
    assert (tmp_path / "demo" / "run" / "model.safetensors").read_bytes() == weights


def _tiny_preset():
    from causalrn.training.loop import Preset

    return Preset(width=16, blocks=1, batch=8, learning_rate=1e-3, steps=20)
