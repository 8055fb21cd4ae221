"""`convert` of what scripts save around the weights, of the toolkit's own, and of models whose norms have an eps."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.model.official import build_official, rename_official
from causalrn.training.checkpoint import load_checkpoint, save_weights
from tests.builders import EPS_CASES, GOLDEN, golden_case, official_state, random_model, relative_error
from tests.c_tools import checkpoint_of, needs_c_compiler

SETTINGS: dict[str, list[str]] = {
    "eps_exact": ["--readout", "exact", "--eps", "1e-5"],
    "eps_exact_heads2": ["--readout", "exact", "--heads", "2", "--eps", "0.01"],
    "eps_linear": ["--readout", "linear", "--eps", "0.01"],
    "eps_ablation_approx": ["--readout", "linear", "--head-scale", "none", "--eps", "0.01"],
    "eps_transformer": ["--heads", "2", "--eps", "0.01"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_models_with_an_eps_convert_and_give_the_authors_numbers(call, tmp_path, name):
    torch.save(
        {"epoch": 3, "model": {f"module.{k}": v for k, v in official_state(name).items()}}, tmp_path / "last.ckpt"
    )
    code, out, error = call(
        "convert", tmp_path / "last.ckpt", "-o", tmp_path / "run", "--force", "--samples", 2, *SETTINGS[name]
    )
    assert (code, error) == (0, "")
    assert "norm eps 0.01" in out or "norm eps 1e-05" in out
    assert "unwrapped: took model out of it; removed module. from keys" in out
    assert load_checkpoint(tmp_path / "run").model.config == golden_case(name)[0].config
    _, tokens, expected = golden_case(name)
    np.save(tmp_path / "ids.npy", tokens.numpy())
    arguments = ("--input-ids", tmp_path / "ids.npy", "--logits", tmp_path / "out.npy", "--runtime", "recurrent")
    assert call("run", tmp_path / "run", *arguments)[0] == 0
    assert relative_error(np.load(tmp_path / "out.npy"), expected) <= TOLERANCES["float32", "recurrent"].relative


@pytest.mark.cases(0)
@needs_c_compiler
def test_a_bundle_with_an_eps_verifies_and_is_not_taken_for_one_without_it(call, tmp_path):
    torch.save(official_state("eps_exact"), tmp_path / "w.pth")
    for eps in ("1e-5", "0"):
        arguments = ("-o", tmp_path / eps, "--force", "--samples", 2, "--readout", "exact", "--eps", eps)
        assert call("convert", tmp_path / "w.pth", *arguments)[0] == 0
    assert call("export", tmp_path / "1e-5", "-o", tmp_path / "bundle", "--target", "c")[0] == 0
    code, out, _ = call("verify", tmp_path / "bundle", "--checkpoint", tmp_path / "1e-5")
    assert (code, out.rstrip()[-4:]) == (0, "PASS")
    code, _, error = call("verify", tmp_path / "bundle", "--checkpoint", tmp_path / "0")  # the weights are the same
    assert code == 2
    assert "another model" in error
    assert "(norm_eps 1e-05, there none)" in error


def test_an_eps_that_is_left_out_shows(tmp_path):
    """The wrong model is further off than any bound: what the option is for."""
    for name in EPS_CASES:
        model, tokens, expected = golden_case(name)
        config = {**EPS_CASES[name], "norm_eps": 0.0}
        without = build_official(rename_official(official_state(name), name), **config)
        assert relative_error(without.oracle()(tokens), expected) > 1e-5
        assert relative_error(model.oracle()(tokens), expected) < 1e-6


def test_a_checkpoint_folder_converts_with_its_own_settings(call, tmp_path):
    options = {"heads": 2, "norm": "rms", "norm_eps": 1e-3, "readout": "exact"}
    own = checkpoint_of(random_model(**options), tmp_path / "own")
    for source in (tmp_path / "own", tmp_path / "own" / "model.safetensors"):
        code, out, _ = call("convert", source, "-o", tmp_path / "run", "--force", "--samples", 2)
        assert code == 0
        assert "took its settings from config.json beside them" in out
        found = load_checkpoint(tmp_path / "run")
        assert (found.model.config, found.sha256) == (own.model.config, own.sha256)
        origin = json.loads((tmp_path / "run" / "config.json").read_text())["origin"]["converted"]
        assert (origin["file"], origin["sha256"]) == ("model.safetensors", own.sha256)
        (tmp_path / "run").rename(tmp_path / f"done {source.name}")
    contradictions: list[list[str]] = [["--readout", "linear"], ["--heads", "4"], ["--eps", "0.1"], ["--no-post-norm"]]
    for option in contradictions:
        code, out, error = call("convert", tmp_path / "own", "-o", tmp_path / "x", *option)
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert f"{option[0]} contradicts config.json" in error


def test_a_checkpoint_folder_is_checked_with_recorded_logits(call, tmp_path):
    own = checkpoint_of(random_model(heads=2), tmp_path / "own")
    tokens = torch.arange(8)[None]
    np.savez(tmp_path / "r.npz", tokens=tokens.numpy(), logits=own.model(tokens).detach().numpy())
    code, out, _ = call("convert", tmp_path / "own", "-o", tmp_path / "run", "--reference", tmp_path / "r.npz")
    assert (code, "architecture: recorded logits" in out) == (0, True)
    checkpoint_of(random_model(heads=4), tmp_path / "wrong")
    code, _, error = call("convert", tmp_path / "wrong", "-o", tmp_path / "x", "--reference", tmp_path / "r.npz")
    assert (code, error.count("\n")) == (2, 1)
    assert "config.json, which says otherwise of heads, or use --force" in error


def test_own_linear_transformers_are_known_by_their_folder(call, tmp_path):
    checkpoint_of(random_model(attention="linear"), tmp_path / "own")
    assert call("convert", tmp_path / "own", "-o", tmp_path / "run", "--force", "--samples", 2)[0] == 0
    assert load_checkpoint(tmp_path / "run").model.config.kind == "linear transformer"


@pytest.mark.cases(0)
def test_weights_that_were_changed_are_not_known_by_the_config_beside_them(call, tmp_path):
    checkpoint_of(random_model(), tmp_path / "own")
    save_weights(tmp_path / "own" / "model.safetensors", random_model(1))
    code, _, error = call("convert", tmp_path / "own", "-o", tmp_path / "run")
    assert code == 2
    assert "name its --readout" in error


def test_a_vocabulary_that_is_not_the_letters_converts(call, tmp_path):
    drawn = {key: torch.randn(50, 32) for key in ("pre_block.wte.weight", "post_block.fc_cls.weight")}
    state = official_state("exact") | drawn
    torch.save(state, tmp_path / "w.pth")
    code, out, _ = call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--readout", "exact")
    assert code == 0
    assert "vocabulary 50" in out


def test_what_a_training_resumes_from_is_not_taken_for_two_models(call, tmp_path):
    state = {"steps_done": torch.tensor(3)}
    for name, value in random_model().state_dict().items():
        state |= {f"weight.{name}": value, f"adam.exp_avg.{name}": value.clone()}
    safetensors.torch.save_file(state, tmp_path / "training.safetensors")
    code, _, error = call("convert", tmp_path / "training.safetensors", "-o", tmp_path / "run")
    assert (code, error.count("\n")) == (2, 1)
    assert "training.safetensors: is what `train` resumes from" in error


def test_what_recorded_logits_make_needless_is_refused(call, tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((20, 6), np.int64))
    arguments = ("convert", GOLDEN / "official_exact_copy8.pth", "-o", tmp_path / "run", "--reference", "r.npz")
    for option in (("--samples", 5), ("--tokens", tmp_path / "ids.npy")):
        code, _, error = call(*arguments, *option)
        assert (code, error.count("\n")) == (2, 1)
        assert f"--reference and {option[0]} contradict each other" in error


def test_a_hidden_width_of_two_is_settled_by_recorded_logits(call, tmp_path):
    """The usual settings are impossible for it: two norms leave two signs."""
    model = random_model(hidden=2, embedding=8, norm="rms")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    tokens = torch.randint(0, 29, (9, 12), generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "r.npz", tokens=tokens.numpy(), logits=model(tokens).detach().numpy())
    code, out, error = call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--reference", tmp_path / "r.npz")
    assert (code, error) == (0, "")
    assert "architecture: recorded logits" in out
    assert load_checkpoint(tmp_path / "run").model.config == model.config


def test_a_model_with_one_position_is_refused_before_it_is_written(call, tmp_path):
    torch.save(random_model(capacity=1).state_dict(), tmp_path / "w.pth")
    code, _, error = call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", "--readout", "exact")
    assert (code, error.count("\n")) == (2, 1)
    assert "w.pth: one learned position" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("eps", ["nan", "-1", "2", "x"])
def test_an_impossible_eps_is_refused(call, tmp_path, eps):
    source = GOLDEN / "official_exact_copy8.pth"
    code, _, error = call("convert", source, "-o", tmp_path / "x", "--readout", "exact", "--eps", eps)
    assert code == 2
    assert "--eps" in error


def test_weights_that_give_nothing_are_refused_before_anything_is_written(call, tmp_path):
    """All zero, next to zero, and beyond float32: there is nothing to compare with."""
    state = official_state("exact")
    arguments = ("-o", tmp_path / "run", "--readout", "exact")
    for factor in (0.0, 1e-30):
        torch.save({name: factor * value for name, value in state.items()}, tmp_path / "w.pth")
        assert call("convert", tmp_path / "w.pth", *arguments)[0] == 0
        code, _, error = call("export", tmp_path / "run", "-o", tmp_path / "bundle", "--target", "c")
        assert (code, error.count("\n")) == (2, 1)
        assert "logits are all zero, or nearly" in error
        assert not (tmp_path / "bundle").exists()
        shutil.rmtree(tmp_path / "run")
    torch.save({name: 1e30 * value for name, value in state.items()}, tmp_path / "w.pth")
    code, _, error = call("convert", tmp_path / "w.pth", *arguments)
    assert (code, error.splitlines()[-1].count("no setting gives finite logits")) == (2, 1)
    assert not (tmp_path / "run").exists()


def test_tokens_that_are_all_the_same_settle_nothing(call, tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((20, 6), np.int64))
    torch.save(official_state("exact"), tmp_path / "w.pth")
    arguments = ("--readout", "exact", "--tokens", tmp_path / "ids.npy")
    code, out, _ = call("convert", tmp_path / "w.pth", "-o", tmp_path / "run", *arguments)
    assert code == 0
    assert "the architecture is assumed" in out


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int64"])
def test_recorded_logits_of_other_types_are_one_clear_line(call, tmp_path, dtype):
    torch.save(official_state("exact"), tmp_path / "w.pth")
    logits = torch.ones(1, 4, 29).to(getattr(torch, dtype))
    reference = {"tokens": torch.zeros(1, 4, dtype=torch.int64), "logits": logits}
    safetensors.torch.save_file(reference, tmp_path / "r.safetensors")
    code, _, error = call(
        "convert", tmp_path / "w.pth", "-o", tmp_path / "o", "--reference", tmp_path / "r.safetensors"
    )
    assert (code, error.count("\n")) == (2, 1)
    assert f"logits is {dtype} [1, 4, 29], expected floating-point" in error


def test_damaged_archive_of_logits_is_one_clear_line(call, tmp_path):
    torch.save(official_state("exact"), tmp_path / "w.pth")
    np.savez_compressed(
        tmp_path / "r.npz", tokens=np.zeros((4, 6), int), logits=np.random.default_rng(0).random((4, 6, 29))
    )
    content = bytearray((tmp_path / "r.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "r.npz").write_bytes(content)
    code, _, error = call("convert", tmp_path / "w.pth", "-o", tmp_path / "o", "--reference", tmp_path / "r.npz")
    assert (code, error.count("\n")) == (2, 1)
    assert "r.npz: logits: not a .npy file of numbers, or a damaged one" in error
