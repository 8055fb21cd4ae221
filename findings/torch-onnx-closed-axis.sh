#!/usr/bin/env bash
# Package: torch 2.13.0 (torch.onnx.export with dynamo=True, torch.export.export), onnxscript 0.7.2.
# One would guess: an axis that `dynamic_shapes` names with a torch.export.Dim is open in the graph, or the export fails, as
#   torch.export.export does.
# What happens: where the module's code turns a size into a Python number (int(x.shape[1]), len(row), a chunk size), the
#   axis has the example's size in the graph: no error, no warning. The graph loads, and is refused by a runtime at the first
#   input of another length; a length that happens to fit is computed as if nothing were wrong.
# Hits: prefills and streaming encoders that are traced for "any" number of tokens.
# Instead: look at the shapes of the graph's inputs after the export, or export with torch.export.export(strict=False) first.
# Seen:
#   torch.export.export: UserError, "Constraints violated (T)"
#   torch.onnx.export: 0 warnings about it, input [B,4]
#   the same without int(): input [B,T]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2
cat > axis.py <<'PY'
import logging
import sys
import warnings

logging.disable(logging.WARNING)

import torch


class Mean(torch.nn.Module):
    """The mean of each row; `number` turns its length into what it is divided by."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):  # [B, T]
        return x.sum(1) / self.number(x.shape[1])


def shapes():
    return ({0: torch.export.Dim("B", min=2, max=64), 1: torch.export.Dim("T", min=2, max=64)},)


def onnx_axes(number):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = torch.onnx.export(
            Mean(number).eval(), (torch.ones(2, 4),), dynamo=True, verbose=False, dynamic_shapes=shapes()
        )
    about = [warning for warning in caught if "ynamic" in str(warning.message) or "onstraint" in str(warning.message)]
    return [str(dim) for dim in program.model.graph.inputs[0].shape], len(about)


try:
    torch.export.export(Mean(int).eval(), (torch.ones(2, 4),), dynamic_shapes=shapes())
    error = "none"
except Exception as raised:
    error = f"{type(raised).__name__}, {str(raised)[:24]!r}"
closed, warned = onnx_axes(int)
opened, _ = onnx_axes(lambda size: size)
print(f"torch.export.export: {error}")
print(f"torch.onnx.export: {warned} warnings about it, input [{','.join(closed)}]")
print(f"the same without int(): input [{','.join(opened)}]")
same = "Constraints violated (T)" in error and closed == ["B", "4"] and opened == ["B", "T"] and warned == 0
sys.exit(0 if same else "the behaviour has changed")
PY
venv/bin/python axis.py
