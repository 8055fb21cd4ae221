"""What runs beside a Ray of its own, in a process of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.serving.bulk.job import BulkJob
from causalrn.serving.bulk.lines import Defaults
from causalrn.serving.ray.application import build_application


def generate(bundle: str, source: str, output: str) -> None:
    from causalrn.workflows.generate_file import generate_file

    generate_file(bundle, source, output, max_slots=8, ray=True, workers=2)


def serve(bundle: str, output: str) -> None:
    from ray import serve

    defaults = Defaults(GenerationOptions(max_new_tokens=6, temperature=1.0, stop_ids=()))
    job = BulkJob(Path(bundle), defaults=defaults)
    serve.start(http_options={"host": "127.0.0.1", "port": 0, "location": "NoServer"})
    handle = serve.run(build_application(job, min_replicas=2, max_replicas=2)).options(stream=True)
    print("serving", flush=True)

    async def part(name: str, body: dict[str, Any]) -> list[int]:
        parts = [piece async for piece in handle.generate.remote(body, name)]
        assert parts[-1] in ("length", "stop"), parts
        return [token for piece in parts[:-1] for token in piece]

    async def session(number: int) -> list[list[int]]:
        seed = {"seed": number}
        first = await part(str(number), {"prompt": "abcdefgh"[: 1 + number % 8], **seed})
        return [first, await part(str(number), seed), await part(str(number), seed)]

    async def all_sessions() -> dict[str, list[list[int]]]:
        answers: dict[str, list[list[int]]] = {}
        for start in range(0, 80, 40):
            numbers = range(start, start + 40)
            for number, parts in zip(numbers, await asyncio.gather(*map(session, numbers)), strict=True):
                answers[str(number)] = parts
        return answers

    Path(output).write_text(json.dumps(asyncio.run(all_sessions())))
    serve.shutdown()
