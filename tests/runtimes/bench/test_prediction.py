"""Predictions: monotone where they should be, memory counted, advice that follows from the numbers."""

import dataclasses

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.graph_files import load_graph
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.runtimes.bench.devices import DEVICES
from causalrn.runtimes.bench.prediction import ORT_NODES_PER_BLOCK, Variant, advise, predict_all
from tests.runtimes.bench.test_machine import MACHINE

CONFIG = CausalRNConfig(29, 192, 192, 12, 4224, readout="exact")
DEPTHS = (16, 128, 1024, 4096)


def by_name(config=CONFIG, machine=MACHINE):
    return {prediction.variant.name: prediction for prediction in predict_all(config, machine, DEPTHS)}


def test_all_variants_of_both_readouts():
    assert list(by_name()) == [
        "exact",
        "exact, pool16",
        "exact, pool8",
        "exact, w8",
        "exact, w8, pool16",
        "exact, w8, pool8",
        "linear",
        "linear, w8",
    ]
    assert next(iter(by_name(dataclasses.replace(CONFIG, readout="linear", head_scale="")))) == "linear"
    assert list(by_name(dataclasses.replace(CONFIG, activation="relu", head_scale=""))) == [
        "exact",
        "exact, pool16",
        "exact, pool8",
        "exact, w8",
        "exact, w8, pool16",
        "exact, w8, pool8",
    ]
    assert "transformer" in by_name(TransformerConfig(29, 192, 768, 3, 4224, heads=6))


def test_exact_grows_linear_does_not_and_w8_is_never_slower():
    found = by_name()
    for prediction in found.values():
        times = list(prediction.native_us.values())
        assert times == sorted(times)
        assert (times[0] == times[-1]) == (prediction.variant.readout == "linear")
    for name in ("exact", "linear"):
        assert all(found[f"{name}, w8"].native_us[depth] < found[name].native_us[depth] for depth in DEPTHS)
    assert found["exact"].onnxruntime_us[4096] > found["exact"].onnxruntime_us[16]
    assert found["exact, w8"].onnxruntime_us is None
    assert found["exact, pool8"].native_us == found["exact"].native_us, "unpacking takes what reading less saves"
    half, plain = (
        by_name(machine=dataclasses.replace(MACHINE, isa=isa))["exact, pool16"] for isa in ("avx2", "portable")
    )
    assert half.bytes_per_token == found["exact"].bytes_per_token / 2
    assert half.native_us[4096] < found["exact"].native_us[4096] == plain.native_us[4096]
    assert by_name(dataclasses.replace(CONFIG, heads=2))["exact"].onnxruntime_us is None, "not what was measured for"
    assert by_name(machine=dataclasses.replace(MACHINE, onnxruntime=None))["exact"].onnxruntime_us is None


def test_what_fits_is_what_is_left_over_a_row():
    exact, small = by_name()["exact"], by_name()["exact, pool8"]
    weights = 4 * (1332672 + (29 + 4224) * 192)
    assert exact.weights_bytes == weights
    assert exact.longest == (MACHINE.memory_bytes - weights) // 9216
    assert 3.9 < small.longest / exact.longest < 4
    assert by_name()["linear"].longest is None
    w8 = by_name()["exact, w8"]
    assert w8.weights_bytes == 1332672 + 4 * (29 + 4224) * 192, "tables of embeddings stay float32"
    tiny = dataclasses.replace(MACHINE, memory_bytes=weights + 9216 * 5)
    assert by_name(machine=tiny)["exact"].longest == 5
    assert not by_name(machine=dataclasses.replace(MACHINE, memory_bytes=weights))["exact"].fits
    flash = dataclasses.replace(MACHINE, memory_bytes=9216 * 7, flash_bytes=weights)
    assert by_name(machine=flash)["exact"].longest == 7
    assert not by_name(machine=dataclasses.replace(flash, flash_bytes=weights - 1))["exact"].fits


def test_advice_names_numbers():
    advice = "\n".join(advise(predict_all(CONFIG, MACHINE, DEPTHS), MACHINE, 4224))
    assert "times what linear costs at depth 4,096" in advice
    assert "weights: w8" in advice
    assert "all 4,224 positions of the model fit" in advice
    tight = dataclasses.replace(MACHINE, memory_bytes=10_000_000)
    assert "pool: pool8" in "\n".join(advise(predict_all(CONFIG, tight, DEPTHS), tight, 4224))
    roomy = dataclasses.replace(MACHINE, memory_bytes=30_000_000)
    assert "pool: pool16" in "\n".join(advise(predict_all(CONFIG, roomy, DEPTHS), roomy, 4224))
    narrow = dataclasses.replace(MACHINE, memory_bytes=5_000_000)
    assert "weights: w8, for float32 does not fit" in list(advise(predict_all(CONFIG, narrow, DEPTHS), narrow, 4224))
    endless = dataclasses.replace(CONFIG, capacity=None, positions="none")
    assert "pool: float32, unless" in "\n".join(advise(predict_all(endless, MACHINE, DEPTHS), MACHINE, None))
    full = DEVICES["stm32h743"]
    assert list(advise(predict_all(CONFIG, full, DEPTHS), full, 4224)) == [
        "nothing fits into the memory of stm32h743: use a smaller model"
    ]


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_nodes_of_a_block_are_those_of_the_exporter(bundles, readout):
    bundle = Bundle.open(bundles[readout])
    graph = load_graph(bundle, bundle.manifest.graphs[bundle.manifest.graph_for(1, 1)].file).graph
    places = [i for i, node in enumerate(graph.node) if set(node.output) & set(bundle.manifest.streams)]
    assert places[2] - places[1] == ORT_NODES_PER_BLOCK


def test_names_of_variants():
    assert Variant("exact", "w8", "int8").name == "exact, w8, pool8"
    assert Variant("linear").name == "linear"


def test_advice_counts_no_more_tokens_than_positions():
    """Memory for 3,000 rows of float32, and of narrow pools for more than the model has positions."""
    weights = by_name()["exact"].weights_bytes
    machine = dataclasses.replace(MACHINE, memory_bytes=weights + 3000 * 9216)
    (pool,) = [words for words in advise(predict_all(CONFIG, machine, DEPTHS), machine, 4224) if "pool:" in words]
    assert pool == "pool: pool16; 4,224 tokens fit with pool16, 4,224 with pool8, instead of 3,000, of 4,224 positions"
