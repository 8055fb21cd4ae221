"""Which sizes engines are compiled for."""

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.engine_spec import EngineSpec, Profile
from causalrn.bundle.json_values import from_json, to_json
from causalrn.errors import CompileError, ConfigError
from causalrn.export.trt.profiles import Sizes, choose_profiles, compiled_state

SHA = "0" * 64


def spec_of(profiles):
    return EngineSpec("rtx", "1.7", SHA, dict.fromkeys(profiles, SHA), profiles)


def test_fixed_pool_has_a_step_per_capacity_for_one_sequence_and_for_several(fixed_bundle):
    profiles = choose_profiles(Bundle.open(fixed_bundle), Sizes(capacities=(16, 8, 16), max_batch=4))
    assert [(p.batch, p.time, p.rows) for p in profiles["step"]] == [
        (batch, (1, 1, 1), (rows,) * 3) for rows in (8, 16, 40) for batch in ((1, 1, 1), (2, 4, 4))
    ]
    assert [(p.batch, p.time, p.rows) for p in profiles["prefill"]] == [
        ((1, 1, 4), (1, 16, 16), (rows,) * 3) for rows in (8, 16, 40)
    ]


def test_growing_pool_is_handed_its_zero_slot_by_steps_only(exact_bundle):
    profiles = choose_profiles(Bundle.open(exact_bundle), Sizes(growing=((1, 8, 16), (17, 32, 40)), max_batch=1))
    assert [p.rows for p in profiles["step"]] == [(1, 8, 16), (17, 32, 40)]
    assert [p.rows for p in profiles["prefill"]] == [(0, 7, 15), (16, 31, 39)]


def test_chunk_is_no_longer_than_the_capacity(exact_bundle, fixed_bundle):
    for path, sizes in ((fixed_bundle, Sizes()), (exact_bundle, Sizes(growing=((1, 20, 40),)))):
        chunks = {chunk: dataclasses.replace(sizes, prefill_chunk=chunk) for chunk in (None, 7, 1000)}
        for chunk, largest in ((None, 16), (7, 7), (1000, 40)):
            assert choose_profiles(Bundle.open(path), chunks[chunk])["prefill"][0].time == (1, largest, largest)


def test_every_call_of_a_growing_session_has_a_profile(exact_bundle):
    profiles = choose_profiles(Bundle.open(exact_bundle), Sizes(growing=((1, 8, 16), (17, 32, 40)), max_batch=3))
    spec = spec_of(profiles)
    for position in range(40):
        for batch in (1, 2, 3):
            assert spec.choose("step", batch=batch, time=1, rows=position + 1, exact=True) is not None
            assert spec.choose("prefill", batch=batch, time=7, rows=position, exact=True) is not None
    assert spec.choose("step", batch=1, time=1, rows=41, exact=True) is None
    assert spec.choose("step", batch=4, time=1, rows=1, exact=True) is None


def test_constant_state_needs_no_rows(bundles):
    profiles = choose_profiles(Bundle.open(bundles["linear"]), Sizes())
    assert [p.rows for p in (*profiles["step"], *profiles["prefill"])] == [(0, 0, 0)] * 3


def test_smallest_capacity_that_suffices_is_chosen(fixed_bundle):
    spec = spec_of(choose_profiles(Bundle.open(fixed_bundle), Sizes(capacities=(8, 16))))
    found = [spec.choose("step", batch=1, time=1, rows=rows, exact=False) for rows in (1, 8, 9, 16, 17, 40)]
    assert [entry[1] for entry in found] == [8, 8, 16, 16, 40, 40]
    single, several = (spec.choose("step", batch=b, time=1, rows=1, exact=False)[0] for b in (1, 2))
    assert spec.profiles["step"][single].batch == (1, 1, 1)
    assert spec.profiles["step"][several].batch == (2, 16, 16)


def test_capacity_of_a_growing_pool_ends_with_its_profiles(exact_bundle):
    assert compiled_state(Bundle.open(exact_bundle), Sizes(growing=((1, 8, 20),))).tensors[0].capacity == 20


@pytest.mark.parametrize(
    ("kind", "sizes", "words"),
    [
        ("exact", Sizes(), "needs `profile`, MIN/OPT/MAX rows that steps read, e.g. 1/20/40"),
        ("exact", Sizes(growing=((2, 8, 40),)), "begins at 2 instead of 1"),
        ("exact", Sizes(growing=((1, 8, 16), (18, 20, 40))), "begins at 18 instead of 17"),
        ("exact", Sizes(growing=((1, 50, 40),)), "ascending order"),
        ("exact", Sizes(growing=((1, 8, 41),)), "the model has 40 positions"),
        ("exact", Sizes(capacities=(8,)), "`capacity` is for pools that are fixed, and it has a pool that is growing"),
        ("linear", Sizes(growing=((1, 8, 40),)), "`profile` .* it has a state of constant size and no pool: leave"),
        ("linear", Sizes(capacities=(8,)), "`capacity` .* it has a state of constant size"),
        ("fixed", Sizes(growing=((1, 8, 40),)), "`profile` is for pools that are growing"),
        ("fixed", Sizes(capacities=(41,)), "holds 40 rows"),
    ],
)
def test_sizes_that_contradict_the_state(kind, sizes, words, bundles, fixed_bundle):
    bundle = Bundle.open(fixed_bundle if kind == "fixed" else bundles[kind])
    with pytest.raises(CompileError, match=words):
        choose_profiles(bundle, sizes)


@pytest.mark.parametrize(
    "sizes",
    [{"batch": (0, 1, 1)}, {"batch": (2, 1, 3)}, {"time": (1, 2)}, {"rows": (-1, 0, 0)}, {"rows": (1, 2.0, 3)}],
)
def test_profile_that_cannot_be(sizes):
    with pytest.raises(ValueError, match="a profile's"):
        Profile(**{"batch": (1, 1, 1), "time": (1, 1, 1), "rows": (0, 0, 0), **sizes})


def test_engine_entry_survives_json():
    profiles = {
        "step": (Profile((1, 1, 1), (1, 1, 1), (4, 4, 4)),),
        "prefill": (Profile((1, 1, 2), (1, 8, 8), (4, 4, 4)),),
    }
    spec = EngineSpec("trt", "11.1", SHA, dict.fromkeys(profiles, SHA), profiles, True, ("8.9",), {"workspace_mib": 64})
    assert from_json(to_json(spec), EngineSpec, "") == spec
    assert spec.max_batch == 1
    assert spec.describe() == "TensorRT 11.1, TF32, compute capability 8.9"


WRONG = [{"flavor": "openvino"}, {"version": 3}, {"tf32": 1}, {"onnx_sha256": {}}, {"profiles": {"step": []}}]
WRONG += [{"options": 5}, {"options": None}, {"compute_capabilities": "8.6"}, {"compute_capabilities": [8.6]}]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_malformed_engine_entry(change):
    profiles = {"step": (Profile((1, 1, 1), (1, 1, 1), (4, 4, 4)),)}
    entry = EngineSpec("rtx", "1.7", SHA, {"step": SHA}, profiles)
    with pytest.raises(ConfigError, match="here"):
        from_json({**to_json(entry), **change}, EngineSpec, "here")


@pytest.mark.parametrize(
    ("kind", "profiles", "words"),
    [
        ("fixed", {"step": [(1, 1, 1), (1, 1, 1), (41, 41, 41)]}, "41 rows, and a pool of 40"),
        ("fixed", {"step": [(1, 1, 1), (1, 2, 2), (8, 8, 8)]}, "a step's profile for several tokens"),
        ("linear", {"step": [(1, 1, 1), (1, 1, 1), (8, 8, 8)]}, "a pool that there is not"),
        ("fixed", {"steps": [(1, 1, 1), (1, 1, 1), (8, 8, 8)]}, "profiles of other graphs"),
    ],
)
def test_profiles_that_belong_to_another_state(kind, profiles, words, bundles, fixed_bundle):
    state = Bundle.open(fixed_bundle if kind == "fixed" else bundles[kind]).manifest.state
    spec = spec_of({name: (Profile(*sizes),) for name, sizes in profiles.items()})
    with pytest.raises(ValueError, match=words):
        spec.check_fits(state, ["step"])


@pytest.mark.parametrize("rows", [1, 2, 9, 40])
def test_fixed_graphs_take_a_pool_cut_to_what_is_needed(fixed_bundle, rows):
    import onnxruntime

    path = Bundle.open(fixed_bundle).file("step.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pools = {f"past.0{block}.pool": np.zeros((rows, 2, 32), np.float32) for block in range(2)}
    logits = session.run(["logits"], {"tokens": np.ones((2, 1), np.int64), "position": np.array(0), **pools})[0]
    whole = {name: np.zeros((40, 2, 32), np.float32) for name in pools}
    expected = session.run(["logits"], {"tokens": np.ones((2, 1), np.int64), "position": np.array(0), **whole})[0]
    np.testing.assert_allclose(logits, expected, atol=1e-6)
