"""`predict` as a function: devices, depths, a typed result."""

import json

import pytest

from causalrn.bundle.json_values import json_text, to_json
from causalrn.errors import InputError
from causalrn.runtimes.bench import measuring
from causalrn.runtimes.bench.devices import DEVICES
from causalrn.workflows.predict import predict
from tests.workflows.test_bench import Steps

DEVICE = DEVICES["raspberry-pi-5"]


def test_models_are_predicted_and_nothing_is_printed(runs, bundles, tmp_path, capfd):
    found = predict([runs["exact"], str(bundles["linear"])], depth=8, device="raspberry-pi-5")
    assert found.machine == DEVICE
    exact, linear = found.models
    assert exact.capacity == 40
    assert list(exact.predictions[0].native_us) == [8]
    assert [exact.held.holds(exact.predictions[0], where) for where in ("C", "onnxruntime")] == [True, True]
    assert [linear.held.holds(linear.predictions[0], where) for where in ("C", "onnxruntime")] == [False, True]
    assert not exact.held.holds(exact.predictions[1], "C")
    path = found.save_json(tmp_path / "p.json")
    data = json.loads(path.read_text())
    assert data == json.loads(json_text(found.to_json()))
    entry = data["models"][0]["predictions"][0]
    assert (entry["readout"], entry["scheme"], entry["pool_dtype"]) == ("exact", "float32", "float32")
    assert data["machine"] == to_json(DEVICE)
    assert capfd.readouterr() == ("", "")


def test_depths_are_what_the_model_has(runs):
    (model,) = predict(runs["exact"], device=DEVICE).models
    assert list(model.predictions[0].native_us) == [16]
    (model,) = predict(runs["exact"], device=DEVICE, depth=(9, 3, 9)).models
    assert list(model.predictions[0].native_us) == [3, 9]


def test_device_is_a_file_too(runs, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json_text(to_json(DEVICE)))
    assert predict(runs["exact"], device=path).machine == DEVICE


def test_without_a_device_this_machine_is_measured(runs, monkeypatch):
    monkeypatch.setattr(measuring, "measure_machine", lambda: DEVICE)
    steps = Steps()
    assert predict(runs["exact"], progress=steps).machine == DEVICE
    assert (steps.done, steps.ended) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"device": "abacus"}, "abacus: neither a file nor a device"),
        ({"device": 5}, "`device` is 5: it must be a path"),
        ({"device": DEVICE, "depth": 50}, "`depth` 50 is beyond the model's 40 positions"),
        ({"device": DEVICE, "depth": "8"}, "`depth` is '8'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(runs, arguments, text):
    with pytest.raises(InputError, match=text):
        predict(runs["exact"], **arguments)
