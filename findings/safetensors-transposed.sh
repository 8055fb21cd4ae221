#!/usr/bin/env bash
# Package: safetensors 0.8.0 (safetensors.numpy), numpy 2.4.6.
# One would guess: save() writes the values of an array that is not in C order, or refuses it as safetensors.torch does.
# What happens: a transposed (Fortran-ordered) array is written without a word as it lies in memory, under the transposed
#   shape. Loading gives an array of the right shape with the values in the wrong places.
# Hits: whoever stores transposed weights or states from numpy: w.T for another runtime's layout, a state [H, B] as [B, H].
# Instead: numpy.ascontiguousarray on everything given to save() or save_file().
# Seen:
#   saved  [[0, 3], [1, 4], [2, 5]]
#   loaded [[0, 1], [2, 3], [4, 5]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile safetensors==0.8.0 numpy==2.4.6
cat > transposed.py <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

weights = np.arange(6, dtype=np.float32).reshape(2, 3)
loaded = load(save({"w": weights.T}))["w"]
safe = load(save({"w": np.ascontiguousarray(weights.T)}))["w"]
print("safetensors", version("safetensors"))
print("expected by a reader: loaded equals saved, or an error")
print("saved      ", weights.T.astype(int).tolist())
print("loaded     ", loaded.astype(int).tolist())
print("contiguous ", safe.astype(int).tolist())
if not np.array_equal(safe, weights.T):
    sys.exit("changed: a contiguous array does not come back as it was saved")
if not np.array_equal(loaded, weights.reshape(3, 2)):
    sys.exit("changed: a transposed array is no longer written in its memory order")
PY
venv/bin/python transposed.py
