"""Constants of machines: curves, floors, files, named devices."""

import dataclasses
import json

import pytest

from causalrn.bundle.json_values import from_json, to_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.cost import FLOAT, INTEGER, WIDENED, Call, StepCost
from causalrn.runtimes.bench.devices import DEVICES, find_device
from causalrn.runtimes.bench.machine import Machine, OrtRates, rate_at

RATES = OrtRates(4e-6, 8e-7, 2e-7, ((5e6, 9e10),), ((3e3, 1e9), (1e6, 2e9)))
MACHINE = Machine(
    name="test",
    source="made up",
    bytes_per_s=((1e6, 100e9), (100e6, 20e9)),
    exps_per_s=10e9,
    products_per_s=50e9,
    int8_products_per_s=25e9,
    memory_bytes=1 << 30,
    onnxruntime=RATES,
)


def test_rates_between_points_follow_the_logarithm():
    curve = MACHINE.bytes_per_s
    assert rate_at(curve, 1) == 100e9
    assert rate_at(curve, 1e6) == 100e9
    assert rate_at(curve, 1e7) == pytest.approx(60e9)
    assert rate_at(curve, 1e12) == 20e9


def test_floor_lets_go_on_at_once_what_can():
    cost = StepCost(400_000, 100_000, multiplies=FLOAT, exps=0, row_bytes=0, row_exps=0, row_products=0)
    assert MACHINE.parts_s(cost, Call(1, 0)).floor == pytest.approx(400_000 / 100e9)
    batched = MACHINE.parts_s(cost, Call(1, 0, batch=100))
    assert batched.floor == pytest.approx(100 * 100_000 / 50e9), "weights are read once, products are not"
    widened = dataclasses.replace(cost, multiplies=WIDENED, weight_bytes=100_000)
    assert MACHINE.parts_s(widened, Call(1, 0)).floor == pytest.approx(100_000 / 25e9)
    whole = dataclasses.replace(widened, multiplies=INTEGER)
    assert MACHINE.parts_s(whole, Call(1, 0)).floor == pytest.approx(100_000 / 100e9), "its rate is not known"
    pooled = dataclasses.replace(cost, row_bytes=400, row_exps=100)
    parts = MACHINE.parts_s(pooled, Call(1, 999))
    assert parts.row_exps == pytest.approx(1000 * 100 / 10e9)
    assert parts.floor == pytest.approx(parts.weights + max(parts.rows, parts.row_exps))
    assert parts.expected == pytest.approx(parts.weights + parts.rows + parts.row_exps)


def test_merged_keeps_the_better_rates():
    slow = dataclasses.replace(MACHINE, exps_per_s=5e9, bytes_per_s=((1e6, 90e9), (5e6, 50e9)))
    merged = MACHINE.merged(slow)
    assert merged.exps_per_s == 10e9
    assert merged.bytes_per_s == ((1e6, 100e9), (5e6, 50e9), (100e6, 20e9))


@pytest.mark.parametrize("key", [None, "machine"], ids=["alone", "in a report of doctor"])
def test_file_is_read_back(tmp_path, key):
    path = tmp_path / "device.json"
    data = to_json(MACHINE)
    path.write_text(json.dumps(data if key is None else {key: data}))
    assert find_device(str(path)) == MACHINE


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"report": "other"}, "no machine of this version"),
        ({"version": 2}, "no machine of this version"),
        ({"exps_per_s": 0}, "exps_per_s: expected float >= 1e-12"),
        ({"exps_per_s": True}, "exps_per_s: expected float, got bool"),
        ({"exps_per_s": None}, "exps_per_s: expected float, got null"),
        ({"exps_per_s": 10**400}, "exps_per_s: Number out of range"),
        ({"exps_per_s": 1e-300}, "exps_per_s: expected float >= 1e-12"),
        ({"exps_per_s": float("nan")}, "exps_per_s: expected float"),
        ({"memory_bytes": "8"}, "memory_bytes: expected int.*got str"),
        ({"threads": 1.5}, "threads: expected int, got float"),
        ({"bytes_per_s": [[1, 10**400]]}, r"bytes_per_s\[0\]\[1\]: Number out of range"),
        ({"name": "two\nlines"}, "a text that is no single line"),
        ({"memory_bytes": -1}, "memory_bytes: expected int >= 1"),
        ({"products_per_s": float("inf")}, "products_per_s: expected float <= 1e"),
        ({"bytes_per_s": []}, "a curve without points"),
        ({"bytes_per_s": [[2, 1], [1, 1]]}, "ascending"),
        ({"bytes_per_s": [[1, -1]]}, r"bytes_per_s\[0\]\[1\]: expected float >= 1e-12"),
        ({"bytes_per_s": 3}, "bytes_per_s: expected array, got int"),
        ({"onnxruntime": {}}, "onnxruntime: the entry call_s is missing"),
        (
            {"onnxruntime": {**to_json(RATES), "pairs_per_s": []}},
            "a curve without points in ascending",
        ),
        ({"name": 3}, "name: expected str, got int"),
    ],
    ids=str,
)
def test_malformed_machine_is_refused(tmp_path, change, match):
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**to_json(MACHINE), **change}))
    with pytest.raises(InputError, match=match):
        Machine.load(path)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"abacus: neither a file nor a device: choose one of raspberry-pi-4"):
        find_device("abacus")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for content in ("5", "[1]", '{"machine": 5}', '{"machine": null}'):
        broken.write_text(content)
        with pytest.raises(InputError):
            find_device(str(broken))
    broken.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        find_device(str(broken))
    with pytest.raises(InputError, match="a folder, not a file"):
        find_device(str(tmp_path))


@pytest.mark.parametrize("name", DEVICES)
def test_named_devices_are_whole(name):
    device = find_device(name)
    assert from_json(to_json(device), Machine, name) == device
    assert device.source.startswith("data sheet")
    assert device.int8_products_per_s < device.products_per_s
