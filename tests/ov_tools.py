"""Whether OpenVINO is here, for tests of its runtime."""

from __future__ import annotations

import importlib.util

import pytest

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino: pip install 'causalrn[openvino]'")
