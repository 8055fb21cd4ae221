"""Generation over a file of prompts, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn import __version__
from causalrn.bundle.disk.files import as_path, check_output_file, is_replaced
from causalrn.bundle.json_values import to_json
from causalrn.bundle.precisions import FLOAT32
from causalrn.errors import GenerationInterruptedError, InputError
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session_options import SessionOptions
from causalrn.serving.bulk.input_file import InputFile
from causalrn.serving.bulk.job import BulkJob, RunLines
from causalrn.serving.bulk.lines import Defaults
from causalrn.serving.bulk.part_file import PartFile, forget_settings
from causalrn.serving.requests import Limits
from causalrn.workflows.arguments import (
    LARGEST_SEED,
    PathLike,
    flag,
    listed,
    mib,
    optional_path,
    text_argument,
    whole_number,
)
from causalrn.workflows.saving import JsonReport

REPORT_VERSION = 1
_MOST_SLOTS, _MOST_WORKERS = 65536, 4096


@dataclass(frozen=True)
class GenerateFileResult(JsonReport):
    """A file of answers.

    Attributes:
        output: the file.
        lines: that it has, as many as the input; `errors` of them say why their prompt could not run.
        resumed_lines: that an earlier run had written.
        prompt_tokens: of this run; those of an earlier one are not counted.
        generated_tokens: of this run.
        seconds: of this run.
        belongs: what the answers depend on: bundle and input by SHA-256, runtime and settings.
    """

    output: Path
    lines: int
    errors: int
    resumed_lines: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    belongs: Mapping[str, Any]

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of this run."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        entries = {**to_json(self), "tokens_per_s": self.tokens_per_s}
        return {"report": "causalrn-generate-file", "version": REPORT_VERSION, **entries}


def generate_file(
    bundle: PathLike,
    input: PathLike,
    output: PathLike,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: str | Iterable[str] = (),
    max_slots: int = 64,
    state_memory: int = 1024,
    cache_memory: int = 64,
    runtime: str | None = None,
    provider: str = "cpu",
    threads: int = 1,
    no_cuda_graph: bool = False,
    runtime_cache: PathLike | None = None,
    precision: str = FLOAT32,
    ray: bool = False,
    workers: int | None = None,
    restart: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> GenerateFileResult:
    """Generate after every prompt of a file, one line of JSON each: exactly one line out for each line in, in order.

    A line has `prompt` or `tokens`, and may have `id`, `max_tokens`, `seed`, `temperature`, `top_k`, `top_p`, `stop`;
    docs/bulk.md has all of it. A line that cannot run gets a line with `error`. What has been generated lies in
    OUTPUT.part; a run that ends early goes on from there, with the same bytes.

    Args:
        bundle: folder that `export`, `quantize` or `compile` wrote.
        input: file of lines of JSON; it may be larger than memory.
        output: file to write.
        max_new_tokens, temperature, top_k, top_p, seed, stop: for lines that do not say it; see
            :class:`~causalrn.runtimes.generation_options.GenerationOptions`.
        max_slots: most lines that run at once.
        state_memory: MiB that their states may take.
        cache_memory: MiB for states after beginnings that prompts share; 0 for none.
        runtime: that runs the bundle; None takes its default.
        provider, threads, no_cuda_graph, runtime_cache, precision: as for :func:`causalrn.open_session`.
        ray: run on workers of Ray: of the cluster that RAY_ADDRESS names, or of this machine.
        workers: how many of them, 2 by default; each has as many slots and as much memory.
        restart: forget what an earlier run has left.
        overwrite: replace an output that is there.
        progress: shows progress.

    Raises:
        InputError: an argument that cannot be, an output that is there, or one that was begun with something else.
        BundleError: a bundle that is missing or damaged.
        GenerationInterruptedError: Ctrl-C; what has been generated is kept.

    Example:
        >>> generate_file("bundle", "prompts.jsonl", "answers.jsonl", max_new_tokens=64).errors  # doctest: +SKIP
        0
    """
    session = SessionOptions(
        provider,
        threads,
        not flag(no_cuda_graph, "no_cuda_graph"),
        optional_path(runtime_cache, "runtime_cache"),
        precision,
    )
    options = GenerationOptions(max_new_tokens, temperature, top_k, top_p, whole_number(seed, "seed", 0, LARGEST_SEED))
    limits = Limits(
        max_slots=whole_number(max_slots, "max_slots", 1, _MOST_SLOTS),
        state_bytes=mib(state_memory, "state_memory", least=1),
        cache_bytes=mib(cache_memory, "cache_memory"),
    )
    defaults = Defaults(options, tuple(text_argument(text, "stop") for text in listed(stop, "stop")))
    job = BulkJob(as_path(bundle, "bundle"), runtime, session, defaults, limits)
    if workers is not None and not flag(ray, "ray"):
        raise InputError("`workers` are Ray's: add `ray`")
    several = whole_number(2 if workers is None else workers, "workers", 1, _MOST_WORKERS) if ray else 0
    source, place = as_path(input, "input"), as_path(output, "output")
    _check_output(place, source, overwrite=flag(overwrite, "overwrite"))
    return _run(job, several, source, place.resolve(), restart=flag(restart, "restart"), progress=progress)


def _check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    check_output_file(output)
    if not is_replaced(output):
        raise InputError(f"{output} cannot be replaced by a whole file (a pipe, a device, a mount): name another place")
    if not output.exists():
        return
    if source.exists() and output.samefile(source):
        raise InputError(f"{output} is the input itself: name another file for the answers")
    forget_settings(output.resolve())
    if not overwrite:
        raise InputError(f"{output} is there already: name another file, or `overwrite` it")


def _run(
    job: BulkJob, workers: int, source: Path, output: Path, *, restart: bool, progress: Progress
) -> GenerateFileResult:
    dependencies = job.dependencies()
    lines = InputFile.look_through(source)
    belongs = {**dependencies, "input": lines.sha256, "version": __version__}
    with _opened(job, workers) as run, PartFile(output, belongs, restart=restart) as part:
        first, started = part.lines, time.perf_counter()
        prompts, generated = _write_answers(lines, part, run, progress)
        part.finish()
        seconds = time.perf_counter() - started
        return GenerateFileResult(output, part.lines, part.errors, first, prompts, generated, seconds, belongs)


def _opened(job: BulkJob, workers: int) -> AbstractContextManager[RunLines]:
    if not workers:
        return job.open()
    from causalrn.serving.ray.bulk import open_workers

    return open_workers(job, workers)


def _write_answers(lines: InputFile, part: PartFile, run: RunLines, progress: Progress) -> tuple[int, int]:
    """Run what is left of the lines; gives tokens of prompts, and those that were generated."""
    prompts = generated = 0
    try:
        with progress("lines", lines.lines - part.lines) as advance:
            started = time.perf_counter()
            for batch in run(lines.read(part.lines)):
                prompts, generated = prompts + batch.prompt_tokens, generated + batch.generated_tokens
                if batch.lines:
                    part.append(batch.lines, batch.errors)
                    speed = generated / (time.perf_counter() - started)
                    advance(len(batch.lines), f"{speed:,.0f} tokens/s")
    except KeyboardInterrupt:
        raise GenerationInterruptedError(
            f"interrupted: {part.path} keeps {part.lines:,} of {lines.lines:,} lines: "
            "the same command goes on from there"
        ) from None
    return prompts, generated
