"""Export of a recurrent model that users bring: an ordinary ONNX bundle, which runs without torch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalrn.bundle.alphabet import ALPHABET_SIZES, Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.disk.folders import check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.errors import BundleError, FallbackWarning, InputError, RuntimeUnavailableError
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.golden import golden_tokens, save_golden
from causalrn.runtimes.parity.late_windows import LateWindows
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.workflows.arguments import PathLike, flag, optional_choice, whole_number
from causalrn.workflows.export import DEFAULT_OPSET, ExportResult

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.model.own.forms import RecurrentForms
    from causalrn.runtimes.own_model.model import OwnModel
    from causalrn.runtimes.own_model.oracle import OwnOracle


def export_recurrent(
    model: Any = None,
    *,
    output: PathLike,
    step: Callable[..., Any] | None = None,
    initial_state: Callable[[int], Any] | None = None,
    vocabulary: int | None = None,
    prefill: Callable[..., Any] | None = None,
    parallel: Callable[..., Any] | None = None,
    capacity: int | None = None,
    alphabet: str | None = None,
    opset: int = DEFAULT_OPSET,
    single_file: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a recurrent PyTorch model as an ONNX bundle: `run`, `verify`, `bench` and `quantize` take it as any other.

    Its functions are traced: the step with any number of sequences, the prefill with any number of tokens. Golden
    vectors come from a copy in float64: of the parallel form where there is one, and it agrees with the step.

    Args:
        model: as for :func:`causalrn.verify_recurrent`.
        output: folder to write; an earlier bundle there is replaced.
        step, initial_state, vocabulary, prefill, capacity: as for :func:`causalrn.verify_recurrent`. A state that grows
            has to begin with no rows.
        parallel: what the step has to agree with; None takes the module, or where there is none the step's own word.
        alphabet: "letters" or "bytes", so that prompts can be text; None leaves token ids.
        opset: of ONNX, 18 to 23.
        single_file: the weights inside each graph, instead of one file that both share.
        overwrite: replace a bundle whose folder holds files that were added or changed since; they are deleted.
        progress: shows progress.

    Raises:
        InputError: functions that are missing or cannot be traced, a state that no graph can carry, a step that is not
            what the parallel form is, or an output that holds something else.

    Example:
        >>> bundle = export_recurrent(model, vocabulary=29, output="bundle")  # doctest: +SKIP
        >>> with causalrn.open_session(bundle) as session:  # doctest: +SKIP
        ...     logits = session.step([3])
    """
    from causalrn.export.own_model_exporter import export_own_model
    from causalrn.model.own.state_probe import check_usable
    from causalrn.runtimes.own_model.model import OwnModel
    from causalrn.runtimes.own_model.oracle import OwnOracle

    folder, overwrite = as_path(output, "output"), flag(overwrite, "overwrite")
    opset, single_file = whole_number(opset, "opset", 1, 1000), flag(single_file, "single_file")
    named = optional_choice(alphabet, "alphabet", ALPHABET_SIZES)
    check_replaceable(folder, BUNDLE_MARKER, overwrite)
    given = {"parallel": parallel, "step": step, "initial_state": initial_state, "prefill": prefill}
    forms = _exported_forms(model, given | {"vocabulary": vocabulary, "capacity": capacity})
    with written_folder(folder, BUNDLE_MARKER, overwrite) as partial, progress("export", 3) as advance:
        advance(0, "reference")
        own = OwnModel.of(forms, None if named is None else Alphabet(named))
        check_usable(own.probe)
        reference, late = _references(own, OwnOracle(own.pristine, own.probe, own.card))
        advance(1, "graphs")
        manifest = export_own_model(own.forms, own.probe, own.card, own.sha256, partial, opset, single_file=single_file)
        advance(1, "golden vectors")
        unfinished = seal_bundle(partial, manifest)
        _record(partial, unfinished, reference, late)
        bundle = seal_bundle(partial, manifest, hashed=unfinished.manifest.files)
        advance(1)
    return ExportResult(Bundle(folder, bundle.manifest, bundle.sha256))


def _record(folder: Path, unfinished: Bundle, reference: Reference, late: LateWindows) -> None:
    """Golden vectors, by running the graphs for the first time.

    Raises:
        InputError: they cannot be run.
    """
    try:
        with open_bundle(unfinished) as session:
            save_golden(folder, reference, session, late)
    except (BundleError, RuntimeUnavailableError) as error:  # of a folder that nobody will see
        words = str(error).replace(f"{folder}/", "").replace(f"{folder}: ", "").removesuffix(": export again")
        raise InputError(f"the traced model does not run in onnxruntime: {words}") from None


def _exported_forms(model: Any, given: dict[str, Any]) -> RecurrentForms:
    """Forms in float32 and evaluation mode; where there is no parallel form, the step scans in its place."""
    import torch

    from causalrn.model.own.copying import copied, modules_of
    from causalrn.model.own.forms import forms_from, scanning

    named = given if model is None else dict(model) if isinstance(model, Mapping) else {"parallel": model}
    if named.get("parallel") is None and callable(named.get("step")) and callable(named.get("initial_state")):
        given = given | {"parallel": scanning(named["step"], named["initial_state"])}
    forms = dataclasses.replace(copied(forms_from(model, given), torch.float32), blocks=None)  # graphs show no streams
    for module in modules_of(forms):
        module.eval()
    return forms


def _references(own: OwnModel, oracle: OwnOracle) -> tuple[Reference, LateWindows]:
    """The oracle's values for golden vectors.

    Raises:
        InputError: step, prefill and parallel form differ.
    """
    from causalrn.runtimes.own_model.agreement import compare_forms, compare_prefill
    from causalrn.runtimes.parity.calls.oracle_table import late_windows

    capacity = own.forms.capacity
    tokens = golden_tokens(own.card, capacity)
    agreement = compare_forms(oracle, np.asarray(tokens))
    if agreement.at_fault == "step":
        raise InputError(
            f"step is not what the parallel form is: they differ by {agreement.error:.0e} of the largest logit at step "
            f"{agreement.step}; `verify_recurrent` says where it begins"
        )
    if not agreement.agrees:
        words = f"{agreement.why}: golden vectors are the step's, in float64"
        warnings.warn(words, FallbackWarning, stacklevel=3)
    split = compare_prefill(oracle, np.asarray(tokens))
    if split is not None and not split.agrees:
        raise InputError(f"{split.why} (step {split.step}): mend it, or leave `prefill` out")
    reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
    oracle.leads = "recurrent"  # long rows, which parallel forms may not stand
    late = late_windows(oracle, tokens, capacity)
    seen = oracle.irregular | {name: f"no more than {rows} rows" for name, rows in oracle.windows.items()}
    for name, words in seen.items():
        raise InputError(f"{name} has {words}: a graph carries what is constant, or gains a row with every token")
    return reference, late
