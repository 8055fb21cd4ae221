"""Processes of Ray killed under load: does every stream end, with the bits of a lone run, and is no line lost? Run it:

    python benchmarks/ray_kills.py [--json FILE] [--kills 20] [--clients 40] [--replicas 2] [--only serve|bulk]

It needs `pip install 'causalrn[export,ray]'` and gcc or clang. On two quiet cores it takes a few minutes, on busy ones
half an hour; most of that is what Ray takes to start a process. It starts a Ray of its own on 127.0.0.1, and a small
linear model in C.

- serve: clients stream over HTTP, three requests to each session and one beside it, while replicas are killed, each as
  soon as some answers have come whole since the last one. Every stream has to end with a reason or with one error, and
  every token has to be that of a lone run.
- bulk: workers of `generate-file --ray` are killed, each as soon as some lines were written since the last one. The
  file has to have the bytes of a run without Ray.

Exit code 1 if anything differs or is cut off, or if the kills could not be done.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from models import unit_gain_model
from reporting import write_json
from triton_server import free_port

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.opening import open_session
from causalrn.serving.bulk.job import BulkJob
from causalrn.serving.ray.application import build_application
from causalrn.serving.ray.starting import running_ray
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.workflows.generate_file import generate_file

REPLICA, WORKER = "ray::ServeReplica:default:ModelReplica", "ray::BulkWorker"
NEW_TOKENS, LINES, SLOTS = 60, 3000, 8
STANDSTILL_S = 900
"""Without an answer or a line; Ray may need minutes to start a process beside other work."""


@dataclass
class Answer:
    """A stream as a client saw it; `end` is a reason, or "" where it was cut off."""

    body: dict[str, Any]
    tokens: list[int] = field(default_factory=list)
    end: str = ""
    error: str = ""
    kills_before: int = 0


@dataclass
class Killer:
    """Kills one process of a name after another; `progress` says how much has been done so far."""

    name: str
    most: int
    each: int
    progress: Callable[[], int]
    ended: threading.Event = field(default_factory=threading.Event)
    killed: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Until all kills are done, or the work is over or stands still."""
        at_kill = seen = self.progress()
        since = time.monotonic()
        while len(self.killed) < self.most and not self.ended.wait(0.2):
            now = self.progress()
            if now > seen:
                seen, since = now, time.monotonic()
            if now - at_kill >= self.each and self._kill():
                at_kill = now
                print(f"{self.name}: {len(self.killed)} killed, {now} done", flush=True)
            if time.monotonic() - since > STANDSTILL_S:
                print(f"{self.name}: nothing was done for {STANDSTILL_S} s", flush=True)
                break
        self.ended.set()

    def _kill(self) -> bool:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.pid not in self.killed and self.name in " ".join(child.cmdline()):
                    child.kill()
                    self.killed.append(child.pid)
                    return True
        return False


@contextlib.contextmanager
def killing(killer: Killer) -> Iterator[None]:
    """Kill during the block."""
    thread = threading.Thread(target=killer.run)
    thread.start()
    try:
        yield
    finally:
        killer.ended.set()
        thread.join()


def main() -> int:
    """Kill, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--only", choices=("serve", "bulk"))
    arguments = parser.parse_args()
    checks = {"serve": serve, "bulk": bulk}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        bundle = small_bundle(Path(temporary))
        with running_ray(arguments.replicas + 1):
            for name in [arguments.only] if arguments.only else checks:
                started = time.monotonic()
                row = checks[name](bundle, arguments)
                rows.append({"what": name, **row, "seconds": time.monotonic() - started})
                print(json.dumps(rows[-1], indent=1), flush=True)
                about = {"environment": describe_environment(), "ray": version("ray")}
                write_json(arguments.json, {**about, "rows": rows})
    return int(not all(row["holds"] for row in rows))


def small_bundle(folder: Path) -> Path:
    """C source of a small linear model, untrained."""
    config = CausalRNConfig(vocabulary=29, embedding=32, hidden=32, blocks=2, capacity=2048, readout="linear")
    save_checkpoint(folder / "run", unit_gain_model(config), ModelCard(config), {})
    place = folder / "bundle"
    place.mkdir()
    return seal_bundle(place, export_c(load_checkpoint(folder / "run"), place, COptions())).path


# --- streams and sessions -------------------------------------------------------------------------------------------


def serve(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Clients of the application while its replicas are killed."""
    from ray import serve as ray_serve

    port, count = free_port(), arguments.replicas
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(build_application(BulkJob(bundle), min_replicas=count, max_replicas=count))
    answers: list[list[Answer]] = []
    killer = Killer(REPLICA, arguments.kills, arguments.clients, lambda: sum(map(len, list(answers))))
    with killing(killer), ThreadPoolExecutor(arguments.clients) as pool:
        list(pool.map(lambda client: ask_until_killed(port, client, answers, killer), range(arguments.clients)))
    ray_serve.shutdown()
    return {"replicas": count, "clients": arguments.clients, **judged(bundle, answers, killer)}


def ask_until_killed(port: int, client: int, answers: list[list[Answer]], killer: Killer) -> None:
    """Session after session, of three requests each, and a request beside it."""
    turn = 0
    while not killer.ended.is_set():
        seed = client + 1000 * turn
        name, rng = f"{client} {turn}", np.random.default_rng(seed)
        options = {"seed": seed, "max_tokens": NEW_TOKENS, "temperature": 1.0}
        session: list[Answer] = []
        answers.append(session)
        for tokens in (rng.integers(0, 29, 12).tolist(), rng.integers(0, 29, 3).tolist(), None):
            said = {} if tokens is None else {"tokens": tokens}
            session.append(ask(port, {**said, **options, "session": name}, len(killer.killed)))
            if session[-1].error:
                break
        answers.append([ask(port, {"tokens": [seed % 29], **options}, len(killer.killed))])
        turn += 1


def ask(port: int, body: dict[str, Any], kills_before: int) -> Answer:
    """One stream, from its beginning to its end."""
    answer = Answer(body, kills_before=kills_before)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STANDSTILL_S)
    try:
        connection.request("POST", "/", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            answer.error = f"status {response.status}: {response.read(200)!r}"
            return answer
        for line in response:
            part = json.loads(line)
            answer.tokens += part.get("tokens", [])
            answer.end, answer.error = part.get("finish_reason", ""), part.get("error", "")
    except (OSError, http.client.HTTPException, ValueError) as error:
        answer.end, answer.error = "", f"cut off: {type(error).__name__}: {error}"
    finally:
        connection.close()
    return answer


def judged(bundle: Path, answers: list[list[Answer]], killer: Killer) -> dict[str, Any]:
    """What became of all streams."""
    every = [answer for part in answers for answer in part]
    errors = sorted({answer.error for answer in every if answer.error})
    neither = sum(not answer.end and not answer.error for answer in every)
    with open_session(bundle) as lone:
        different = sum(not equals_lone_run(lone, part) for part in answers)
    across = sum(len(part) == 3 and part[0].kills_before < part[2].kills_before for part in answers)
    counts = {
        "kills": len(killer.killed),
        "streams": len(every),
        "tokens": sum(len(answer.tokens) for answer in every),
        "finished": sum(bool(answer.end) for answer in every),
        "errors": sum(bool(answer.error) for answer in every),
        "neither": neither,
        "sessions_across_kills": across,
        "different": different,
    }
    cut = any(error.startswith("cut off") for error in errors)
    enough = len(killer.killed) == killer.most and across > 0
    return {**counts, "messages": errors, "holds": enough and not (neither or different or cut)}


def equals_lone_run(lone: Any, part: list[Answer]) -> bool:
    """Whether a session's tokens are those without a server; of what ended with an error, the beginning."""
    lone.reset(1)
    for answer in part:
        body = answer.body
        prompt = np.array([body["tokens"]]) if "tokens" in body else None
        settings = {"max_new_tokens": body["max_tokens"], "temperature": body["temperature"], "seed": body["seed"]}
        expected = [int(step.tokens[0]) for step in lone.generate(prompt, **settings)]
        if answer.tokens != (expected[: len(answer.tokens)] if answer.error else expected):
            return False
    return True


# --- lines of a file ------------------------------------------------------------------------------------------------


def bulk(bundle: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`generate-file --ray` while its workers are killed, beside a run without Ray."""
    rng = np.random.default_rng(0)
    source, lone, output = (bundle.parent / name for name in ("in.jsonl", "lone.jsonl", "out.jsonl"))
    prompts = [
        {"id": index, "tokens": rng.integers(0, 29, 1 + index % 20).tolist(), "max_tokens": 1 + index % NEW_TOKENS}
        for index in range(LINES)
    ]
    source.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    settings: dict[str, Any] = {"temperature": 1.0, "max_slots": SLOTS}
    generate_file(bundle, source, lone, **settings)
    part = output.with_name(output.name + ".part")

    def written() -> int:
        return part.read_bytes().count(b"\n") if part.exists() else 0

    killer = Killer(WORKER, arguments.kills, LINES // (2 * arguments.kills), written)
    with killing(killer):
        generate_file(bundle, source, output, ray=True, workers=arguments.replicas, **settings)
    indices = [json.loads(line)["index"] for line in output.read_bytes().splitlines()]
    equal = output.read_bytes() == lone.read_bytes()
    counts = {
        "workers": arguments.replicas,
        "kills": len(killer.killed),
        "lines": len(indices),
        "lost": LINES - len(set(indices)),
        "doubled": len(indices) - len(set(indices)),
        "equal_bytes": equal,
    }
    return {**counts, "holds": equal and len(killer.killed) == arguments.kills}


if __name__ == "__main__":
    sys.exit(main())
