"""The portable forms as TensorRT-RTX reads them; parsing needs no GPU."""

from __future__ import annotations

import pytest

from causalrn.calibration.schemes import write_quantized
from causalrn.manifest import Bundle
from tests.calibration.test_schemes import scheme_for

trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'causalrn[tensorrt-rtx]'")


FORMS = ("w8-qdq", "w4-qdq", "w8a8", "fp16")
CASES = [*((name, readout) for name in FORMS for readout in ("exact", "linear")), ("w8-qdq-pool8", "exact")]


@pytest.mark.parametrize(
    ("name", "readout"),
    [(name, readout) for name in FORMS for readout in ("exact", "linear")] + [("w8-qdq-pool8", "exact")],
)
def test_parser_accepts_portable_forms(name, readout, bundles, tmp_path):
    source = Bundle.open(bundles[readout])
    bundle = write_quantized(source, tmp_path, scheme_for(source, name))
    logger = trt.Logger(trt.Logger.ERROR)
    for graph in bundle.manifest.graphs.values():
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse_from_file(str(bundle.path / graph.file))
        assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
