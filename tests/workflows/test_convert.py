"""Conversion settles what shapes do not tell, or refuses: nothing wrong converts silently, nothing right is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from causalrn.bundle.known_by import TRAINED_HERE, KnownBy, caution
from causalrn.errors import CausalRNError, CheckpointError, InputError
from causalrn.model.candidates import (
    allowed_settings,
    as_named,
    canonical,
    differing_options,
    with_other_heads,
    without_fine_options,
)
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.official import build_official, read_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import no_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.checkpoint_folder import CheckpointFolder
from causalrn.training.tasks import CopyTask
from causalrn.workflows.convert import convert
from causalrn.workflows.setting_choice import Asked, choose_by_likelihood
from causalrn.workflows.setting_data import DataOptions, TaskData
from causalrn.workflows.setting_race import FineRivals, Race, half_width
from causalrn.workflows.setting_scores import SettingScores
from causalrn.workflows.setting_trial import SettingTrial
from tests.builders import GOLDEN, official_keys, random_model, trained_to_copy

LENGTH = 2
SIZES = {"vocabulary": 29, "embedding": 16, "hidden": 16, "blocks": 2, "capacity": CopyTask(LENGTH).capacity}
TRAINED = {
    "exact4": CausalRNConfig(**SIZES, heads=4),
    "rms": CausalRNConfig(**SIZES, norm="rms"),
    "relu": CausalRNConfig(**SIZES, activation="relu"),
    "plain": CausalRNConfig(**SIZES, readout="plain"),
    "transformer4": TransformerConfig(**{**SIZES, "hidden": 64}, heads=4),
    "linear-transformer2": TransformerConfig(**{**SIZES, "hidden": 64}, heads=2, attention="linear"),
}
ENOUGH = {"transformer4": 0.3}
OFFICIAL = {"exact": {"readout": "exact"}, "linear": {"readout": "linear"}}
"""Trained by the paper authors' own script."""


@pytest.fixture(scope="session")
def weights(share):
    """State dicts under official keys, each of a model that was trained, by name."""

    def fill(folder):
        for name, config in TRAINED.items():
            torch.save(
                official_keys(trained_to_copy(config, LENGTH, enough=ENOUGH.get(name, 0.55))), folder / f"{name}.pth"
            )

    folder = share("trained-weights", fill)
    paths = {name: folder / f"{name}.pth" for name in TRAINED}
    return paths | {name: GOLDEN / f"official_{name}_copy8.pth" for name in OFFICIAL}


def _configs(name):
    """What the weights were trained with."""
    if name in TRAINED:
        return TRAINED[name]
    return build_official(read_official(GOLDEN / f"official_{name}_copy8.pth"), **OFFICIAL[name]).config


def _race(path, config, seed, most=2000):
    model = build_official(read_official(path), **({"readout": "exact"} if isinstance(config, CausalRNConfig) else {}))
    data = TaskData(CopyTask(CopyTask.length_for(config.capacity)), seed)
    race = Race(SettingScores(model, data), most, lambda count, note: None)
    return race.run(allowed_settings(model.config, {}))


# --- by likelihood --------------------------------------------------------------------------------------------------


@pytest.mark.cases(4)
@pytest.mark.parametrize("name", [*TRAINED, *OFFICIAL])
def test_right_setting_is_found_without_a_name(tmp_path, weights, name):
    result = convert(weights[name], output=tmp_path / "run")
    config, known_by = result.run.card.config, result.known_by
    assert config == _configs(name)
    assert known_by.how == "likelihood"
    assert known_by.margin > known_by.interval > 0
    assert CheckpointFolder.open(tmp_path / "run").card.known_by == known_by
    assert result.task == CopyTask(CopyTask.length_for(config.capacity))


@pytest.mark.cases(8)
@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("exact4", {"readout": "exact", "heads": 1}, "`heads`"),
        ("exact4", {"heads": 2}, "`heads`"),
        ("exact4", {"heads": 8}, "`heads`"),
        ("exact4", {"heads": 4, "head_scale": "none"}, "`head_scale`"),
        ("exact4", {"heads": 4, "norm": "rms"}, "`norm`"),
        ("exact4", {"readout": "linear"}, "`readout`"),
        ("exact4", {"heads": 4, "activation": "gelu"}, "`activation`"),
        ("exact", {"readout": "exact", "norm": "rms"}, "`norm`"),
        ("exact", {"no_post_norm": True}, "`no_post_norm`"),
        ("exact", {"heads": 4}, "`heads`"),
        ("exact", {"activation": "relu"}, "`activation`"),
        ("exact", {"readout": "plain"}, "`readout`"),
        ("linear", {"readout": "linear", "norm": "rms"}, "`norm`"),
        ("linear", {"readout": "exact"}, "`readout`"),
        ("linear", {"readout": "linear", "no_post_norm": True}, "`no_post_norm`"),
        ("rms", {"norm": "layer"}, "`norm`"),
        ("rms", {"heads": 2}, "`heads`"),
        ("relu", {"activation": "gelu"}, "`activation`"),
        ("relu", {"activation": "exp"}, "`activation`"),
        ("relu", {"no_post_norm": True, "activation": "relu"}, "`no_post_norm`"),
        ("plain", {"readout": "exact"}, "`readout`"),
        ("plain", {"activation": "gelu"}, "`activation`"),
        ("transformer4", {"heads": 1}, "`heads`"),
        ("transformer4", {"heads": 2}, "`heads`"),
        ("transformer4", {"heads": 8}, "`heads`"),
        ("transformer4", {"model": "linear-transformer"}, "`model`"),
        ("transformer4", {"heads": 4, "norm": "rms"}, "`norm`"),
        ("linear-transformer2", {"heads": 1}, "`heads`"),
        ("linear-transformer2", {"model": "transformer", "heads": 2}, "`model`"),
    ],
)
def test_wrong_setting_is_refused_and_only_it_is_blamed(tmp_path, weights, name, options, named):
    with pytest.raises(CheckpointError, match="nats per token, as asked") as caught:
        convert(weights[name], output=tmp_path / "run", **options)
    assert f"leave out {named}, or use `force`" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.cases(0)
@pytest.mark.parametrize("name", ["exact4", "transformer4"])
def test_right_setting_is_never_refused_on_20_seeds(weights, name):
    config = _configs(name)
    for seed in range(20):
        ranking = _race(weights[name], config, seed)
        assert [row.setting for row in ranking.open] == [canonical(config)]


def test_right_names_are_accepted(tmp_path, weights):
    options = {"readout": "exact", "heads": 4, "norm": "layer", "activation": "exp", "head_scale": "max"}
    result = convert(weights["exact4"], output=tmp_path / "run", **options, post_norm=True)
    assert (result.run.card.config, result.known_by.how) == (TRAINED["exact4"], "likelihood")


def test_head_scale_that_cancels_is_as_named(tmp_path, weights):
    result = convert(weights["rms"], output=tmp_path / "run", head_scale="none")
    config = result.run.card.block_config
    assert isinstance(config, CausalRNConfig)
    assert (config.head_scale, result.known_by.how) == ("none", "likelihood")


def test_force_converts_with_what_is_named_and_says_so(tmp_path, weights):
    result = convert(weights["exact4"], output=tmp_path / "run", heads=2, force=True)
    assert result.run.card.block_config.heads == 2
    assert result.known_by.how == "assumed"
    assert "exact+exp, heads 4" in caution(result.known_by)


def test_too_few_samples_settle_nothing_and_the_option_is_named(tmp_path, weights):
    with pytest.raises(CheckpointError, match=r"cannot be told apart on 4 sequences.*name .*`heads`.*more `samples`"):
        convert(weights["transformer4"], output=tmp_path / "run", samples=4)
    result = convert(
        weights["transformer4"], output=tmp_path / "run", samples=4, model="transformer", heads=4, norm="layer"
    )
    assert result.known_by.how == "assumed"
    assert "predicts as well within the interval" in result.known_by.note


def test_untrained_weights_are_assumed_and_their_readout_must_be_named(tmp_path):
    torch.manual_seed(0)
    torch.save(official_keys(SequenceModel(TRAINED["exact4"])), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"better than chance .* or not at all: name its `readout`"):
        convert(tmp_path / "w.pth", output=tmp_path / "run")
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", readout="exact", heads=4)
    assert result.known_by.how == "assumed"
    assert result.task is None
    assert "trained on something else, or not at all" in caution(result.known_by)


def test_attention_without_heads_is_never_guessed(tmp_path):
    torch.save(official_keys(random_model(attention="softmax", vocabulary=40)), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"nothing to try it on .*: name its `heads`"):
        convert(tmp_path / "w.pth", output=tmp_path / "run")
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", heads=2)
    assert result.known_by.how == "assumed"
    assert result.ranking is None


def test_token_ids_of_the_user_refuse_what_is_clearly_wrong(tmp_path, weights):
    examples = CopyTask(LENGTH).draw("convert", 400)
    ids = np.concatenate([examples.inputs, examples.targets[:, -1:]], 1)
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(CheckpointError, match=r"ids.npy, 7 tokens each .* leave out `readout`"):
        convert(weights["exact4"], output=tmp_path / "run", tokens=tmp_path / "ids.npy", readout="linear")
    with pytest.raises(CheckpointError, match=r"not trained to the end .*: name `"):
        convert(weights["exact4"], output=tmp_path / "run", tokens=tmp_path / "ids.npy", readout="exact")
    named = {"readout": "exact", "heads": 4, "norm": "layer", "activation": "exp", "head_scale": "max"}
    result = convert(weights["exact4"], output=tmp_path / "run", tokens=tmp_path / "ids.npy", post_norm=True, **named)
    assert (result.run.card.config, result.known_by.how) == (TRAINED["exact4"], "assumed")


def test_pieces_of_a_text_do_not_overlap(tmp_path):
    config = CausalRNConfig(**{**SIZES, "vocabulary": 256, "capacity": 8})
    (tmp_path / "text").write_bytes(bytes(range(200)))
    data = DataOptions(text=tmp_path / "text").data_for(config)
    pieces = data.first(data.available)
    assert sorted(pieces.inputs.flatten().tolist()) == list(range(8 * 24))
    assert np.array_equal(pieces.targets[:, :-1], pieces.inputs[:, 1:])


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (29, {"tokens": "ids", "text": "text"}, "`text` and `tokens` contradict"),
        (29, {"tokens": "ids", "task": "copy"}, "`tokens` and `task` contradict"),
        (29, {"tokens": "high"}, "token ids from 0 to 40, the vocabulary is 29"),
        (29, {"tokens": "few"}, "too few to compare on"),
        (29, {"tokens": "long"}, "10 tokens per sequence, the model has 6 positions"),
        (29, {"text": "text"}, "the model has 29: give `tokens`"),
        (29, {"length": 3}, "`length` 3 needs 8 positions, the model has 6"),
        (29, {"task": "text"}, "`task` text needs `text`"),
        (256, {"task": "copy"}, "`task` copy has 29 tokens, the model 256"),
        (256, {"text": "text"}, "too few: give a longer text"),
        (29, {"post_norm": True, "no_post_norm": True}, "`post_norm` and `no_post_norm` contradict"),
    ],
)
def test_bad_data_is_one_clear_line(tmp_path, vocabulary, options, message):
    torch.save(official_keys(random_model(**{**SIZES, "vocabulary": vocabulary})), tmp_path / "w.pth")
    (tmp_path / "text").write_text("short")
    for name, ids in {"ids": [[0, 1]] * 8, "high": [[0, 40]] * 8, "few": [[0, 1]], "long": [[1] * 10] * 8}.items():
        np.save(tmp_path / f"{name}.npy", ids)
    places = {"text": tmp_path / "text", **{n: tmp_path / f"{n}.npy" for n in ("ids", "high", "few", "long")}}
    given = {key: places.get(value, value) if key in ("text", "tokens") else value for key, value in options.items()}
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "w.pth", output=tmp_path / "run", readout="exact", **given)


# --- an eps -----------------------------------------------------------------------------------------------------------


@pytest.mark.cases(1)
@pytest.mark.parametrize("eps", [0.01, 0.1, 1])
def test_wrong_eps_is_refused_and_drags_nothing_along(tmp_path, weights, eps):
    with pytest.raises(CheckpointError, match=r"with exact.exp, heads 1, norm layer these .*: leave out `eps`, or use"):
        convert(weights["exact"], output=tmp_path / "run", eps=eps)
    with pytest.raises(CheckpointError, match=r"leave out `(heads` and `eps|eps` and `heads)`, or use"):
        convert(weights["exact"], output=tmp_path / "run", eps=eps, heads=2)
    result = convert(weights["exact"], output=tmp_path / "run", eps=eps, force=True)
    assert (result.known_by.how, result.run.card.block_config.norm_eps) == ("assumed", eps)
    assert "was forced, although exact+exp, heads 1, norm layer predicts" in caution(result.known_by)


@pytest.mark.parametrize(("named", "eps"), [({}, 0), ({"eps": 0}, 0), ({"eps": 1e-5}, 1e-5)])
def test_eps_that_likelihood_does_not_tell_is_noted(tmp_path, weights, named, eps):
    result = convert(weights["exact"], output=tmp_path / "run", **named)
    config = result.run.card.block_config
    assert (config.heads, config.norm_eps, result.known_by.how) == (1, eps, "likelihood")
    assert f"eps {eps:g} was {'named' if named else 'assumed'}: likelihood does not tell it" in caution(result.known_by)


@pytest.mark.cases(1)
@pytest.mark.parametrize("eps", [0.001, 0.01])
def test_right_eps_is_not_refused_though_less_does_better_early(tmp_path, eps):
    config = CausalRNConfig(**SIZES, norm_eps=eps)
    torch.save(official_keys(trained_to_copy(config, LENGTH, enough=0.55)), tmp_path / "w.pth")
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", eps=eps)
    assert (result.run.card.config, result.known_by.how) == (config, "likelihood")


def test_setting_that_depends_on_the_eps_has_to_be_named(tmp_path, weights):
    """Where an eps of 0 is about as good, and tells heads otherwise, the eps would decide them."""
    official = read_official(weights["exact"])
    asked = Asked("weights", {"norm_eps": 0.003})
    trial = SettingTrial.of(official, asked, DataOptions(), no_progress)
    _, _, ranking = trial.by_likelihood(64)
    assert ranking is not None
    other = next(row for row in ranking.rows if row.setting.heads == 2)
    best = dataclasses.replace(other, setting=without_fine_options(other.setting), margin=0.0)
    near = dataclasses.replace(ranking.best, margin=0.0)
    rivals = FineRivals(dataclasses.replace(ranking, rows=(best,)), near, near)
    with pytest.raises(CheckpointError, match=r"cannot be told apart .*: name `heads`"):
        choose_by_likelihood(ranking, asked, trial.usual, rivals)
    named = Asked("weights", {"norm_eps": 0.003, "heads": 1, "head_scale": "max"})
    setting, known_by = choose_by_likelihood(ranking, named, trial.usual, rivals)
    assert (setting.heads, known_by.how) == (1, "assumed")


# --- by recorded logits ---------------------------------------------------------------------------------------------


def _record(path, model, *, batch=3, change=lambda tokens, logits: (tokens, logits)):
    time = model.config.capacity
    tokens = torch.randint(29, (batch, time), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, logits = change(tokens, model(tokens))
    if path.suffix == ".npz":
        np.savez(path, tokens=tokens.numpy(), logits=logits.numpy())
    else:
        safetensors.torch.save_file({"tokens": tokens, "logits": logits.contiguous()}, path)
    return path


@pytest.mark.cases(2)
@pytest.mark.parametrize("config", TRAINED.values(), ids=TRAINED)
def test_recorded_logits_settle_it_for_untrained_weights_too(tmp_path, config):
    options = {name: getattr(config, name) for name in ("readout", "attention", "activation") if hasattr(config, name)}
    model = random_model(3, **{**SIZES, **options, "hidden": config.hidden, "heads": config.heads, "norm": config.norm})
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "reference.npz", model)
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference)
    assert result.run.card.config == config
    assert (result.known_by.how, result.known_by.strings) == ("recorded logits", 3)
    assert result.known_by.error < 1e-5 < result.known_by.margin


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_recorded_logits_may_have_any_float_type(tmp_path, dtype):
    model = random_model(**SIZES, heads=4)
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "any.name", model, change=lambda tokens, logits: (tokens, logits.to(dtype)))
    assert convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference).run.card.config == model.config


def test_recorded_logits_refuse_what_is_named_wrongly(tmp_path):
    model = random_model(**SIZES, heads=4)
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "reference.npz", model)
    with pytest.raises(CheckpointError, match=r"are those of exact.exp, heads 4, .*: leave out `heads`"):
        convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference, heads=2)
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference, heads=2, force=True)
    assert (result.known_by.how, result.run.card.block_config.heads) == ("assumed", 2)


@pytest.mark.cases(1)
@pytest.mark.parametrize("named", [{}, {"eps": 1e-4}, {"eps": 1e-5}])
def test_logits_in_half_precision_leave_the_eps_open_and_say_so(tmp_path, named):
    model = random_model(3, **SIZES, norm_eps=1e-4)
    torch.save(official_keys(model), tmp_path / "w.pth")
    half = _record(tmp_path / "half", model, change=lambda tokens, logits: (tokens, logits.bfloat16()))
    result = convert(tmp_path / "w.pth", output=tmp_path / "run", reference=half, **named)
    assert (result.run.card.block_config.norm_eps, result.known_by.how) == (named.get("eps", 0), "recorded logits")
    assert re.search("eps 0 to 0.001.* all give these logits: record them in float32", caution(result.known_by))


@pytest.mark.cases(1)
@pytest.mark.parametrize("eps", [0, 1e-4])
def test_logits_in_float32_tell_the_eps_whatever_is_named(tmp_path, eps):
    model = random_model(3, **SIZES, norm_eps=eps)
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "r.npz", model)
    for named in ({}, {"eps": eps}):
        result = convert(tmp_path / "w.pth", output=tmp_path / f"run {named}", reference=reference, **named)
        assert (result.run.card.config, caution(result.known_by)) == (model.config, "")
    with pytest.raises(CheckpointError, match="leave out `eps`"):
        convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference, eps=0.3)


def test_logits_of_other_weights_are_refused_with_the_nearest_setting(tmp_path):
    model = random_model(**SIZES, heads=4)
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "r.npz", model, change=lambda tokens, logits: (tokens, 1.001 * logits))
    with pytest.raises(CheckpointError, match=r"the nearest, exact.exp, heads 4, .*, is 1\.0e-03 of the largest off"):
        convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference)


def test_logits_that_several_settings_give_are_refused(tmp_path):
    model = random_model(**SIZES, readout="plain")
    with torch.no_grad():
        for block in model.blocks:
            block.fc_3.weight.zero_()  # nothing of the readout reaches the logits
    torch.save(official_keys(model), tmp_path / "w.pth")
    reference = _record(tmp_path / "r.npz", model)
    with pytest.raises(CheckpointError, match="both give these logits: record longer sequences, or name `"):
        convert(tmp_path / "w.pth", output=tmp_path / "run", reference=reference)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tokens": np.zeros((2, 3), np.int64)}, "no entry logits"),
        ({"tokens": np.zeros((2, 3)), "logits": np.ones((2, 3, 29))}, r"tokens is float64 \[2, 3\]"),
        ({"tokens": np.zeros((0, 3), np.int64), "logits": np.ones((0, 3, 29))}, r"tokens is int64 \[0, 3\]"),
        ({"tokens": np.zeros((2, 3), np.int64), "logits": np.ones((2, 3, 28))}, r"expected .* \[2, 3, 29\]"),
        ({"tokens": np.zeros((2, 3), np.int64), "logits": np.ones((2, 3, 29), np.int64)}, "logits is int64"),
        ({"tokens": np.zeros((2, 3), np.int64), "logits": np.full((2, 3, 29), np.nan)}, "NaN or infinity"),
        ({"tokens": np.full((2, 3), 29), "logits": np.ones((2, 3, 29))}, "token ids from 29 to 29"),
        ({"tokens": np.zeros((2, 7), np.int64), "logits": np.ones((2, 7, 29))}, "7 tokens per sequence"),
        ({"tokens": np.array([[None]]), "logits": np.ones((1, 1, 29))}, "tokens: holds Python objects"),
        ({"tokens": np.array([["a"]]), "logits": np.ones((1, 1, 29))}, "tokens: holds <U1, not numbers"),
        (b"PK, and then something else", "no archive of numbers"),
        (b"no archive at all", "neither .npz nor .safetensors"),
        (None, "no such file"),
    ],
)
def test_bad_reference_is_one_clear_line(tmp_path, entries, message):
    torch.save(official_keys(random_model(**SIZES)), tmp_path / "w.pth")
    if isinstance(entries, dict):
        np.savez(tmp_path / "r.npz", **entries)
    elif entries is not None:
        (tmp_path / "r.npz").write_bytes(entries)
    with pytest.raises(CausalRNError, match=message) as caught:
        convert(tmp_path / "w.pth", output=tmp_path / "run", reference=tmp_path / "r.npz")
    assert "\n" not in str(caught.value)


# --- a checkpoint folder --------------------------------------------------------------------------------------------


def _folder(path, config, known_by=None, task=None, weights=None):
    """A RUN; its weights are random, or those of a file."""
    model = SequenceModel(config) if weights is None else build_official(read_official(weights), readout="exact")
    if weights is None:
        model.load_state_dict(random_model(**SIZES).state_dict())
    model.set_config(config)
    save_checkpoint(path, model, ModelCard(config, None, task, known_by), {})
    return model.eval()


@pytest.mark.cases(1)
@pytest.mark.parametrize("known_by", [None, KnownBy("assumed", note="why"), TRAINED_HERE])
def test_checkpoint_folder_becomes_known_by_recorded_logits(tmp_path, known_by):
    model = _folder(tmp_path / "own", CausalRNConfig(**SIZES, heads=4), known_by, CopyTask(1))
    reference = _record(tmp_path / "r.npz", model)
    plain = convert(tmp_path / "own", output=tmp_path / "plain", force=True, samples=2)
    assert plain.known_by == known_by  # nothing to compare with
    result = convert(tmp_path / "own", output=tmp_path / "run", reference=reference)
    assert (result.run.card.config, result.known_by.how) == (model.config, "recorded logits")
    assert (result.task, caution(result.known_by)) == (CopyTask(1), "")


def test_checkpoint_folder_with_wrong_settings_is_refused_by_recorded_logits(tmp_path):
    right = _folder(tmp_path / "right", CausalRNConfig(**SIZES, heads=4))
    _folder(tmp_path / "own", CausalRNConfig(**SIZES, heads=2), KnownBy("recorded logits"))
    options = {"reference": _record(tmp_path / "r.npz", right), "output": tmp_path / "run"}
    with pytest.raises(CheckpointError, match=r"folder without config.json, which says otherwise of heads, or use"):
        convert(tmp_path / "own", **options)
    assert convert(tmp_path / "own", **options, force=True).known_by.how == "assumed"


def test_checkpoint_folder_is_compared_by_likelihood_where_data_are_given(tmp_path, weights):
    _folder(tmp_path / "own", TRAINED["exact4"], None, weights=weights["exact4"])
    result = convert(tmp_path / "own", output=tmp_path / "run", task="copy")
    assert (result.known_by.how, result.task) == ("likelihood", CopyTask(LENGTH))
    _folder(tmp_path / "here", TRAINED["exact4"], TRAINED_HERE, weights=weights["exact4"])
    assert convert(tmp_path / "here", output=tmp_path / "run2", task="copy").known_by == TRAINED_HERE
    wrong = dataclasses.replace(TRAINED["exact4"], heads=2)
    _folder(tmp_path / "wrong", wrong, None, weights=weights["exact4"])
    with pytest.raises(CheckpointError, match=r"folder without config.json, which says otherwise of heads, or use"):
        convert(tmp_path / "wrong", output=tmp_path / "run3", task="copy")


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_all_that_sizes_allow_and_none_twice():
    base = CausalRNConfig(**SIZES)
    settings = allowed_settings(base, {})
    assert len(settings) == len(set(settings)) == 4 * 10 * 2 - 2 + 2 * 16  # heads 1, 2, 4, 8; exp has two head scales
    assert {one.heads for one in with_other_heads(base)} == {1, 2, 4, 8}
    assert all(as_named(one, {}) == one for one in settings)


def test_named_settings_are_tried_beside_the_usual_ones():
    base = CausalRNConfig(**{**SIZES, "hidden": 64, "heads": 32})
    assert {one.heads for one in allowed_settings(base, {"heads": 32})} == {1, 2, 4, 8, 16, 32}


def test_weights_are_read_with_each_setting_as_if_built_so():
    model = random_model(**SIZES)
    tokens = torch.randint(29, (2, 6), generator=torch.Generator().manual_seed(1))
    for setting in allowed_settings(model.config, {}):
        built = SequenceModel(setting)
        built.load_state_dict(model.state_dict())
        model.set_config(setting)
        assert torch.equal(model(tokens).nan_to_num(), built(tokens).nan_to_num())


def test_difference_leaves_out_a_head_scale_that_follows():
    one, other = CausalRNConfig(**SIZES), CausalRNConfig(**SIZES, heads=2, head_scale="none")
    assert differing_options(one, other) == ("heads",)
    assert differing_options(CausalRNConfig(**SIZES, heads=2), other) == ("head_scale",)


def test_interval_holds_the_mean_of_few_values():
    rng = np.random.default_rng(0)
    outside = sum(abs(sample.mean()) > half_width(sample) for sample in rng.normal(size=(20_000, 8)))
    assert outside <= 20  # 4 standard deviations: 1.3 of 20,000 expected, three times that by the approximation


def test_cautions_are_for_what_is_not_known():
    assert caution(None)
    assert caution(KnownBy("assumed", note="why"))
    assert not any(caution(KnownBy(how)) for how in ("trained here", "recorded logits", "likelihood"))
