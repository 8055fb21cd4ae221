"""Weights of the paper's own code: read, understood, or refused with the reason."""

import pytest
import torch

from causalrn.errors import CheckpointError, ConfigError
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.official import build_official, infer_config, read_official, rename_official
from tests.builders import EPS_CASES, GOLDEN, GOLDEN_CASES, golden_case


@pytest.fixture
def official():
    return torch.load(GOLDEN / "official_exact_copy8.pth", weights_only=True)


def _saved(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_shapes_tell_the_sizes(official):
    config = infer_config(rename_official(official, "w"), readout="exact")
    assert isinstance(config, CausalRNConfig)
    assert (config.vocabulary, config.embedding, config.hidden, config.blocks, config.capacity) == (29, 64, 64, 4, 18)
    assert (config.bias_1, config.bias_2, config.bias_3, config.bias_head) == (True, False, True, False)


def test_prefix_of_torch_compile_makes_no_difference(tmp_path, official):
    plain = read_official(_saved(tmp_path, official)).weights
    compiled = read_official(_saved(tmp_path, {f"_orig_mod.{key}": value for key, value in official.items()})).weights
    assert plain.keys() == compiled.keys()
    assert all(torch.equal(plain[key], compiled[key]) for key in plain)


def test_buffers_are_left_out(official):
    assert "pre_block.pos" in official
    assert not any("pos" in name for name in rename_official(official, "w").weights)


def test_safetensors_are_read_too(tmp_path, official):
    import safetensors.torch

    safetensors.torch.save_file({k: v.contiguous() for k, v in official.items()}, tmp_path / "w.safetensors")
    assert read_official(tmp_path / "w.safetensors").weights.keys() == rename_official(official, "w").weights.keys()


@pytest.mark.parametrize(
    ("name", "attention", "sizes"),
    [("transformer", "softmax", (32, 128, 3)), ("linear_transformer", "linear", (32, 128, 3))],
)
def test_baselines_are_told_by_their_keys(name, attention, sizes):
    config = golden_case(name)[0].config
    assert isinstance(config, TransformerConfig)
    assert config.attention == attention
    assert (config.embedding, config.hidden, config.blocks) == sizes


@pytest.mark.parametrize("name", [*GOLDEN_CASES, *EPS_CASES])
def test_every_golden_model_converts(name):
    model, _, expected = golden_case(name)
    assert model.config.vocabulary == expected.shape[-1]


def test_hidden_wider_than_embedding_is_read_from_shapes():
    model, _, _ = golden_case("exact_wide_hidden")
    assert (model.config.embedding, model.config.hidden) == (24, 96)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.update({"block_all.99999999.fc_2.weight": torch.zeros(2, 2)}), "not numbered 0 to 4"),
        (lambda s: s.update({"_orig_mod.pre_block.wte.weight": torch.zeros(29, 64)}), "twice"),
        (lambda s: s.pop("block_all.2.fc_1.weight"), r"lacks blocks\.2\.fc_1\.weight"),
        (lambda s: s.pop("post_block.fc_cls.weight"), r"no matrix head\.weight"),
        (lambda s: s.update({"block_all.0.attn.fc_1.weight": torch.zeros(2, 2)}), "mixes a CausalRN's weights"),
        (lambda s: s.clear(), "no blocks in it"),
        (lambda s: s.update({"block_all.0.attn.fc_3.weight": torch.zeros(2, 2)}), "attn.fc_3.weight is no weight"),
        (lambda s: s.update({"extra": torch.zeros(2)}), "extra is no weight"),
        (lambda s: s.update({"block_all.1.fc_2.weight": torch.zeros(3, 64)}), r"\[3, 64\], the configuration needs"),
        (lambda s: s["block_all.1.fc_2.weight"].fill_(torch.nan), "not finite"),
        (lambda s: s.update({"block_all.1.fc_2.weight": "text"}), "no dense floating-point tensor"),
    ],
)
def test_what_does_not_fit_is_named(official, spoil, message):
    spoil(official)
    with pytest.raises(CheckpointError, match=message):
        build_official(rename_official(official, "w.pth"), readout="exact")


def test_heads_that_do_not_divide_are_refused(official):
    with pytest.raises(ConfigError, match="heads 7 does not divide hidden 64"):
        build_official(rename_official(official, "w"), readout="exact", heads=7)


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04broken"])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_official(tmp_path / "w.pth")


def test_truncated_file_is_refused(tmp_path):
    content = (GOLDEN / "official_exact_copy8.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_official(tmp_path / "w.pth")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    with pytest.raises(CheckpointError, match="holds more than weights"):
        read_official(_saved(tmp_path, {"a": Evil()}))


def test_a_whole_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no state dict"):
        read_official(_saved(tmp_path, [torch.zeros(2)]))
