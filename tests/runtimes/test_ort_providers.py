"""onnxruntime's providers, built in and from packages: no silent fall back, and the nodes that are left are named."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import onnxruntime
import pytest

from causalrn.errors import InputError, RuntimeUnavailableError
from causalrn.runtimes import open_session, ort_providers


def test_missing_provider_never_falls_back(exact_bundle):
    with pytest.raises(RuntimeUnavailableError, match="provider cuda is not in this onnxruntime"):
        open_session(exact_bundle, provider="cuda")
    with pytest.raises(InputError, match="provider 'abacus' is unknown"):
        open_session(exact_bundle, provider="abacus")


def test_provider_that_cannot_start_never_falls_back(exact_bundle, monkeypatch):
    """A build that has CUDA, on a machine without it: onnxruntime itself would only warn and use the CPU."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: available)
    with pytest.raises(RuntimeUnavailableError, match="provider cuda"):
        open_session(exact_bundle, provider="cuda")


def test_nodes_that_a_provider_leaves_are_named(exact_bundle, monkeypatch):
    """Azure's provider is in every wheel, and takes no operator of ours."""
    monkeypatch.setitem(ort_providers.PROVIDERS, "azure", "AzureExecutionProvider")
    with pytest.raises(RuntimeUnavailableError) as error:
        open_session(exact_bundle, provider="azure")
    message = str(error.value)
    assert "leaves" in message
    assert re.search(r"leaves (\d+) of \1 nodes to CPUExecutionProvider: .*\d+ MatMul", message)
    assert "node_embedding" in message


class _Plugin:
    """A package that adds a provider, as they look to us."""

    def __init__(self, monkeypatch, devices):
        self.registered: list[tuple[str, str]] = []
        self.added: list[object] = []
        monkeypatch.setattr(ort_providers, "plugin_packages", lambda: {"toy": "onnxruntime-ep-toy"})
        monkeypatch.setattr(ort_providers, "_registered", {})
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_toy", self)
        monkeypatch.setattr(
            "onnxruntime.register_execution_provider_library", lambda name, path: self.registered.append((name, path))
        )
        monkeypatch.setattr("onnxruntime.get_ep_devices", lambda: devices)

    def get_library_path(self):
        return "libtoy.so"

    def get_ep_name(self):
        return "ToyExecutionProvider"

    def add_session_config_entry(self, key, value):
        self.added.append((key, value))

    def add_provider_for_devices(self, devices, options):
        self.added.append(devices)


def test_providers_of_packages_are_registered_once_and_given_their_device(monkeypatch):
    device, other = SimpleNamespace(ep_name="ToyExecutionProvider"), SimpleNamespace(ep_name="CPUExecutionProvider")
    plugin = _Plugin(monkeypatch, [other, device])
    assert ort_providers.use_provider(plugin, "toy") is None
    assert ort_providers.use_provider(plugin, "toy") is None
    assert plugin.registered == [("onnxruntime-ep-toy", "libtoy.so")]
    assert plugin.added == 2 * [("session.disable_cpu_ep_fallback", "1"), [device]]


def test_package_without_a_device_is_refused(exact_bundle, monkeypatch):
    _Plugin(monkeypatch, [SimpleNamespace(ep_name="CPUExecutionProvider")])
    with pytest.raises(RuntimeUnavailableError, match="onnxruntime-ep-toy finds no device"):
        open_session(exact_bundle, provider="toy")


def test_package_that_cannot_be_registered_is_one_line(exact_bundle, monkeypatch):
    register = onnxruntime.register_execution_provider_library
    _Plugin(monkeypatch, [])
    monkeypatch.setattr("onnxruntime.register_execution_provider_library", register)  # there is no libtoy.so
    with pytest.raises(RuntimeUnavailableError, match="onnxruntime-ep-toy cannot be registered") as error:
        open_session(exact_bundle, provider="toy")
    assert "\n" not in str(error.value)


def test_missing_package_is_named(exact_bundle):
    with pytest.raises(RuntimeUnavailableError, match="or onnxruntime-ep-webgpu"):
        open_session(exact_bundle, provider="webgpu")
