"""onnxruntime's execution providers: those built in, those that packages add, and the nodes that one leaves to the CPU.

Packages called "onnxruntime-ep-NAME" hold a provider as a library of its own (onnxruntime 1.23 and newer): it is
registered when it is asked for by that name, and gives the devices that it can use here. `openvino` from such a package
and `openvino` in an onnxruntime that was built with it are the same choice; what is built in goes first.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import onnxruntime

from causalrn.errors import InputError, RuntimeUnavailableError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nv-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Names on our side, and onnxruntime's. Packages may add further ones."""
PLUGIN_PREFIX = "onnxruntime-ep-"
_NO_FALL_BACK = "session.disable_cpu_ep_fallback"
_RECORDED = "session.record_ep_graph_assignment_info"
_SHOWN_NODES = 3
_registered: dict[str, list[str]] = {}
"""Names of the providers of each package whose library this process has registered."""


def plugin_packages() -> dict[str, str]:
    """Installed packages with a provider, by its name on our side: {"openvino": "onnxruntime-ep-openvino"}."""
    names = (re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower() for one in importlib.metadata.distributions())
    return {name.removeprefix(PLUGIN_PREFIX): name for name in sorted(names) if name.startswith(PLUGIN_PREFIX)}


def use_provider(options: Any, provider: str) -> list[str] | None:
    """Set a session's options up for a provider, without a silent fall back to the CPU.

    Args:
        options: onnxruntime.SessionOptions, changed in place.
        provider: a key of :data:`PROVIDERS`, or the name of an installed package behind "onnxruntime-ep-".

    Returns:
        What the session takes as `providers`; None where the options say it.

    Raises:
        InputError: no such provider is known.
        RuntimeUnavailableError: it is neither built in nor installed, or has no device here.
    """
    if provider != "cpu":
        options.add_session_config_entry(_NO_FALL_BACK, "1")
    built_in = PROVIDERS.get(provider)
    available = onnxruntime.get_available_providers()
    if built_in is not None and built_in in available:
        return [built_in]
    packages = plugin_packages()
    if provider not in packages:
        raise _unavailable(provider, available, packages)
    options.add_provider_for_devices(_plugin_devices(provider, packages[provider]), {})
    return None


def _unavailable(provider: str, available: list[str], packages: dict[str, str]) -> Exception:
    if provider not in PROVIDERS:
        known = dict.fromkeys([*PROVIDERS, *packages])
        return InputError(f"provider {provider!r} is unknown: choose one of {', '.join(known)}")
    here = [key for key, value in PROVIDERS.items() if value in available] + list(packages)
    return RuntimeUnavailableError(
        f"provider {provider} is not in this onnxruntime ({onnxruntime.__version__}): "
        f"it has {', '.join(here)}; install the onnxruntime package for {provider}, or {PLUGIN_PREFIX}{provider}"
    )


def _plugin_devices(provider: str, package: str) -> list[Any]:
    """The devices of a package's provider, the first kind that it offers; its library is registered once."""
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise RuntimeUnavailableError(
            f"onnxruntime {onnxruntime.__version__} takes no provider from {package}: upgrade "
            "onnxruntime to 1.23 or newer"
        )
    if package not in _registered:
        module = importlib.import_module(package.replace("-", "_"))
        try:
            onnxruntime.register_execution_provider_library(package, module.get_library_path())
        except Exception as error:  # onnxruntime's own classes and the package's, by version
            reason = " ".join(str(error).split())[:160]
            raise RuntimeUnavailableError(
                f"{package} cannot be registered with onnxruntime {onnxruntime.__version__} ({reason}): "
                "check its driver and libraries, or use `provider` cpu"
            ) from None
        _registered[package] = _provider_names(module)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name in _registered[package]]
    if not devices:
        raise RuntimeUnavailableError(
            f"provider {provider}: {package} finds no device here that it can use: check its driver, or use "
            "`provider` cpu"
        )
    return devices[:1]


def _provider_names(module: Any) -> list[str]:
    return list(module.get_ep_names()) if hasattr(module, "get_ep_names") else [module.get_ep_name()]


def describe_fall_back(source: Any, provider: str, options: Callable[[], Any]) -> str:
    """Which nodes of a graph a provider leaves to others: what a refusal to fall back does not say.

    Args:
        source: path or content of a graph that does not load without a fall back.
        provider: as in :func:`use_provider`.
        options: makes session options afresh.

    Returns:
        "leaves 3 of 158 nodes to others: CPUExecutionProvider 2 Gather (node_embedding, ...), ..."; empty where
        this onnxruntime does not tell.
    """
    changed = options()
    providers = use_provider(changed, provider)
    changed.add_session_config_entry(_NO_FALL_BACK, "0")
    changed.add_session_config_entry(_RECORDED, "1")
    try:
        session = onnxruntime.InferenceSession(source, changed, providers=providers)
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # what fails with a fall back, too, is told by the first error
        return ""
    nodes = [(part.ep_name, node) for part in parts for node in part.get_nodes()]
    own = {PROVIDERS.get(provider), *_registered.get(f"{PLUGIN_PREFIX}{provider}", [])}
    left = [(name, node) for name, node in nodes if name not in own]
    counts = Counter((name, node.op_type) for name, node in left)
    kinds = ", ".join(f"{count} {kind}" for (_, kind), count in counts.most_common())
    named = ", ".join(node.name for _, node in left[:_SHOWN_NODES])
    more = ", ..." if len(left) > _SHOWN_NODES else ""
    others = " and ".join(sorted({name for name, _ in left}))
    return f"leaves {len(left)} of {len(nodes)} nodes to {others}: {kinds} ({named}{more})" if left else ""
