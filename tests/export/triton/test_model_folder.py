"""Model folders for Triton: the configuration as the server reads it, and model.py under a stand-in for its module."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from typing import Any

import numpy as np
import pytest

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import InputError
from causalrn.export.triton.triton_exporter import config_text
from causalrn.runtimes import open_session
from causalrn.serving.triton import SequenceRequest, SequenceSlots

MOST = 6


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("repository") / "copy"
    causalrn.export(runs["exact"], output=output, target="triton", max_batch=MOST)
    return output


@pytest.fixture
def lone(folder):
    with open_session(folder / "1" / "bundle") as session:
        yield session


class Tensor:
    def __init__(self, name, values):
        self._name, self._values = name, values

    def name(self):
        return self._name

    def as_numpy(self):
        return self._values


class Response:
    def __init__(self, output_tensors, error=None):
        self.values, self.error = {each.name(): each.as_numpy() for each in output_tensors}, error


@pytest.fixture
def model(folder, monkeypatch):
    """The class in model.py, as the server loads it, with a stand-in for the module that it brings."""
    server: Any = types.ModuleType("triton_python_backend_utils")
    server.Tensor, server.InferenceResponse, server.TritonError = Tensor, Response, str
    server.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    model = loaded.TritonPythonModel()
    config = {
        "parameters": {"threads": {"string_value": "1"}, "provider": {"string_value": "cpu"}},
        "sequence_batching": {"oldest": {"max_candidate_sequences": MOST}},
    }
    model.initialize({"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"})
    yield model
    model.finalize()


def request(correlation, tokens, *, start=False, end=False, ready=True):
    """As the server hands it over: a batch dimension of 1 in front."""
    controls = {"START": start, "END": end, "READY": ready}
    return {
        "TOKENS": np.array([tokens], np.int64),
        "CORRID": np.array([[correlation]], np.uint64),
        **{name: np.array([[value]], np.float32) for name, value in controls.items()},
    }


def test_interleaved_sequences_equal_lone_runs(model, lone) -> None:
    rng = np.random.default_rng(0)
    lengths = [[5, 1, 1, 7, 1], [1, 1, 1], [9, 1, 1, 1], [2, 3], [1]]
    parts = [[rng.integers(0, 29, length) for length in row] for row in lengths]
    got: list[list[np.ndarray]] = [[] for _ in parts]
    for turn in range(5):
        going = [number for number, row in enumerate(parts) if turn < len(row)]
        rng.shuffle(going)
        asked = [
            request(2**63 + number, parts[number][turn], start=turn == 0, end=turn == len(parts[number]) - 1)
            for number in going
        ]
        for number, response in zip(going, model.execute(asked), strict=True):
            assert response.error is None
            assert response.values["LOGITS"].shape == (1, len(parts[number][turn]), 29)
            assert response.values["NEXT_TOKEN"] == [[response.values["LOGITS"][0, -1].argmax()]]
            got[number].append(response.values["LOGITS"][0])
    assert len(model.sequences) == 0
    for row, answers in zip(parts, got, strict=True):
        lone.reset(1)
        for part, answer in zip(row, answers, strict=True):
            np.testing.assert_array_equal(answer, lone.prefill(part[None])[0], strict=True)


def test_one_request_that_cannot_run_is_no_others(model, lone) -> None:
    good, strange, bad, idle = model.execute(
        [
            request(1, [0, 3], start=True),
            request(2, [3]),
            request(3, [29], start=True),
            request(4, [3], start=True, ready=False),
        ]
    )
    np.testing.assert_array_equal(good.values["LOGITS"], lone.prefill([[0, 3]]))
    assert "sequence 2 is not open here: begin it again" in strange.error
    assert "outside the vocabulary" in bad.error
    assert not idle.values
    assert idle.error is None
    (late,) = model.execute([request(1, [3] * 39)])
    assert "exceed the capacity of 40" in late.error
    (after,) = model.execute([request(1, [4], end=True)])
    np.testing.assert_array_equal(after.values["LOGITS"][:, 0], lone.step([4]))


def test_sequence_that_begins_again_is_fresh(model) -> None:
    first, _, again = (model.execute([request(1, [0, 3], start=start)])[0] for start in (True, False, True))
    np.testing.assert_array_equal(first.values["LOGITS"], again.values["LOGITS"])
    assert len(model.sequences) == 1


def test_requests_of_one_sequence_in_one_call_run_in_order(model, lone) -> None:
    answers = model.execute([request(1, [0, 3], start=True), request(1, [4], end=True)])
    lone.prefill([[0, 3]])
    np.testing.assert_array_equal(answers[1].values["LOGITS"][:, 0], lone.step([4]))


def test_sequences_that_the_server_gave_up_do_not_pile_up(lone) -> None:
    slots = SequenceSlots(lone, most=3)
    token = np.array([3])
    for number in range(9):
        slots.answer([SequenceRequest(number, token, is_start=True, is_end=False)])
        if number:
            (answer,) = slots.answer([SequenceRequest(0, token, is_start=False, is_end=False)])
            assert isinstance(answer, np.ndarray)  # it is asked for all the time
    assert len(slots) == 3
    assert isinstance(slots.answer([SequenceRequest(1, token, is_start=False, is_end=False)])[0], InputError)
    slots.close()


def test_server_reads_the_configuration() -> None:
    """With the server's own protobuf."""
    config_pb2 = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="needs tritonclient: pip install 'tritonclient[grpc]'"
    )
    text_format = pytest.importorskip("google.protobuf.text_format", reason="comes with tritonclient")

    config = text_format.Parse(config_text(29, 6), config_pb2.ModelConfig())
    assert config.backend == "python"
    assert config.max_batch_size == 6
    assert [(each.name, list(each.dims)) for each in config.output] == [("LOGITS", [-1, 29]), ("NEXT_TOKEN", [1])]
    assert config.input[0].allow_ragged_batch
    assert config.sequence_batching.oldest.max_candidate_sequences == 6
    kinds = config_pb2.ModelSequenceBatching.Control.Kind
    controls = {each.name: kinds.Name(each.control[0].kind) for each in config.sequence_batching.control_input}
    assert controls == {
        "START": "CONTROL_SEQUENCE_START",
        "END": "CONTROL_SEQUENCE_END",
        "READY": "CONTROL_SEQUENCE_READY",
        "CORRID": "CONTROL_SEQUENCE_CORRID",
    }
    assert config.parameters["threads"].string_value == "1"


def test_folder_is_a_bundle_of_its_own(folder) -> None:
    bundle = Bundle.open(folder)
    assert set(bundle.manifest.files) >= {"config.pbtxt", "1/model.py", "1/bundle/manifest.json", "golden.safetensors"}
    assert causalrn.verify(folder, level=("logits", "split")).passed


def test_changed_weight_is_found(folder, tmp_path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    weights = tmp_path / "copy" / "1" / "bundle" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(causalrn.BundleError, match="content differs"):
        causalrn.open_session(tmp_path / "copy")


def test_schemes_are_refused(runs, tmp_path) -> None:
    with pytest.raises(InputError, match="`target` triton is float32: leave `scheme` out"):
        causalrn.export(runs["exact"], output=tmp_path / "out", target="triton", scheme="w8")
    assert not (tmp_path / "out").exists()
