"""Causal language models of Hugging Face transformers: their parallel form, step, prefill and state as plain functions.

    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    forms = recurrent(model)
    state = forms.initial_state(1)
    logits, state = forms.step(tokens, state, position)

The model's own code runs, with a new cache object per call that is filled from the state and read out again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from causalrn.adapters.cache_layouts import DynamicCacheLayout, State
from causalrn.adapters.kept_float64 import KeptFloat64
from causalrn.adapters.own_layouts import OWN_LAYOUTS
from causalrn.errors import ConfigError, InputError, RuntimeUnavailableError
from causalrn.model.own.forms import RecurrentForms


def recurrent(model: Any, *, padding: bool = False, keep_float64: bool = True) -> RecurrentForms:
    """The forms of a causal language model of transformers.

    The functions are methods of one `torch.nn.Module` that holds the model: copies of it, in another dtype or on
    another device, work like the original. Gradients are recorded as usual: call them under `torch.no_grad()`.

    Args:
        model: what `AutoModelForCausalLM` makes, in eval mode. It is not copied.
        padding: prefill takes an `attention_mask` of batches padded on the left, and the state remembers how many
            tokens of a row were padding (`padding`, int64 [B]). Positions then count from a row's first token.
        keep_float64: copies in float64 compute all of themselves in float64, which the models themselves do not
            (`KeptFloat64`). Nothing changes in other dtypes.

    Raises:
        RuntimeUnavailableError: transformers is not installed.
        ConfigError: a model of another kind, or one whose cache is more than tensors.
    """
    _import_transformers()
    forms = TransformersForms(model, padding=padding, keep_float64=keep_float64)
    config = model.config.get_text_config(decoder=True)
    step, prefill = forms.chosen_functions()
    return RecurrentForms(
        parallel=forms.parallel if forms.masks_padding else forms.parallel_unmasked,
        step=step,
        initial_state=forms.initial_state,
        prefill=prefill,
        vocabulary=config.vocab_size,
        capacity=getattr(config, "max_position_embeddings", None),
        blocks=find_blocks(model),
        name=model.config.model_type,
    )


class TransformersForms(nn.Module):
    """A model with the functions of its forms; `forward` is the step."""

    def __init__(self, model: Any, *, padding: bool, keep_float64: bool) -> None:
        super().__init__()
        takes = _check_model(model)
        self.model = model
        self.takes_positions = "position_ids" in takes
        self.masks_padding = "attention_mask" in takes
        self.keeps_padding = padding
        self.keep_float64 = keep_float64
        if padding and not self.masks_padding:
            raise ConfigError(f"{model.config.model_type} takes no `attention_mask`: leave `padding` out")
        self.layout = OWN_LAYOUTS.get(model.config.model_type, DynamicCacheLayout)(model.config)
        self._after_one_token: dict[Any, State] = {}
        with torch.no_grad():
            self.initial_state(1)  # also what models do once, at their first call

    def forward(self, tokens: Tensor, state: State, position: Tensor | None = None) -> tuple[Tensor, State]:
        """`step`, for tracing."""
        return self.step(tokens, state, position)

    def parallel(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of tokens int64 [B, T], without a cache; `attention_mask` int64 [B, T], 0 where padded."""
        inputs: dict[str, Any] = {"input_ids": tokens}
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)  # [B, T]
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.takes_positions:
            inputs["position_ids"] = positions
        with self._arithmetic():
            return _checked(self.layout.run_parallel(self.model, inputs), tokens)

    def parallel_unmasked(self, tokens: Tensor) -> Tensor:
        """`parallel` of models that take no mask."""
        return self.parallel(tokens)

    def initial_state(self, batch: int) -> State:
        """The state of `batch` rows before the first token, in the dtypes that the model itself uses."""
        weight = next(self.model.parameters())
        kind = (weight.dtype, weight.device)
        if kind not in self._after_one_token:
            tokens = torch.zeros((1, 1), dtype=torch.int64, device=weight.device)
            inputs = {"input_ids": tokens} | ({"position_ids": tokens} if self.takes_positions else {})
            with torch.no_grad(), self._arithmetic():
                self._after_one_token[kind] = self.layout.run(self.model, None, inputs, None)[1]
        state = self.layout.clear(self._after_one_token[kind], batch)
        if self.keeps_padding:
            state["padding"] = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return state

    def chosen_functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The step and the prefill with the arguments that this model needs."""
        rows, window = self.layout.rows_kept(self.initial_state(1))
        if rows is not None and window is None:  # the state says how many tokens came before
            return self.step, self.prefill_padded if self.keeps_padding else self.prefill
        if self.takes_positions or self.keeps_padding:
            return self.step_at, self.prefill_padded_at if self.keeps_padding else self.prefill_at
        return self.step_anywhere, self.prefill_anywhere

    def step(self, tokens: Tensor, state: State, position: Tensor | None = None) -> tuple[Tensor, State]:
        """Tokens int64 [B] -> logits [B, V] and a new state. `position`: int64 scalar, the number of tokens before."""
        logits, after = self._continue(tokens[:, None], state, position, None)
        return logits[:, 0], after

    def step_at(self, tokens: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        """`step` of models whose state does not say the position: windows, and recurrent layers with positions."""
        return self.step(tokens, state, position)

    def step_anywhere(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """`step` of models without positions."""
        return self.step(tokens, state)

    def prefill(self, tokens: Tensor, state: State, position: Tensor | None = None) -> tuple[Tensor, State]:
        """Tokens int64 [B, T] onto a state -> logits [B, T, V] and a new state; otherwise as `step`."""
        return self._continue(tokens, state, position, None)

    def prefill_at(self, tokens: Tensor, state: State, position: Tensor) -> tuple[Tensor, State]:
        """`prefill`, as `step_at`."""
        return self._continue(tokens, state, position, None)

    def prefill_anywhere(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """`prefill`, as `step_anywhere`."""
        return self._continue(tokens, state, None, None)

    def prefill_padded_at(
        self, tokens: Tensor, state: State, position: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """`prefill_padded`, as `step_at`."""
        return self.prefill_padded(tokens, state, position, attention_mask)

    def prefill_padded(
        self, tokens: Tensor, state: State, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """`prefill` of rows that may be padded on the left: `attention_mask` int64 [B, T], 0 for padding.

        Raises:
            InputError: padding to the right of a token.
        """
        if attention_mask is not None and not torch.compiler.is_compiling():
            begun = attention_mask[:, 1:] < attention_mask[:, :-1]
            if bool(begun.any()):
                raise InputError("`attention_mask` has padding after a token: pad rows on the left")
        return self._continue(tokens, state, position, attention_mask)

    def _continue(
        self, tokens: Tensor, state: State, position: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, State]:
        rows, window = self.layout.rows_kept(state)
        if position is None and (self.takes_positions or self.keeps_padding):
            if rows is None or window is not None:
                raise InputError("`position` is missing: this model's state does not say how many tokens came before")
            position = torch.tensor(rows, device=tokens.device)
        inputs: dict[str, Any] = {"input_ids": tokens}
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        padding = None
        if self.keeps_padding and position is not None:
            padding = _add_padding(state["padding"], position, attention_mask)
            kept = torch.arange((rows or 0) + tokens.shape[1], device=tokens.device) + (position - (rows or 0))
            inputs["attention_mask"] = (kept[None] >= padding[:, None]).to(torch.int64)  # [B, rows + T]
        if self.takes_positions and position is not None:
            positions = (columns + position).expand(tokens.shape)
            inputs["position_ids"] = positions if padding is None else (positions - padding[:, None]).clamp(min=0)
        seen = rows if padding is not None and window is None else None
        with self._arithmetic():
            logits, after = self.layout.run(self.model, state, inputs, seen)
        return _checked(logits, tokens), after if padding is None else after | {"padding": padding}

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """In float64: all of it. There, and in traces, products of experts in batches: grouped ones have no float64.

        Nor have grouped ones an ONNX operator. What the model is set to is put back.
        """
        wide = next(self.model.parameters()).dtype == torch.float64
        traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        experts = self.model.get_experts_implementation()
        batched = {name: "batched_mm" if kind == "grouped_mm" else kind for name, kind in experts.items()}
        if (wide or traced) and batched != experts:
            self.model.set_experts_implementation(batched)
        try:
            if wide and self.keep_float64 and not traced:
                with KeptFloat64():  # type: ignore[no-untyped-call]  # PyTorch's base class has no types
                    yield
            else:
                yield
        finally:
            if self.model.get_experts_implementation() != experts:
                self.model.set_experts_implementation(experts)


def find_blocks(model: Any) -> list[Any] | None:
    """The decoder's layers: the first list of modules that is as long as the configuration says."""
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return None


def _checked(logits: Tensor, tokens: Tensor) -> Tensor:
    if logits.shape[:2] != tokens.shape:
        shapes = f"logits {list(logits.shape)} of tokens {list(tokens.shape)}"
        raise ConfigError(f"the model makes {shapes}: it does not keep the rows of a batch apart")
    return logits


def _add_padding(padding: Tensor, position: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Padded tokens per row, int64 [B]: rows that were nothing but padding so far may go on with it."""
    if attention_mask is None:
        return padding.clone()
    more = (1 - attention_mask).sum(dim=1)
    return torch.where(padding == position, padding + more, padding)


def _check_model(model: Any) -> set[str]:
    """The names of the model's arguments, if it can be stepped.

    Raises:
        ConfigError: it cannot.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ConfigError(f"`model` is a {type(model).__name__}: give a model of transformers")
    kind = model.config.model_type
    if getattr(model.config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise ConfigError(f"{kind} is no causal language model: make it by AutoModelForCausalLM")
    if model.training:
        raise ConfigError("`model` is in training mode: call model.eval() first")
    takes = set(inspect.signature(model.forward).parameters)
    if not takes & {"cache", "state"}:
        raise ConfigError(f"{kind} takes no `cache`: it has no recurrent form here")
    return takes


def _import_transformers() -> None:
    try:
        import transformers  # noqa: F401  # for its absence: everything here imports it lazily
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"transformers cannot be imported ({error}): pip install 'causalrn[transformers]'"
        ) from None
