"""The error bound against what float32 does: trained, random, delicate and adversarial models. Run it:

    python benchmarks/error_bound.py [--run RUN] [--seeds N] [--json FILE]

It needs `pip install 'causalrn[export]'` and about two minutes. Per case: the largest error of the logits over three
float32 forms (parallel; recurrent by steps and by prefill), relative to the largest logit, and by how much the bound
of docs/parity.md exceeds it, at the position where it is closest and over the whole sequence. `--run` adds a trained
model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.model.cell import RecurrentCell
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.parity.comparison import step_errors
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint

_SMALL = {"vocabulary": 29, "embedding": 32, "hidden": 32, "blocks": 2, "capacity": 40}
_PAPER = {"vocabulary": 29, "embedding": 192, "hidden": 192, "blocks": 12, "capacity": 256}
Change = Callable[[SequenceModel], object]


def cancelling(noise: float) -> Change:
    """W2 = -W1 + noise: pairs nearly cancel."""

    def change(model: SequenceModel) -> None:
        for block in model.blocks:
            block.fc_2.weight.data = -block.fc_1.weight.data + noise * torch.randn_like(block.fc_1.weight)
            block.fc_1.bias.data.zero_()

    return change


def spike(factor: float) -> Change:
    """One channel towers over the others."""

    def change(model: SequenceModel) -> None:
        for block in model.blocks:
            block.fc_1.weight.data[3] *= factor
            block.fc_2.weight.data *= factor / 10
            block.fc_3.weight.data *= factor / 10

    return change


def keep(model: SequenceModel) -> None:
    """As it is."""


def cases() -> Iterator[tuple[str, list[ModelConfig], Change, bool]]:
    """Name, configurations, what is done to the weights, and whether one token is repeated."""
    family: list[ModelConfig] = [
        CausalRNConfig(**_SMALL, **options)
        for options in (
            {"readout": "exact"},
            {"readout": "linear"},
            {"readout": "plain"},
            {"heads": 2},
            {"norm": "rms"},
            {"post_norm": False},
            {"activation": "gelu"},
        )
    ]
    family += [TransformerConfig(**_SMALL, attention=attention) for attention in ("softmax", "linear")]
    three = [CausalRNConfig(**_SMALL, readout=readout) for readout in ("exact", "linear", "plain")]
    yield "random, the family", family, keep, False
    yield "random, one token repeated", family, keep, True
    for readout in ("exact", "linear", "plain"):
        yield f"paper's size, {readout}", [CausalRNConfig(**_PAPER, readout=readout)], keep, False
    yield "a channel 30 times the others", three, spike(30), False
    yield "a channel 1,000 times the others", three[:2], spike(1000), False
    for noise in (1e-1, 1e-3, 1e-5):
        yield f"W2 = -W1 + {noise:.0e} noise", three[:1], cancelling(noise), False
        yield f"W2 = -W1 + {noise:.0e} noise, repeated", three[:1], cancelling(noise), True


def measure(model: SequenceModel, tokens: np.ndarray) -> list[dict]:
    """Per form the error, and the bound over it."""
    card, steps = ModelCard(model.config), tokens.shape[1]
    reference = CheckpointOracle(model, card).reference(tokens, (1, steps - 1))
    cell, parallel = RecurrentSession(RecurrentCell.from_model(model), card), ParallelSession(model, card)
    rows = []
    folded, unfolded = reference.bounds.logits, reference.of_parallel().bounds.logits
    for session, lengths, bound in (
        (cell, [1] * steps, folded),
        (cell, [steps], folded),
        (parallel, [steps], unfolded),
    ):
        errors = step_errors(run_in_chunks(session, tokens, lengths).logits, reference.logits)
        rows.append(
            {
                "error": float(errors.max()) / reference.largest_logit,
                "closest": float((bound / np.maximum(errors, 1e-300)).min()),
                "over_all": float(bound.max() / errors.max()),
            }
        )
    return rows


def summarize(name: str, rows: list[dict]) -> dict:
    return {
        "case": name,
        "runs": len(rows),
        "error": [min(row["error"] for row in rows), max(row["error"] for row in rows)],
        "closest": min(row["closest"] for row in rows),
        "over_all": [min(row["over_all"] for row in rows), max(row["over_all"] for row in rows)],
    }


def run(seeds: int, trained: Path | None) -> list[dict]:
    todo = list(cases())
    rows = []
    with show_progress("cases", len(todo)) as advance:
        for name, configs, change, repeat in todo:
            found = []
            for seed in range(seeds):
                for config in configs:
                    model = unit_gain_model(config, seed)
                    torch.manual_seed(seed)
                    change(model)
                    rng = np.random.default_rng(seed)
                    tokens = rng.integers(
                        0, config.vocabulary, (1 if config.blocks == 12 else 3, config.capacity or 40)
                    )
                    found += measure(model, tokens[:, :1].repeat(tokens.shape[1], 1) if repeat else tokens)
            rows.append(summarize(name, found))
            advance(1, name)
    if trained is not None:
        checkpoint = load_checkpoint(trained)
        examples = checkpoint.card.task.draw("verify", 4, 0)
        rows.insert(
            0, summarize(f"trained, {checkpoint.card.config.describe()}", measure(checkpoint.model, examples.inputs))
        )
    return rows


def print_report(rows: list[dict]) -> None:
    table = Table("case", "runs", "error", "bound / error", "at the closest step")
    for row in rows:
        table.add_row(
            row["case"],
            str(row["runs"]),
            " to ".join(f"{error:.1e}" for error in row["error"]),
            " to ".join(f"{ratio:.1f}" for ratio in row["over_all"]),
            f"{row['closest']:.1f}",
        )
    Console(highlight=False, width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="RUN", help="checkpoint folder of a trained model")
    parser.add_argument("--seeds", type=int, default=5, help="models per case (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    rows = run(options.seeds, options.run)
    print_report(rows)
    write_json(options.json, {"benchmark": "error_bound", "cases": rows})
    return 0 if all(row["closest"] >= 1 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
