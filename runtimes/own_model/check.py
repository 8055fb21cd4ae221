"""One check of a model that users bring: its state, its forms in float64, and all levels over its sessions."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch

from causalrn.bundle.alphabet import Alphabet
from causalrn.model.config import OwnModelConfig
from causalrn.model.own.copying import modules_of
from causalrn.model.own.forms import RecurrentForms, mask_name
from causalrn.model.own.state_probe import StateProbe, probe_state
from causalrn.model.own.step_cell import StepCell
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.own_model.agreement import Agreement64, compare_forms
from causalrn.runtimes.own_model.function_levels import (
    check_contract,
    check_padding,
    check_positions,
    check_reload,
    untouched,
)
from causalrn.runtimes.own_model.isolation import Isolation
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.session_levels import check_reorder, check_rows
from causalrn.runtimes.own_model.sessions import StepSession, WholeSession, forward
from causalrn.runtimes.own_model.watching import NarrowOperation, random_parts
from causalrn.runtimes.parity.attribution import Comparators
from causalrn.runtimes.parity.calls.oracle_table import oracle_table
from causalrn.runtimes.parity.calls.table import CallTable, call_tokens
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.oracle import OracleLongReference
from causalrn.runtimes.parity.plan import Plan
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.parity.results import MODEL_LEVELS, Attribution, Level, LevelResult
from causalrn.runtimes.parity.verification import Verification
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import IntArray
from causalrn.training.card import ModelCard

_NOISE_SHARE, _CALL_SECONDS = 0.1, 3.0
_LEAST_ROWS = 3


@dataclass(frozen=True)
class OwnModel:
    """A model that somebody brings, and what was found out about its state.

    Attributes:
        forms: its functions.
        pristine: copies from before anything ran.
        probe: of its state.
        card: what bundles and reports say of it.
        sha256: of its weights.
    """

    forms: RecurrentForms
    pristine: RecurrentForms
    probe: StateProbe
    card: ModelCard
    sha256: str

    @classmethod
    def of(cls, forms: RecurrentForms, alphabet: Alphabet | None = None) -> OwnModel:
        """Look at a model; an alphabet says what its token ids mean.

        Raises:
            InputError: no module behind the functions, or no state that can be carried.
        """
        pristine = untouched(forms)
        probe = probe_state(forms)
        return cls(forms, pristine, probe, card_of_forms(forms, alphabet), weights_hash(forms))

    def cell(self) -> StepCell:
        """What steps."""
        return StepCell(self.forms, self.probe.tree, self.probe.spec, keeps_given=bool(self.probe.in_place))


def card_of_forms(forms: RecurrentForms, alphabet: Alphabet | None = None) -> ModelCard:
    """What is known of a model."""
    parameters = sum(weight.numel() for module in modules_of(forms) for weight in module.parameters())
    return ModelCard(OwnModelConfig(forms.vocabulary, forms.capacity, forms.title, parameters), alphabet)


def weights_hash(forms: RecurrentForms) -> str:
    """SHA-256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for module in modules_of(forms):
        for name, value in module.state_dict().items():
            content = value.detach().cpu()
            content = content.float() if content.dtype == torch.bfloat16 else content
            digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()


@dataclass
class OwnCheck:
    """A check of a model. :meth:`run` fills in what stands below.

    Attributes:
        model: what is checked.
        tokens: int64 [B, T]; at least three rows of them are compared.
        levels: which of :data:`MODEL_LEVELS`.
        seed: of tokens and calls.
        seconds: how long it may take.
        drift_steps: tokens of the long run.
        verification: all results.
        agreement: of both forms in float64.
        notes, problems: beside the results.
    """

    model: OwnModel
    tokens: IntArray
    levels: Sequence[Level] = MODEL_LEVELS
    seed: int = 0
    seconds: float = 60.0
    drift_steps: int = 256
    progress: Progress = no_progress
    verification: Verification = field(init=False)
    agreement: Agreement64 = field(init=False)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _narrow: tuple[tuple[str, str], ...] = ()

    def run(self) -> None:
        """Check level by level.

        Raises:
            InputError: a function raises something, or the model gives nothing that can be compared.
        """
        deadline = time.monotonic() + self.seconds
        model = self.model
        with self.progress("oracle", 1):
            oracle = OwnOracle(model.pristine, model.probe, model.card)
            self.agreement = compare_forms(oracle, self.tokens)
            reference = oracle.reference(self.tokens, state_positions(self.tokens.shape[1]))
            self._look_inside(oracle)
        case = Case(reference, seed=self.seed)
        recurrent = StepSession(model.cell(), model.card, model.sha256)
        sessions: dict[str, Session] = {"recurrent": recurrent}
        if self.agreement.at_fault != "step":  # else it is told once, of the step
            sessions = {"parallel": WholeSession(model.forms, model.card, model.sha256), **sessions}
        plan = Plan(levels=tuple(self._possible()), deadline=deadline, torch_seconds=_CALL_SECONDS)
        self.verification = Verification(
            sessions,
            case,
            plan,
            self._long(oracle, reference),
            lambda name, threads: self._again(recurrent),
            Comparators({}, states=oracle.states),
            references=lambda tokens: oracle.reference(tokens, state_positions(tokens.shape[1])),
            table=lambda: self._table(oracle, reference),
            opening="open_model(make())",
            further=self._further(recurrent, case),
            shows_streams=bool(model.forms.blocks),
            progress=self.progress,
        )
        with contextlib.closing(recurrent):
            self.verification.run()
        self._conclude()

    def _again(self, session: StepSession) -> CellSession:
        """Another session over the same modules."""
        return StepSession(session.cell, self.model.card, self.model.sha256)

    def _possible(self) -> list[Level]:
        """The levels that were asked for, and for which the model has what they look at."""
        forms = self.model.forms
        missing = {
            "layer": not forms.blocks,
            "padding": not (mask_name(forms.parallel) or mask_name(forms.prefill)),
            "positions": not forms.may_omit_position,
        }
        return [level for level in self.levels if not missing.get(level, False)]

    def _further(self, session: StepSession, case: Case) -> dict[Level, Callable[[], Sequence[LevelResult]]]:
        """The levels that only models have which users bring."""
        model = self.model
        isolation = Isolation(session, lambda: StepSession(session.cell, model.card, model.sha256), model.probe, case)
        return {
            "contract": lambda: [check_contract(model.probe, session, self._narrow)],
            "rows": lambda: [check_rows("recurrent", session, case)],
            "isolation": lambda: [isolation.check()],
            "reorder": lambda: [check_reorder("recurrent", session, case)],
            "padding": lambda: check_padding(model.forms, case),
            "positions": lambda: check_positions(model.forms, case),
            "reload": lambda: check_reload(model.forms, model.pristine, case),
        }

    def _long(self, oracle: OwnOracle, reference: Reference) -> OracleLongReference:
        steps = min(self.drift_steps, self.model.forms.capacity or self.drift_steps)
        tokens = np.random.default_rng([self.seed, 1]).integers(0, self.model.forms.vocabulary, (1, steps))
        return OracleLongReference(oracle, reference, tokens, _NOISE_SHARE * self.seconds)

    def _table(self, oracle: OwnOracle, reference: Reference) -> CallTable:
        tokens = call_tokens(self.model.card, np.random.default_rng([self.seed, 3]), self.tokens.shape[1])
        return oracle_table(oracle, reference, tokens)

    def _look_inside(self, oracle: OwnOracle) -> None:
        """Narrow numbers and random ones: what makes float64 no oracle, and no two runs equal."""
        self._narrow = tuple(oracle.state_dtypes().items())
        halves = [operation for operation in oracle.narrow if operation.dtype != "float32"]
        if halves:
            self.problems.append(
                f"it computes in {halves[0].dtype} inside, whatever its own dtype: {_some(halves)}; results are no "
                "better than that"
            )
        elif oracle.narrow:
            self.notes.append(
                f"it computes in float32 inside, in a float64 copy, too: {_some(oracle.narrow)}; float64 agrees with "
                "itself only to 1e-8 then, and bounds between forms are those of float32"
            )
        modules = modules_of(self.model.forms)
        random = random_parts(lambda: forward(self.model.forms, self.tokens[:, :8]), modules)
        if random:
            self.problems.append(f"{', '.join(random[:3])} draws random numbers: call .eval() before it is verified")

    def _conclude(self) -> None:
        """What float64 told, in front of what float32 did."""
        verification, agreement = self.verification, self.agreement
        if not agreement.agrees and "logits" in self.levels:
            verification.results.insert(self._place_of_logits(), agreement.result())
            verification.attributions.insert(0, agreement.attribution())
            self.notes.append(
                "the forms differ in float64: all other levels compare the step with itself in float64, and say "
                "whether it is consistent, not whether it is the model that the parallel form is"
            )
        for name in self.model.probe.idle:
            self.notes.append(f"{name} is a whole number that no step has changed: should it count?")
        verification.attributions[:] = [_in_own_words(each) for each in verification.attributions]

    def _place_of_logits(self) -> int:
        levels = [result.level for result in self.verification.results]
        return levels.index("logits") if "logits" in levels else 0


def _in_own_words(attribution: Attribution) -> Attribution:
    """What parity/ says of a CausalRN's forms, said of functions that somebody has written."""
    if attribution.cause == "weights":
        verdict = (
            "the parallel form in float32 is out of tolerance, in float64 it is not: it overflows or loses precision; "
            "use a chunked form, or one in log space"
        )
        return msgspec.structs.replace(attribution, cause="parallel form", verdict=verdict)
    if attribution.cause == "cell":
        verdict = f"{attribution.verdict.partition(':')[0]}: from the same state it gives something else than steps do"
        return msgspec.structs.replace(attribution, cause="prefill", verdict=verdict)
    return attribution


def _some(operations: Sequence[NarrowOperation]) -> str:
    words = [operation.describe() for operation in operations]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def at_least(tokens: IntArray, vocabulary: int, seed: int) -> IntArray:
    """Tokens with rows enough for levels that mix rows."""
    missing = _LEAST_ROWS - len(tokens)
    if missing <= 0:
        return tokens
    more = np.random.default_rng([seed, 2]).integers(0, vocabulary, (missing, tokens.shape[1]))
    return np.concatenate([tokens, more])
