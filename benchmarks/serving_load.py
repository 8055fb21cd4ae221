"""What the server gives to many clients at once, beside one request at a time. Run it, from anywhere:

    python benchmarks/serving_load.py [--json FILE] [--seconds 300] [--clients 200] [--rounds 7]

It needs `pip install 'causalrn[export,serve]'`, gcc or clang, and two cores for a quarter of an hour: the server has a
process of its own, the clients another one, both on this machine. Models of the paper's size (E = H = 192, 12 blocks),
C, float32, one thread, untrained; 48 requests of mixed lengths (prompts of 8 to 256 tokens, 32 to 96 new ones), greedy and
drawn, whose answers are known beforehand from `session.generate`. The prefix cache is off, so that every prompt is computed.

In each round the same requests come one at a time, streamed, over one connection, and then from all clients at once;
the ratio of tokens per second is paired within a round. Every answer is compared with its lone run, token by token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from interleaved import Spread, Verdict, paired_ratio
from load_client import Answered, ask_all
from many_sequences import bundle_of
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.opening import open_session

LENGTHS, NEW_TOKENS, CASES = (8, 16, 32, 64, 128, 256), (32, 64, 96), 48
STATE_MIB = {"linear": 64, "exact": 1024}
TARGETS = {"linear": 5.0, "exact": None}
TOGETHER, ALONE = "together", "one at a time"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="of all clients at once, per model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--readout", choices=list(TARGETS), action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = [measured(readout, Path(temporary), arguments) for readout in arguments.readout or TARGETS]
    print_rows(rows)
    write_json(arguments.json, {"environment": describe_environment(), "rows": rows})


def cases() -> list[dict[str, Any]]:
    """Bodies of requests."""
    rng = np.random.default_rng(0)
    return [
        {
            "model": "m",
            "prompt": rng.integers(3, 29, LENGTHS[index % len(LENGTHS)]).tolist(),
            "max_tokens": NEW_TOKENS[index % len(NEW_TOKENS)],
            "temperature": (0, 1, 0.7)[index // 6 % 3],
            "top_p": (1, 0.9)[index % 2],
            "seed": index,
        }
        for index in range(CASES)
    ]


def lone_answers(bundle: Path, bodies: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """What each request gets alone, without a server."""
    names = {"max_tokens": "max_new_tokens"}
    answers = []
    with open_session(bundle) as session:
        for body in bodies:
            options = {names.get(k, k): v for k, v in body.items() if k not in ("model", "prompt")}
            session.reset(1)
            answers.append(tuple(int(s.tokens[0]) for s in session.generate(np.array([body["prompt"]]), **options)))
    return answers


@contextlib.contextmanager
def served(bundle: Path, state_mib: int) -> Iterator[tuple[int, psutil.Process]]:
    """A server of its own: its port and its process."""
    command = [sys.executable, "-m", "causalrn", "serve", f"m={bundle}", "--http", "--port", "0"]
    limits = ["--state-memory", str(state_mib), "--cache-memory", "0", "--deadline", "600"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [*command, *limits], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.rpartition(":")[2].partition("/")[0]), psutil.Process(process.pid)
        process.terminate()


def measured(readout: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One model: rounds of one at a time and of all together."""
    bundle, bodies = bundle_of(readout, folder).path, cases()
    expected = lone_answers(bundle, bodies)
    seconds = arguments.seconds / arguments.rounds
    times: dict[str, list[float]] = {TOGETHER: [], ALONE: []}
    answers: list[Answered] = []
    shares: dict[str, list[float]] = {TOGETHER: [], ALONE: []}
    most_bytes = 0
    with served(bundle, STATE_MIB[readout]) as (port, process):
        asyncio.run(ask_all(port, bodies, 1, 2))
        base_bytes = process.memory_info().rss
        for _ in range(arguments.rounds):
            for name, clients, share in ((ALONE, 1, 0.3), (TOGETHER, arguments.clients, 1.0)):
                begun, used = time.perf_counter(), sum(process.cpu_times()[:2])
                got = asyncio.run(ask_all(port, bodies, clients, share * seconds))
                wall, cpu = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - used
                tokens = sum(len(answer.tokens) for answer in got)
                times[name].append(wall / tokens * 1e6)
                shares[name].append(cpu / tokens * 1e6)
                most_bytes = max(most_bytes, process.memory_info().rss)
                answers += got if name == TOGETHER else []
                print(readout, name, f"{tokens / wall:.0f} tokens/s, {cpu / tokens * 1e6:.0f} us of processor", flush=True)
    return row_of(readout, times, shares, answers, expected) | {
        "seconds": arguments.seconds,
        "clients": arguments.clients,
        "state_budget_mib": STATE_MIB[readout],
        "memory_idle_mib": base_bytes / 2**20,
        "memory_most_mib": most_bytes / 2**20,
    }


def row_of(
    readout: str,
    times: dict[str, list[float]],
    shares: dict[str, list[float]],
    answers: list[Answered],
    expected: list[tuple[int, ...]],
) -> dict[str, Any]:
    """Numbers of one model."""
    whole = [answer for answer in answers if not answer.error]
    ratio = paired_ratio(times, ALONE, TOGETHER)
    firsts = np.array([answer.first_s for answer in whole])
    return {
        "readout": readout,
        "answers": len(answers),
        "errors": len(answers) - len(whole),
        "different": sum(answer.tokens != expected[answer.case] for answer in whole),
        "tokens_per_s": {name: 1e6 / Spread.of(values).median for name, values in times.items()},
        "processor_us_per_token": {name: Spread.of(values).median for name, values in shares.items()},
        "throughput": asdict(ratio),
        "target": TARGETS[readout],
        "verdict": Verdict(ratio, TARGETS[readout]).word,
        "first_token_s": {f"p{p}": float(np.percentile(firsts, p)) for p in (50, 90, 99)},
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """One line per model."""
    table = Table("readout", "answers", "errors", "different", "tokens/s", "alone", "ratio", "first token p50, p99", "MiB")
    for row in rows:
        rate, ratio, first = row["tokens_per_s"], row["throughput"], row["first_token_s"]
        table.add_row(
            row["readout"],
            str(row["answers"]),
            str(row["errors"]),
            str(row["different"]),
            f"{rate[TOGETHER]:.0f}",
            f"{rate[ALONE]:.0f}",
            f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})",
            f"{first['p50']:.2f}, {first['p99']:.2f} s",
            f"{row['memory_most_mib']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
