#!/usr/bin/env bash
# Package: torch 2.13.0
# One would guess: a program that never compiles does not load torch.compile; `import torch` leaves it out for that reason.
# What happens: torch._dynamo, with sympy and torch.distributed's sharding behind it, is imported by the first optimizer
#   that is constructed, by the first call of a torch.library.custom_op, by the first operation inside any
#   TorchDispatchMode, and by filling a weight on the device "meta" (which is how shapes are looked up without memory).
#   That is as long again as `import torch` itself, two seconds here, in the first step of a program rather than at its top.
# Hits: command lines and tests that start often, and whoever times a first step.
# Instead: torch.library.define, impl and register_autograd register an operator without it; weights on "meta" can be left
#   unfilled by a TorchFunctionMode that gives back what torch.nn.init is handed.
# Seen (loaded afterwards?):
#   import torch                    False
#   torch.library.define and impl   False
#   torch.empty on meta             False
#   normal_ on meta                 True
#   torch.optim.SGD                 True
#   torch.library.custom_op         True
#   TorchDispatchMode               True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 numpy==2.4.6
cat > loads.py <<'PY'
import subprocess
import sys

CASES = {
    "import torch": ("", False),
    "torch.library.define and impl": (
        "torch.library.define('own::twice', '(Tensor x) -> Tensor')\n"
        "torch.library.impl('own::twice', 'default', lambda x: 2 * x)\n"
        "torch.ops.own.twice(torch.ones(2))",
        False,
    ),
    "torch.empty on meta": ("torch.empty(3, device='meta')", False),
    "normal_ on meta": ("torch.empty(3, device='meta').normal_()", True),
    "torch.optim.SGD": ("torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)", True),
    "torch.library.custom_op": (
        "def twice(x: torch.Tensor) -> torch.Tensor:\n"
        "    return 2 * x\n"
        "torch.library.custom_op('own::twice', twice, mutates_args=())(torch.ones(2))",
        True,
    ),
    "TorchDispatchMode": (
        "from torch.utils._python_dispatch import TorchDispatchMode\n"
        "class Watch(TorchDispatchMode):\n"
        "    def __torch_dispatch__(self, function, types, args=(), kwargs=None):\n"
        "        return function(*args, **(kwargs or {}))\n"
        "with Watch():\n"
        "    torch.ones(2) + 1",
        True,
    ),
}
changed = []
for name, (code, expected) in CASES.items():
    program = (
        f"import sys, time, torch\nstart = time.perf_counter()\n{code}\n"
        "print('torch._dynamo' in sys.modules, round(time.perf_counter() - start, 1))"
    )
    loaded, seconds = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    print(f"{name:<31} {loaded:<5} {seconds} s")
    if loaded != str(expected):
        changed.append(name)
if changed:
    sys.exit(f"changed: {', '.join(changed)}")
PY
venv/bin/python loads.py
