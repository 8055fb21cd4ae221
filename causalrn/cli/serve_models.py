"""What `serve --http` runs: models opened, settings from options, the server."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from causalrn.errors import RuntimeUnavailableError
from causalrn.runtimes.opening import open_folder
from causalrn.runtimes.session_options import SessionOptions
from causalrn.workflows.arguments import mib

_PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")


def serve_models(
    bundles: tuple[str, ...],
    port: int,
    *,
    or_any: bool,
    session_options: SessionOptions,
    tell: Callable[[str, list[str]], None],
    host: str,
    keys: Path | None,
    max_slots: int,
    max_waiting: int,
    state_memory: int,
    cache_memory: int,
    session_memory: int,
    session_disk: int,
    state_dir: Path | None,
    deadline: float,
    drain: float,
    runtime: str | None,
) -> None:
    """Serve models until a signal.

    Args:
        tell: called with the address and the models' names once the server listens.

    Raises:
        RuntimeUnavailableError: the extra `serve` is not installed.
        InputError, BundleError: options or bundles that cannot be.
    """
    check_packages()
    from causalrn.serving.http.models import named_paths
    from causalrn.serving.http.running import run_server
    from causalrn.serving.http.settings import ServerSettings, read_keys
    from causalrn.serving.requests import Limits
    from causalrn.serving.session_store import StoreLimits

    settings = ServerSettings(
        host=host,
        port=port,
        keys=read_keys(keys),
        limits=Limits(
            max_slots=max_slots,
            max_waiting=max_waiting,
            max_waiting_per_client=max_waiting,
            state_bytes=mib(state_memory, "state_memory"),
            cache_bytes=mib(cache_memory, "cache_memory"),
        ),
        store=StoreLimits(
            memory_bytes=mib(session_memory, "session_memory"), disk_bytes=mib(session_disk, "session_disk")
        ),
        state_dir=state_dir,
        deadline_s=deadline,
        drain_s=drain,
    )
    paths = named_paths(bundles)
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_folder(path, runtime, session_options)) for name, path in paths.items()
        }
        run_server(sessions, settings, lambda url: tell(url, list(paths)), or_any=or_any)


def check_packages() -> None:
    """Check that the extra is installed.

    Raises:
        RuntimeUnavailableError: it is not.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"serving over HTTP needs {missing[0]}, which is not installed: pip install 'causalrn[serve]'"
        )
