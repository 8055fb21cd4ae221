"""Ray as it is there, or one of our own on this machine that nobody else can reach."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import sys
from collections.abc import Iterator

from causalrn.errors import RuntimeUnavailableError

_LOOPBACK_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Despite its name, "0" makes Ray of every system use 127.0.0.1; the address that `ray.init` takes does not."""
_NICENESS = "RAY_worker_niceness"
"""15 by default: beside anything else that works, Ray's workers hardly run."""
_STORE_BYTES = 128 << 20


def check_installed() -> None:
    """Say early that Ray is missing.

    Raises:
        RuntimeUnavailableError: it is.
    """
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise RuntimeUnavailableError("this needs Ray, which is not installed: pip install 'causalrn[ray]'")


@contextlib.contextmanager
def running_ray(cpus: int) -> Iterator[None]:
    """Use the Ray that this process has joined, or the cluster that RAY_ADDRESS names, or start one for the block.

    One that is started here listens on 127.0.0.1 alone, without dashboard, and ends with the block.

    Args:
        cpus: that a Ray of our own has to give out.

    Raises:
        RuntimeUnavailableError: Ray is missing, does not start, or was imported in a way that opens ports to others.
    """
    check_installed()
    is_local = not os.environ.get("RAY_ADDRESS")
    if is_local and "ray" not in sys.modules:
        os.environ.setdefault(_LOOPBACK_ALONE, "0")
        os.environ.setdefault(_NICENESS, "0")
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        _start(cpus, is_local=is_local)
    except RuntimeUnavailableError:
        raise
    except Exception as error:  # Ray raises bare ones, e.g. where a busy machine takes more than 30 s
        reason = " ".join(str(error).split())[:200]
        raise RuntimeUnavailableError(f"Ray does not start (RAY_ADDRESS, memory, what else runs?): {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def keep_replica_to_loopback() -> None:
    """Called in a replica before its port is opened: where Ray is on this machine alone, that port is, too.

    Ray Serve (2.60) opens the port between replicas on all interfaces, whatever the node's address is.
    """
    import ray
    from ray.serve._private import replica

    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        return
    open_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: open_port(server, address.replace("[::]", "127.0.0.1"))


def _start(cpus: int, *, is_local: bool) -> None:
    import ray

    if not is_local:
        ray.init(log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_STORE_BYTES,
    )
    address = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(address).is_loopback and os.environ.get(_LOOPBACK_ALONE) in (None, "0"):
        ray.shutdown()
        raise RuntimeUnavailableError(
            f"Ray would listen on {address}: import causalrn.serving.ray before ray, or start Ray yourself"
        )
