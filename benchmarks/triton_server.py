"""Sequences through a real Triton Inference Server, interleaved: is each bit-equal to a run of its own?

    pip install nvidia-pytriton 'tritonclient[grpc]'    # with the server itself; Linux, x86-64, no GPU
    causalrn-export export run -o repository/copy --target triton
    python benchmarks/triton_server.py repository/copy

Starts the server on 127.0.0.1 on a free port, drives it with a client per sequence, compares, and ends it. Exit code 1
if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import causalrn

_START_S = 120


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_command(repository: Path, backends: Path, grpc: int) -> tuple[list[str], Path]:
    """The server of nvidia-pytriton, on the loopback interface alone, and where its libraries are.

    Its Python backend goes into `backends`, with the program for this version of Python beside it.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        sys.exit("Error: the server is not installed: pip install nvidia-pytriton")
    server = Path(spec.origin).parent / "tritonserver"
    shutil.copytree(server / "backends", backends, dirs_exist_ok=True)
    stub = (
        server / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    )
    shutil.copy(stub, backends / "python")
    command = [
        *(str(server / "bin" / "tritonserver"), f"--model-repository={repository}", f"--backend-directory={backends}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}", "--allow-http=false", "--allow-metrics=false"),
        *("--model-control-mode=none", "--exit-timeout-secs=10"),
    ]
    return command, server.parents[1] / "nvidia_pytriton.libs"


@contextlib.contextmanager
def running_server(repository: Path) -> Iterator[str]:
    """Start the server; gives its address once its model is ready."""
    import tritonclient.grpc as client

    grpc = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command, libraries = server_command(repository, Path(folder) / "backends", grpc)
        packages = Path(np.__file__).parents[1]
        path = os.pathsep.join([str(Path(causalrn.__file__).parents[1]), str(packages)])
        environment = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(libraries)}
        log = Path(folder) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            end = time.monotonic() + _START_S
            with client.InferenceServerClient(f"127.0.0.1:{grpc}") as asked:
                while not _is_ready(asked):
                    if process.poll() is not None or time.monotonic() > end:
                        sys.exit(f"Error: the server did not start:\n{_errors(log.read_text())}")
                    time.sleep(0.2)
            yield f"127.0.0.1:{grpc}"
        finally:
            process.terminate()
            process.wait(30)


def _errors(log: str) -> str:
    """What the server says that went wrong."""
    lines = [line for line in log.splitlines() if not line.startswith(("I1", "I0", "|", "+"))]
    return "\n".join(lines[-30:])


def _is_ready(asked: Any) -> bool:
    from tritonclient.utils import InferenceServerException

    try:
        return bool(asked.is_server_ready())
    except InferenceServerException:
        return False


def run_sequence(
    address: str, model: str, number: int, parts: list[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """Send a sequence part by part: logits [T, V] of each, and the seconds that it took."""
    import tritonclient.grpc as client

    answers, seconds = [], []
    with client.InferenceServerClient(address) as asked:
        for index, part in enumerate(parts):
            tokens = client.InferInput("TOKENS", [1, len(part)], "INT64")
            tokens.set_data_from_numpy(part[None])
            started = time.perf_counter()
            result = asked.infer(
                model,
                [tokens],
                sequence_id=number,
                sequence_start=index == 0,
                sequence_end=index == len(parts) - 1,
            )
            seconds.append(time.perf_counter() - started)
            answers.append(result.as_numpy("LOGITS")[0])
    return answers, seconds


def main() -> int:
    """Drive the server, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="model folder, as `export --target triton` writes it")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    folder = arguments.folder.resolve()
    with causalrn.open_session(folder) as lone:
        vocabulary, most = lone.card.config.vocabulary, min(lone.capacity or 64, 64)
        inputs = []
        for _ in range(arguments.sequences):
            first = int(rng.integers(1, most // 2))
            lengths = [first, *[1] * int(rng.integers(1, most - first))]
            inputs.append([rng.integers(0, vocabulary, length) for length in lengths])
        with running_server(folder.parent) as address, ThreadPoolExecutor(arguments.sequences) as pool:
            started = time.perf_counter()
            going = [pool.submit(run_sequence, address, folder.name, n + 1, parts) for n, parts in enumerate(inputs)]
            results = [each.result() for each in going]
            total = time.perf_counter() - started
        different = 0
        for parts, (answers, _) in zip(inputs, results, strict=True):
            lone.reset(1)
            expected = [lone.prefill(part[None])[0] for part in parts]
            different += not all(map(np.array_equal, expected, answers))
    requests = [second for _, seconds in results for second in seconds]
    tokens = sum(len(part) for parts in inputs for part in parts)
    print(
        f"{len(inputs)} sequences, {len(requests)} requests, {tokens} tokens in "
        f"{total:.2f} s; median of a request {1e3 * statistics.median(requests):.1f} ms"
    )
    print(f"{different} of {len(inputs)} sequences differ from lone runs in any bit")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
