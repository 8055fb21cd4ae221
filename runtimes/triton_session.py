"""Model folders for the Triton Inference Server, without the server: what their Python model runs."""

from __future__ import annotations

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.triton_folder import BUNDLE_FOLDER
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.session_options import SessionOptions


class ModelFolderSession(OnnxRuntimeSession):
    """The session that the server's Python model opens, too."""

    runtime = "triton"

    @property
    def executed_files(self) -> tuple[str, ...]:
        """As the model folder names them."""
        return tuple(f"{BUNDLE_FOLDER}/{name}" for name in super().executed_files)


def open_model_folder(bundle: Bundle, options: SessionOptions) -> OnnxRuntimeSession:
    """Open the bundle inside a model folder.

    Raises:
        BundleError: there is none, or it is damaged; others as :func:`causalrn.open_session`.
    """
    return ModelFolderSession.open(Bundle.open(bundle.path / BUNDLE_FOLDER), options)
