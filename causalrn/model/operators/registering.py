"""Telling PyTorch of an operator, so that autograd, torch.compile and DistributedDataParallel see one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def define_operator(
    schema: str,
    run: Callable[..., Any],
    like: Callable[..., Any],
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None,
) -> Callable[..., Any]:
    """Define `causalrn::NAME` and give what calls it.

    `torch.library.custom_op` does the same in one decorator, and imports all of torch.compile, two seconds, when the
    operator is first called (torch 2.13).

    Args:
        schema: name, arguments and results, as PyTorch writes them.
        run: the operator on tensors of any device.
        like: the same arguments -> empty results of the right shapes.
        gradient: what keeps tensors for the backward pass, and that pass.
    """
    name = f"causalrn::{schema.partition('(')[0]}"
    torch.library.define(name, schema.removeprefix(name.partition("::")[2]))
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, like)
    if gradient is not None:
        torch.library.register_autograd(name, gradient[1], setup_context=gradient[0])
    operator: Callable[..., Any] = getattr(torch.ops.causalrn, name.partition("::")[2]).default
    return operator
