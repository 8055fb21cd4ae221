#!/usr/bin/env bash
# Package: executorch 1.5.1 (with torch 2.13.0).
# One would guess: a buffer that forward() writes starts, in the program, at the value it had when it was exported.
# What happens: the state is kept between calls, but its starting value is not saved: it starts at zero. There is no
#   warning. The value is saved only for buffers named in InitializedMutableBufferPass.
# Hits: whoever starts a recurrent model from something other than zero: a learned start, minus infinity for a running
#   maximum, a counter that starts at one, a state after a prompt.
# Instead: keep the state outside the program (input and output), or pass
#   ExecutorchBackendConfig(passes=[InitializedMutableBufferPass(["part of the buffer's name"])]).
# Seen:
#   start 0.0: eager [1.0, 2.0], executorch [1.0, 2.0]
#   start 5.0: eager [6.0, 7.0], executorch [1.0, 2.0], named in the pass [6.0, 7.0]
#   start -inf: eager [-inf, -inf], executorch [1.0, 2.0], named in the pass [-inf, -inf]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 executorch==1.5.1
cat > start.py <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
from executorch.runtime import Runtime


class Counter(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.register_buffer("memory", torch.full((1, 4), start))

    def forward(self, x):
        self.memory.add_(x)
        return self.memory.clone()


def two_steps(step):
    return [float(step()[0, 0]) for _ in range(2)]


def run_exported(start, passes):
    edge = to_edge(torch.export.export(Counter(start), (x,)))
    program = Runtime.get().load_program(edge.to_executorch(ExecutorchBackendConfig(passes=passes)).buffer)
    method = program.load_method("forward")
    return two_steps(lambda: method.execute((x,))[0])


x = torch.ones(1, 4)
print("executorch", version("executorch"))
print("expected by a reader: the program counts from where the buffer was")
seen = {}
for start in (0.0, 5.0, float("-inf")):
    model = Counter(start)
    eager = two_steps(lambda: model(x))
    seen[start] = run_exported(start, [])
    named = run_exported(start, [InitializedMutableBufferPass(["memory"])])
    print(f"start {start}: eager {eager}, executorch {seen[start]}, named in the pass {named}")
    if named != eager:
        sys.exit("changed: InitializedMutableBufferPass no longer saves the starting value")
if seen[5.0] != [1.0, 2.0] or seen[float("-inf")] != [1.0, 2.0]:
    sys.exit("changed: a buffer's starting value is no longer replaced by zero")
PY
venv/bin/python start.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
