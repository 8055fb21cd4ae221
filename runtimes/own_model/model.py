"""A model that users bring, with what was found out about it by running it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from causalrn.bundle.alphabet import Alphabet
from causalrn.errors import InputError
from causalrn.model.config import OwnModelConfig
from causalrn.model.own.copying import copied, modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_probe import StateProbe, probe_state
from causalrn.model.own.step_cell import StepCell
from causalrn.model.own.tensor_bytes import tensor_bytes
from causalrn.runtimes.own_model.blocks import with_usable_blocks
from causalrn.training.card import ModelCard


@dataclass(frozen=True)
class OwnModel:
    """A model that somebody brings, and what was found out about its state.

    Attributes:
        forms: its functions.
        pristine: copies from before anything ran.
        probe: of its state.
        card: what bundles and reports say of it.
        sha256: of its weights.
        why_no_layers: what keeps its blocks from being compared; "" where nothing does.
    """

    forms: RecurrentForms
    pristine: RecurrentForms
    probe: StateProbe
    card: ModelCard
    sha256: str
    why_no_layers: str = ""

    @classmethod
    def of(cls, forms: RecurrentForms, alphabet: Alphabet | None = None, *, blocks_are_named: bool = False) -> OwnModel:
        """Look at a model.

        Args:
            forms: its functions.
            alphabet: what its token ids mean.
            blocks_are_named: whether somebody named its blocks, and did not hand over a model that has some.

        Raises:
            InputError: no module behind the functions, weights without numbers, no state that can be carried, or
                blocks that were named and cannot be compared.
        """
        _check_loaded(forms)
        pristine = copied(forms)
        probe = probe_state(forms)
        forms, why_not = with_usable_blocks(forms, are_named=blocks_are_named)
        pristine = replace(pristine, blocks=None) if why_not else pristine
        return cls(forms, pristine, probe, card_of_forms(forms, alphabet), weights_hash(forms), why_not)

    def cell(self) -> StepCell:
        """What steps."""
        return StepCell(self.forms, self.probe.tree, self.probe.spec, keeps_given=bool(self.probe.in_place))


def card_of_forms(forms: RecurrentForms, alphabet: Alphabet | None = None) -> ModelCard:
    """What is known of a model."""
    parameters = sum(weight.numel() for module in modules_of(forms) for weight in module.parameters())
    return ModelCard(OwnModelConfig(forms.vocabulary, forms.capacity, forms.title, parameters), alphabet)


def weights_hash(forms: RecurrentForms) -> str:
    """SHA-256 of all parameters and buffers, with their names, dtypes and shapes.

    Raises:
        InputError: one whose numbers cannot be read.
    """
    digest = hashlib.sha256()
    for module in modules_of(forms):
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            digest.update(f"{name} ".encode() + tensor_bytes(value))
    return digest.hexdigest()


def check_widths(forms: RecurrentForms) -> None:
    """Refuse weights of 16 bits: what a verification allows is rounding in float32.

    Raises:
        InputError: there are such.
    """
    for name, weight in _named_weights(forms):
        if weight.dtype in (torch.float16, torch.bfloat16):
            dtype = str(weight.dtype).removeprefix("torch.")
            raise InputError(f"the weight {name} is {dtype}: verify the model in float32 (call .float())")


def _check_loaded(forms: RecurrentForms) -> None:
    for name, weight in _named_weights(forms):
        if weight.is_meta:
            raise InputError(f"the weight {name} is on the meta device, without numbers: load the weights first")


def _named_weights(forms: RecurrentForms) -> Iterator[tuple[str, Tensor]]:
    return (pair for module in modules_of(forms) for pair in module.named_parameters())
