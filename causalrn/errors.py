"""Errors that users see: one base class, one clear line each, a remedy where there is one."""

from __future__ import annotations

from typing import Any


class CausalRNError(Exception):
    """Base class of every error that this toolkit raises on purpose; `exit_code` is the command line's."""

    exit_code = 2


class FallbackWarning(UserWarning):
    """Something that works in another place, or more slowly, than was asked: results are the same."""


class ConfigError(CausalRNError):
    """A model configuration that is unknown, out of range or contradicts itself."""


class CheckpointError(CausalRNError):
    """A checkpoint or weights file that is missing, corrupt or does not fit."""


class BundleError(CausalRNError):
    """A bundle that is missing, corrupt, of another version or changed since it was written."""


class InputError(CausalRNError):
    """Input that the model cannot take: characters, token ids, shapes, dtypes, options."""


class CapacityError(InputError):
    """More positions asked for than the model or its pool has. The session's state is left as it was."""


class StateError(CausalRNError):
    """A snapshot or state file that does not belong to this session."""


class SharedSessionError(CausalRNError):
    """A session that two threads called at once. The second call has done nothing."""


class QueueFullError(CausalRNError):
    """A server that has as many requests as it may keep waiting, of one client or of all. Nothing has been queued."""


class ServerClosedError(CausalRNError):
    """A server that is about to end, or has failed: it takes no more requests."""


class NonFiniteError(CausalRNError):
    """The model produced NaN or infinity. The session's state is left as it was."""


class RuntimeUnavailableError(CausalRNError):
    """A runtime, provider or optional package that this machine does not have."""


class NotExecutedError(RuntimeUnavailableError):
    """A compiled engine that is whole and cannot run on this machine: compiled, not executed."""

    exit_code = 3


class FlavorMissingError(NotExecutedError):
    """The kind of TensorRT that an engine was compiled for is not installed."""


class EngineVersionError(NotExecutedError):
    """An engine of another TensorRT version than the installed one."""


class DriverMissingError(NotExecutedError):
    """No NVIDIA GPU, or no driver that is new enough."""


class UnsupportedGpuError(NotExecutedError):
    """A GPU that an engine does not run on."""


class GpuFailureError(RuntimeUnavailableError):
    """A call to CUDA or TensorRT that failed on a GPU: what was under way is lost."""


class MalformedEngineError(BundleError):
    """An engine file that TensorRT cannot read, although it is of the installed version."""


class CompileError(CausalRNError):
    """A graph that TensorRT cannot take, or options that it cannot compile with."""


class CalibrationError(CausalRNError):
    """Calibration data or a calibration table that is missing, corrupt, too little, or belongs to another model."""


class TrainingError(CausalRNError):
    """Training that cannot start or go on."""


class TrainingInterruptedError(TrainingError):
    """Training that the user stopped."""

    exit_code = 130


class GenerationInterruptedError(CausalRNError):
    """Generation over a file that the user stopped; what was generated is kept."""

    exit_code = 130


class VerificationError(CausalRNError):
    """A converted bundle that does not compute what was trained: nothing was written."""

    exit_code = 1


class BudgetExceededError(CausalRNError):
    """A quantized bundle that lost more than its budget allows: nothing was written.

    Attributes:
        report: what was measured (:class:`causalrn.calibration.report.QuantizeReport`).
    """

    exit_code = 1

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report
