#!/usr/bin/env bash
# Package: safetensors 0.8.0 (safetensors.numpy), numpy 2.4.6.
# One would guess: the same tensors and the same metadata give the same file, byte for byte.
# What happens: with several entries of metadata their order changes from call to call, in one process already, so the
#   bytes and their hash do; tensors and entries read back the same, and with one entry or none the bytes are the same.
# Hits: whoever compares or caches state files by their hash: an unchanged state looks changed, and is stored or sent again.
# Instead: hash the tensors and the sorted entries, or put everything into one entry of JSON.
# Seen (12 calls, six entries):
#   six entries: 12 different files (it varies), one entry: 1, none: 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile safetensors==0.8.0 numpy==2.4.6
cat > judge.py <<'PY'
import hashlib
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

tensors = {"state": np.arange(4, dtype=np.float32)}
entries = {f"entry{i}": str(i) for i in range(6)}


def different(metadata):
    files = [save(tensors, metadata=metadata) for _ in range(12)]
    assert all(np.array_equal(load(file)["state"], tensors["state"]) for file in files)
    return len({hashlib.sha256(file).hexdigest() for file in files})


print("safetensors", version("safetensors"))
print("expected by a reader: one file")
many, one, none = different(entries), different({"all": str(entries)}), different(None)
print(f"six entries: {many} different files, one entry: {one}, none: {none}")
if many == 1:
    sys.exit("changed: metadata has one order now")
if (one, none) != (1, 1):
    sys.exit("changed: files differ without several entries, too")
PY
venv/bin/python judge.py
