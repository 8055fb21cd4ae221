#!/usr/bin/env bash
# Package: safetensors 0.8.0 (safetensors.numpy), numpy 2.4.6, ml_dtypes 0.6.0.
# One would guess: load(bytes) gives what load_file(path) gives, in one order.
# What happens: load() returns the tensors in an order that changes from process to process, load_file() always in one. And
#   load() raises KeyError 'BF16' for a bfloat16 tensor that save() has just written and that load_file() reads.
# Hits: whoever binds state tensors to a runtime's inputs by position (list(load(...).values())): right in one run, swapped
#   in the next, without an error where the shapes are equal; and whoever keeps a bfloat16 state in memory.
# Instead: bind by name, or sort the names; read bfloat16 through load_file.
# Seen (12 processes, four tensors of one shape):
#   load 9 different orders (it varies), load_file 1
#   bfloat16: load KeyError 'BF16', load_file bfloat16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cat > save.py <<'PY'
import numpy as np
from safetensors.numpy import save_file

save_file({f"layer{i}": np.zeros(4, np.float32) for i in range(4)}, "state.safetensors")
PY
cat > order.py <<'PY'
from pathlib import Path

from safetensors.numpy import load, load_file

print(",".join(load(Path("state.safetensors").read_bytes())), ",".join(load_file("state.safetensors")))
PY
cat > judge.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load, load_file, save

lines = [line.split() for line in Path("orders.txt").read_text().splitlines()]
from_bytes, from_file = ({line[column] for line in lines} for column in (0, 1))
print("safetensors", version("safetensors"))
print("expected by a reader: one order, and bfloat16 either way")
print(f"{len(lines)} processes: load {len(from_bytes)} different orders, load_file {len(from_file)}")
content = save({"state": np.ones(4, ml_dtypes.bfloat16)})
Path("half.safetensors").write_bytes(content)
try:
    seen = str(load(content)["state"].dtype)
except KeyError as error:
    seen = f"KeyError {error}"
print(f"bfloat16: load {seen}, load_file {load_file('half.safetensors')['state'].dtype}")
if len(from_bytes) == 1 or len(from_file) != 1:
    sys.exit("changed: load() has one order now, or load_file() several")
if not seen.startswith("KeyError"):
    sys.exit("changed: load() reads bfloat16 now")
PY
venv/bin/python save.py
for _ in $(seq 12); do venv/bin/python order.py >> orders.txt; done
venv/bin/python judge.py
