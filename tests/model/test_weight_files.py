"""What training scripts save, told by content: the state dict inside is found, or one line says what would help."""

import argparse
import collections
import json
import os
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.optim.swa_utils import AveragedModel

from causalrn.errors import CheckpointError
from causalrn.model.official import read_official
from tests.builders import GOLDEN, random_model

STATE = torch.load(GOLDEN / "official_exact_copy8.pth", weights_only=True)
PLAIN = read_official(GOLDEN / "official_exact_copy8.pth")
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 2)}}, "param_groups": [{"lr": 1e-3}]}


def prefixed(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


def averaged(state=STATE):
    return {"n_averaged": torch.tensor(7), **prefixed("module.", state)}


WRAPPED = {
    "as it is": STATE,
    "torch.compile": prefixed("_orig_mod."),
    "data parallel": prefixed("module."),
    "compiled, then data parallel": prefixed("module._orig_mod."),
    "the other way round, in a model": prefixed("_orig_mod.model.module."),
    "a name nobody knows": prefixed("my.net."),
    "each block compiled": {re.sub(r"(block_all\.\d+\.)", r"\1_orig_mod.", key): value for key, value in STATE.items()},
    "AveragedModel": averaged(),
    "AveragedModel of a compiled one": averaged(prefixed("_orig_mod.")),
    "state_dict": {"state_dict": STATE, "epoch": 3, "optimizer": OPTIMIZER},
    "model": {"model": prefixed("module."), "optimizer_state_dict": OPTIMIZER, "loss": 0.3, "best": torch.tensor(0.1)},
    "model_state_dict": {"model_state_dict": STATE, "args": argparse.Namespace(lr=1.0), "history": [1.0, 2.0]},
    "deep": {"checkpoint": {"train": {"net": STATE}}},
    "a list": [STATE, OPTIMIZER],
    "Lightning": {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 1,
        "global_step": 10,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.3), "dirpath": "x"}},
        "hyper_parameters": {"lr": 1e-3},
        "optimizer_states": [OPTIMIZER],
        "state_dict": collections.OrderedDict({**prefixed("model."), "criterion.weight": torch.ones(29)}),
    },
    "parameters": {key: torch.nn.Parameter(v) if v.is_floating_point() else v for key, v in STATE.items()},
}


def weights_equal(found, expected=PLAIN):
    assert found.model == expected.model
    assert found.weights.keys() == expected.weights.keys()
    for name, value in found.weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected.weights[name]), name


@pytest.mark.parametrize("value", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_scripts_save_is_the_same_model(tmp_path, value, legacy):
    path = tmp_path / "weights.bin"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    found = read_official(path)
    weights_equal(found)
    assert bool(found.unwrapped) == (value is not STATE and value is not WRAPPED["parameters"])
    assert list(found.hashes) == ["weights.bin"]


def test_it_says_what_it_unwrapped(tmp_path):
    torch.save({"state_dict": {**prefixed("model._orig_mod."), "loss.weight": torch.ones(2)}}, tmp_path / "w")
    words = read_official(tmp_path / "w").unwrapped
    assert words == ("took state_dict out of it", "removed model._orig_mod. from keys", "left out loss.weight")
    assert read_official(GOLDEN / "official_exact_copy8.pth").unwrapped == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_other_precisions_become_float32(tmp_path, dtype, form):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}
    if form == "torch":
        torch.save(state, tmp_path / "w")
    else:
        (tmp_path / "w").write_bytes(safetensors.torch.save(state))
    found = read_official(tmp_path / "w")
    assert found.unwrapped == (f"turned {str(dtype)[6:]} into float32",)
    for name, value in found.weights.items():
        assert torch.equal(value, PLAIN.weights[name].to(dtype).float())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_safetensors_are_told_by_their_content(tmp_path, name):
    (tmp_path / name).write_bytes(safetensors.torch.save(prefixed("module.")))
    weights_equal(read_official(tmp_path / name))


def shards(folder, count=3):
    """A folder of shards with its index, as transformers and accelerate write it."""
    keys = sorted(STATE)
    places = {key: f"model-{index % count + 1:05d}-of-{count:05d}.safetensors" for index, key in enumerate(keys)}
    for place in set(places.values()):
        part = {key: STATE[key].contiguous() for key in keys if places[key] == place}
        (folder / place).write_bytes(safetensors.torch.save(part))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, places


def test_shards_are_joined_from_the_folder_and_from_the_index(tmp_path):
    index, places = shards(tmp_path)
    for path in (tmp_path, index):
        found = read_official(path)
        weights_equal(found)
        assert found.unwrapped == ("joined 3 shards",)
        assert list(found.hashes) == [index.name, *sorted(set(places.values()))]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, index, places: (folder / places["pre_block.pos"]).unlink(), "no such file, but model.safe"),
        (
            lambda folder, index, places: index.write_text(json.dumps({"weight_map": {"a": "../secret"}})),
            "'../secret', no file beside it",
        ),
        (
            lambda folder, index, places: index.write_text(
                json.dumps({"weight_map": {**places, "missing": places["pre_block.pos"]}})
            ),
            "lacks missing",
        ),
        (lambda folder, index, places: index.write_text("{}"), "not an index of shards"),
        (lambda folder, index, places: index.write_text("{truncated"), "is text, not weights"),
        (lambda folder, index, places: index.unlink(), r"a folder without model\.safetensors"),
    ],
    ids=["missing shard", "path outside", "missing tensor", "no map", "no JSON", "no index"],
)
def test_what_is_wrong_with_shards_is_named(tmp_path, spoil, message):
    spoil(tmp_path, *shards(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        read_official(tmp_path)


class NotAWeight:
    """Something that a script pickles beside its weights."""


def _zip(path, names, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)


REFUSED = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "git-LFS": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "GGUF": (lambda p: p.write_bytes(b"GGUF\x03\0\0\0" + bytes(64)), "is a GGUF file"),
    "HTML": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "ONNX": (lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0" + bytes(64)), "is an ONNX model"),
    "JSON": (lambda p: p.write_text('{"epoch": 3}'), "not an index of shards"),
    "text": (lambda p: p.write_text("1 2 3"), "is no file of torch.save or safetensors"),
    "zip": (lambda p: _zip(p, ["model/weights.pth"]), "unpack it and name the weights"),
    "NumPy archive": (lambda p: _zip(p, ["a.npy"]), "archive of NumPy arrays"),
    "compressed": (lambda p: _zip(p, ["w/data.pkl", "w/data/0"], zipfile.ZIP_DEFLATED), "is a compressed archive"),
    "TorchScript": (lambda p: _zip(p, ["w/data.pkl", "w/constants.pkl", "w/code/x.py"]), "TorchScript"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(64)), "unpack it"),
    "plain pickle": (lambda p: p.write_bytes(b"\x80\x04}\x94."), "pickle that torch.save did not write"),
    "truncated": (lambda p: p.write_bytes((GOLDEN / "official_exact_copy8.pth").read_bytes()[:9000]), "truncated"),
    "damaged safetensors": (lambda p: p.write_bytes(safetensors.torch.save(STATE)[:-9]), "corrupt safetensors"),
    "sparse safetensors": (lambda p: _sparse(p, 1 << 40), "more than 17,179,869,184"),
    "oversized safetensors": (lambda p: _sparse(p, 8 << 30), "corrupt safetensors"),
    "optimizer": (lambda p: torch.save(OPTIMIZER, p), "an optimizer's state, no weights"),
    "LoRA": (
        lambda p: torch.save({"base_model.model.block_all.0.fc_1.lora_A.weight": torch.zeros(2, 2)}, p),
        "LoRA adapters",
    ),
    "another model": (lambda p: torch.save({"conv1.weight": torch.zeros(2, 2)}, p), "conv1.weight is no weight of a"),
    "two models": (lambda p: torch.save({"generator": STATE, "ema": STATE | {}}, p), "`generator` and `ema`"),
    "two prefixes": (lambda p: torch.save(prefixed("net.") | prefixed("ema."), p), "under `ema.` and `net.`"),
    "a pickled model": (lambda p: torch.save(NotAWeight(), p), r"more than weights \(tests.*NotAWeight\)"),
    "NumPy scalar": (lambda p: torch.save({"model": STATE, "loss": np.float64(1)}, p), "more than weights"),
    "a number": (lambda p: torch.save(3, p), "no state dict"),
    "nested too deep": (lambda p: torch.save(_nested(40), p), "nested too deep"),
    "float8": (
        lambda p: torch.save({k: v.to(torch.float8_e4m3fn) for k, v in STATE.items() if k != "pre_block.pos"}, p),
        "16, 32 or 64 bits",
    ),
    "expanded": (
        lambda p: torch.save(STATE | {"pre_block.wte.weight": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}, p),
        "no dense floating-point tensor",
    ),
}


def _sparse(path, size):
    path.write_bytes(safetensors.torch.save(STATE))
    os.truncate(path, size)


def _nested(depth):
    value = {"model": STATE}
    for _ in range(depth):
        value = {"inner": value}
    return value


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_says_what_would_help(tmp_path, write, message):
    write(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_official(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "w.pth") in str(caught.value)


def test_pipes_and_devices_are_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match="pipe, socket or device"):
            read_official(type(tmp_path)(path))


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    value: dict[str, object] = {"epoch": 1}
    value["self"] = value
    torch.save(value, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"epoch, self are no weight"):
        read_official(tmp_path / "w")


@pytest.mark.parametrize(
    "wrap", [AveragedModel, torch.nn.DataParallel, lambda m: AveragedModel(torch.nn.DataParallel(m))]
)
def test_pytorchs_own_wrappers_are_taken_off(tmp_path, wrap):
    model = random_model()
    torch.save({"state_dict": wrap(model).state_dict()}, tmp_path / "w")
    found = read_official(tmp_path / "w")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.weights.items())
    assert found.weights.keys() == model.state_dict().keys()


@pytest.mark.parametrize("options", [{}, {"readout": "linear"}, {"attention": "softmax"}], ids=str)
def test_names_of_the_toolkit_are_known_too(tmp_path, options):
    model = random_model(**options)
    (tmp_path / "w").write_bytes(safetensors.torch.save(model.state_dict()))
    found = read_official(tmp_path / "w")
    assert found.model == model.config.architecture
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.weights.items())
