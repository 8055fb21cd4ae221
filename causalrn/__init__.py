"""Causal Relation Networks from training to the device, verifiably unchanged.

Each command of `causalrn-export` is a function here; its keyword arguments are the command's options. They are loaded
when they are first used: `import causalrn` needs neither torch nor onnx.

Example:
    >>> import causalrn
    >>> run = causalrn.train(task="copy", length=16, output="run", steps=400)  # doctest: +SKIP
    >>> bundle = causalrn.export(run, output="bundle", target="onnx")  # doctest: +SKIP
    >>> report = causalrn.verify(bundle, checkpoint=run)  # doctest: +SKIP
    >>> report.passed  # doctest: +SKIP
    True
    >>> with causalrn.open_session(bundle) as session:  # doctest: +SKIP
    ...     print("".join(step.text for step in session.generate("causalrelationxy")))
    causalrelationxy
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from causalrn.errors import (
    BudgetExceededError,
    BundleError,
    CalibrationError,
    CapacityError,
    CausalRNError,
    CheckpointError,
    CompileError,
    ConfigError,
    FallbackWarning,
    GenerationInterruptedError,
    InputError,
    NonFiniteError,
    NotExecutedError,
    RuntimeUnavailableError,
    SharedSessionError,
    StateError,
    TrainingError,
    VerificationError,
)

if TYPE_CHECKING:
    from causalrn.bundle.bundle_folder import Bundle
    from causalrn.bundle.targets import Target, register_target
    from causalrn.model.own.forms import RecurrentForms
    from causalrn.runtimes.opening import open_session
    from causalrn.runtimes.own_model.opening import open_model
    from causalrn.runtimes.session import Session
    from causalrn.runtimes.snapshot import Snapshot
    from causalrn.training.checkpoint_folder import CheckpointFolder
    from causalrn.workflows.bench import bench
    from causalrn.workflows.compile import compile
    from causalrn.workflows.convert import convert
    from causalrn.workflows.export import export
    from causalrn.workflows.export_recurrent import export_recurrent
    from causalrn.workflows.generate_file import generate_file
    from causalrn.workflows.predict import predict
    from causalrn.workflows.profile import profile
    from causalrn.workflows.quantize import quantize
    from causalrn.workflows.reseal import reseal
    from causalrn.workflows.train import resume_training, train
    from causalrn.workflows.verify import verify
    from causalrn.workflows.verify_recurrent import verify_recurrent

__version__ = "0.1.0"

# Before anything imports onnxruntime, and inherited by every process that is started: from 1.29 on onnxruntime reports
# to its maker, and leaves an identifier of the device. Who has set the variable, to whatever, has chosen.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BudgetExceededError",
    "Bundle",
    "BundleError",
    "CalibrationError",
    "CapacityError",
    "CausalRNError",
    "CheckpointError",
    "CheckpointFolder",
    "CompileError",
    "ConfigError",
    "FallbackWarning",
    "GenerationInterruptedError",
    "InputError",
    "NonFiniteError",
    "NotExecutedError",
    "RecurrentForms",
    "RuntimeUnavailableError",
    "Session",
    "SharedSessionError",
    "Snapshot",
    "StateError",
    "Target",
    "TrainingError",
    "VerificationError",
    "__version__",
    "bench",
    "compile",
    "convert",
    "export",
    "export_recurrent",
    "generate_file",
    "open_model",
    "open_session",
    "predict",
    "profile",
    "quantize",
    "register_target",
    "reseal",
    "resume_training",
    "train",
    "verify",
    "verify_recurrent",
]

_LAZY = {
    "Bundle": "causalrn.bundle.bundle_folder",
    "CheckpointFolder": "causalrn.training.checkpoint_folder",
    "RecurrentForms": "causalrn.model.own.forms",
    "Session": "causalrn.runtimes.session",
    "Snapshot": "causalrn.runtimes.session",
    "Target": "causalrn.bundle.targets",
    "bench": "causalrn.workflows.bench",
    "compile": "causalrn.workflows.compile",
    "convert": "causalrn.workflows.convert",
    "export_recurrent": "causalrn.workflows.export_recurrent",
    "generate_file": "causalrn.workflows.generate_file",
    "open_model": "causalrn.runtimes.own_model.opening",
    "open_session": "causalrn.runtimes.opening",
    "predict": "causalrn.workflows.predict",
    "profile": "causalrn.workflows.profile",
    "quantize": "causalrn.workflows.quantize",
    "register_target": "causalrn.bundle.targets",
    "reseal": "causalrn.workflows.reseal",
    "resume_training": "causalrn.workflows.train",
    "train": "causalrn.workflows.train",
    "verify": "causalrn.workflows.verify",
    "verify_recurrent": "causalrn.workflows.verify_recurrent",
}
"""Where public names are defined; `export` is the package `causalrn.export`, which can be called."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "export":
        return importlib.import_module("causalrn.export")
    if name not in _LAZY:
        raise AttributeError(f"module 'causalrn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
