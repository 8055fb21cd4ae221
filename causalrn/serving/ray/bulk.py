"""Lines of a file over Ray's workers: blocks go out, answers come back in order; a worker that dies is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

from causalrn.errors import RuntimeUnavailableError
from causalrn.serving.bulk.job import BulkJob, RunLines
from causalrn.serving.bulk.line_runner import Batch
from causalrn.serving.bulk.lines import Line
from causalrn.serving.ray.starting import running_ray

_BLOCK = 2
"""Lines of one block, in times of a worker's slots."""
_AHEAD = 2
"""Blocks that wait for each worker."""
_MOST_TRIES = 20
"""Of one block: what kills its worker so often would do so for ever."""


class BulkWorker:
    """Runs blocks in a process of its own; it opens the bundle with the first."""

    def __init__(self, job: BulkJob) -> None:
        self._job = job
        self._stack = contextlib.ExitStack()
        self._run: RunLines | None = None

    def run(self, lines: list[Line]) -> Batch:
        """All answers of a block."""
        if self._run is None:
            self._run = self._stack.enter_context(self._job.open())
        parts = list(self._run(iter(lines)))
        return Batch(
            tuple(line for part in parts for line in part.lines),
            sum(part.errors for part in parts),
            sum(part.prompt_tokens for part in parts),
            sum(part.generated_tokens for part in parts),
        )


@contextlib.contextmanager
def open_workers(job: BulkJob, workers: int) -> Iterator[RunLines]:
    """Run lines on so many workers; answers are those of a single process, byte for byte.

    Raises:
        RuntimeUnavailableError: no Ray, or workers die again and again.
    """
    with running_ray(workers):
        import ray

        job = dataclasses.replace(job, path=job.path.resolve())
        worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=_MOST_TRIES)(BulkWorker)
        actors = [worker.remote(job) for _ in range(workers)]
        size = _BLOCK * job.limits.max_slots
        try:
            yield lambda lines: _run(actors, lines, size)
        finally:
            for actor in actors:
                ray.kill(actor)


def _run(actors: list[Any], lines: Iterator[Line], size: int) -> Iterator[Batch]:
    waiting: deque[Any] = deque()
    turns = itertools.cycle(actors)
    while block := list(itertools.islice(lines, size)):
        if len(waiting) >= _AHEAD * len(actors):
            yield _answers(waiting.popleft())
        waiting.append(next(turns).run.remote(block))
    while waiting:
        yield _answers(waiting.popleft())


def _answers(block: Any) -> Batch:
    import ray

    try:
        batch: Batch = ray.get(block)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise RuntimeUnavailableError(
            f"a Ray worker died {_MOST_TRIES} times over the same lines: {' '.join(str(error).split())[:200]}"
        ) from None
    return batch
