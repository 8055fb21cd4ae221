"""Ray on this machine, its processes killed: bulk generation loses no line, streams go on with the same bits.

One Ray for all of these tests: it takes seconds to start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from causalrn.runtimes import open_session
from tests.builders import ROOT

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'causalrn[ray]'"),
    pytest.mark.slow,
]

PROGRAM = """
import json, sys
import causalrn.serving.ray
from causalrn.serving.ray.starting import running_ray
with running_ray(3):
    import tests.serving.bulk.ray_programs as programs
    print("ready", flush=True)
    getattr(programs, sys.argv[1])(*sys.argv[2:])
"""


def processes_of(parent: psutil.Process, name: str) -> list[psutil.Process]:
    """Ray's processes below one of ours, by the name that Ray gives them."""
    found = []
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


@contextlib.contextmanager
def started(*arguments: object):
    """A program with a Ray of its own: warnings of Ray's are none of this process's."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def kill_now_and_then(
    parent: psutil.Process, name: str, most: int, killed: list[int], done: threading.Event, pause_s: float
) -> None:
    while len(killed) < most and not done.wait(pause_s):
        with contextlib.suppress(psutil.Error):
            for process in processes_of(parent, name)[:1]:
                process.kill()
                killed.append(process.pid)


def test_bulk_generation_loses_no_line_when_workers_are_killed(bundle, tmp_path) -> None:
    lines = [{"prompt": "abcdefgh"[: 1 + index % 8], "temperature": 1.0, "max_tokens": 20} for index in range(600)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    from causalrn.workflows.generate_file import generate_file

    generate_file(bundle, tmp_path / "in.jsonl", tmp_path / "expected.jsonl", max_slots=8)
    killed: list[int] = []
    done = threading.Event()
    with started("generate", bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl") as process:
        arguments = psutil.Process(process.pid), "ray::BulkWorker.run", 3, killed, done, 0.2
        killer = threading.Thread(target=kill_now_and_then, args=arguments)
        killer.start()
        assert process.wait(300) == 0
        done.set()
        killer.join()
    assert killed
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_streams_go_on_when_replicas_are_killed(bundle, tmp_path) -> None:
    """Sessions of three requests each: all tokens are those of lone runs."""
    killed: list[int] = []
    done = threading.Event()
    with started("serve", bundle, tmp_path / "answers.json") as process:
        parent = psutil.Process(process.pid)
        addresses = listening_addresses(parent)
        assert process.stdout.readline().strip() == "serving"
        addresses |= listening_addresses(parent)
        killer = threading.Thread(
            target=kill_now_and_then, args=(parent, "ray::ServeReplica:default:ModelReplica", 2, killed, done, 3.0)
        )
        killer.start()
        assert process.wait(300) == 0
        done.set()
        killer.join()
    assert killed
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    answers = json.loads(Path(tmp_path / "answers.json").read_text())
    with open_session(bundle) as session:
        for name, parts in answers.items():
            seed = int(name)
            session.reset(1)
            prompt = "abcdefgh"[: 1 + seed % 8]
            expected = [
                [
                    int(step.tokens[0])
                    for step in session.generate(text, max_new_tokens=6, temperature=1.0, seed=seed, stop_ids=())
                ]
                for text in (prompt, None, None)
            ]
            assert parts == expected


def listening_addresses(parent: psutil.Process) -> set[str]:
    found = set()
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found
