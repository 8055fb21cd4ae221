"""The engines of a web bundle, with SIMD and without, and what its module and its own check promise."""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.web_spec import C_ENGINE, WebSpec
from causalrn.compiling.programs import Outcome, execute
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.runtimes.kernel_list import Kernel, KernelList, Program
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.web.node_process import node_command
from causalrn.runtimes.web.node_session import MODULE_FILES, NodeSession
from causalrn.training.card import card_of

_GENERATION = ("generation.js", "sampling.js")
_CHECK = ("verify.mjs", "parity.js", "golden.js", "safetensors.js")
_ENGINES = {"simd": "with SIMD", "plain": "without SIMD"}
_ENGINE_NAME = "WebAssembly SIMD"
_CAN_FAIL = ("logits", "distribution", "most likely token", "state", "recorded")
"""Checks of verify.mjs that golden vectors decide: with wrong ones, each of them has to fail."""
_TIMEOUT_S = 300.0
_TOKENS, _TEXT = 24, "abc"


def list_modules(bundle: Bundle, options: SessionOptions) -> KernelList:
    """What a web bundle computes with in Node; its page is for browsers."""
    web = bundle.manifest.web
    assert web is not None
    checks = Program("verify.mjs", partial(_check_verification, bundle), _present(bundle, _CHECK))
    module = Program("causalrn.js", partial(_check_module, bundle), _present(bundle, (*MODULE_FILES, *_GENERATION)))
    missing = ["the page (index.html, page.js and what they load): it runs in a browser"]
    if web.engine != C_ENGINE:
        return KernelList([_ort_kernel(bundle, web)], programs=(module, checks), missing=tuple(missing))
    with NodeSession(bundle) as session:
        roles = ["simd", "plain"] if session.engine == _ENGINE_NAME else ["plain"]
    if "simd" not in roles:
        missing.append("the engine with SIMD: this Node does not take it")
    shared = _present(bundle, (*MODULE_FILES, "wasm_engine.js", "wasm_memory.js", WEIGHTS_FILE))
    kernels = [
        Kernel(
            _ENGINES[role],
            partial(_open, bundle, role == "simd"),
            (web.modules[role], *shared),
            "WebAssembly",
            few_prefills=role != roles[0],
        )
        for role in roles
    ]
    equalities = frozenset({"prefill", "batch", "kernels"})
    return KernelList(kernels, programs=(module, checks), missing=tuple(missing), equalities=equalities)


def _present(bundle: Bundle, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in bundle.manifest.files)


def _open(bundle: Bundle, simd: bool, threads: int) -> NodeSession:
    session = NodeSession(bundle, simd=simd)
    if bundle.manifest.native is not None and (session.engine == _ENGINE_NAME) != simd:
        session.close()
        raise BundleError(f"{bundle.path}: load gives {session.engine}, not what it was asked for: export again")
    return session


def _ort_kernel(bundle: Bundle, web: WebSpec) -> Kernel:
    graphs = bundle.manifest.graphs
    used = {graphs["prefill"].file, graphs.get("step_single", graphs["step"]).file}
    shared = _present(bundle, (*MODULE_FILES, "ort_engine.js", WEIGHTS_FILE))
    return Kernel("onnxruntime-web", partial(_open, bundle, True), (*sorted(used), *web.modules.values(), *shared))


def _check_module(bundle: Bundle) -> tuple[bool, str]:
    """What module_check.mjs finds."""
    with as_file(files("causalrn.runtimes.web") / "module_check.mjs") as check:
        expected = json.dumps(_expected(bundle))
        result = execute(node_command(str(check.resolve()), str(bundle.path.resolve()), expected), _TIMEOUT_S)
    try:
        found = json.loads(result.stdout)
        checks, fault = int(found["checks"]), found["fault"]
    except (ValueError, KeyError, TypeError):
        return False, result.reason
    return fault is None, fault or f"{checks} checks of the module"


def _expected(bundle: Bundle) -> dict[str, Any]:
    card, state = card_of(bundle), bundle.manifest.state
    count = min(state.capacity or _TOKENS, _TOKENS)
    tokens = np.random.default_rng(0).integers(0, card.config.vocabulary, count).tolist()
    text = None if card.alphabet is None else _TEXT
    ids = [] if card.alphabet is None else card.alphabet.prompt(_TEXT)
    decoded = "" if card.alphabet is None else Alphabet(card.alphabet.name).decode(ids)
    size = state.size_bytes(count)
    return {"tokens": tokens, "text": text, "ids": ids, "decoded": decoded, "stateBytes": size}


def _check_verification(bundle: Bundle) -> tuple[bool, str]:
    """Whether the bundle's own check passes, and with other golden vectors fails wherever they decide."""
    rows, result = _verify(bundle.path)
    if result.code != 0:
        wrong = next((f"{row['check']} {row['comparison']}" for row in rows if not row["passed"]), result.reason)
        return False, f"it fails: {wrong}"
    with temporary_folder() as temporary:
        copy = temporary / "bundle"
        shutil.copytree(bundle.path, copy)
        _spoil_golden(copy / "golden.safetensors")
        seal_bundle(copy, bundle.manifest)
        others, spoiled = _verify(copy)
    passed = [row for row in others if row["check"] in _CAN_FAIL and row["passed"]]
    if spoiled.code != 1 or passed or not others:
        what = f"{passed[0]['check']} {passed[0]['comparison']}" if passed else "it"
        return False, f"{what} passes whatever comes out"
    return True, f"{len(rows)} checks, which fail where they should"


def _verify(folder: Path) -> tuple[list[dict[str, Any]], Outcome]:
    place = folder.resolve()
    result = execute(node_command(str(place / "verify.mjs"), str(place), "--json"), _TIMEOUT_S)
    try:
        rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    except (ValueError, KeyError, TypeError):
        rows = []
    return rows, result


def _spoil_golden(path: Path) -> None:
    """Other values of everything that a session is compared with."""
    if not path.is_file():
        raise RuntimeUnavailableError(f"{path.name} is missing: export the bundle again")
    tensors = load_file(path)
    for name, value in tensors.items():
        if name.startswith(("oracle.logits", "oracle.state.", "recorded.logits")):
            tensors[name] = -value[::-1].copy() if value.ndim > 1 else -value
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
