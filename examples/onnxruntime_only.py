"""Run a bundle with numpy and onnxruntime alone: what a runtime of your own has to do. Copies a prompt, token by token.

Works for every ONNX bundle with letters as alphabet: growing and fixed pools, int8 pools with scales, and states of
constant size. docs/state-contract.md has the contract.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, prompt = Path(sys.argv[1]), sys.argv[2]
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
graph = manifest["graphs"].get("step_single") or manifest["graphs"]["step"]
session = onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"])
tensors = manifest["state"]["tensors"]
capacity = tensors[0]["capacity"]  # null where there is no bound

# A fresh state is zeros. A pool is a buffer of capacity + 1 rows: the step wants `pad_rows` rows of zeros behind those
# that exist. "t" in a shape is the number of rows, "B" the number of sequences: one here.
most = capacity or 1024
sizes = {"B": 1, "t": most + 1}
state = {
    tensor["name"]: np.zeros([sizes.get(dim, dim) for dim in tensor["shape"]], tensor["dtype"]) for tensor in tensors
}


def step(token: int, position: int) -> np.ndarray:
    """Logits [V] of what comes next; the state takes the token."""
    if position >= most:
        raise SystemExit(f"the model ends at {most} positions")
    feed = {"tokens": np.array([[token]]), "position": np.array(position)}
    for tensor in tensors:
        value = state[tensor["name"]]
        grows = tensor["shape"][0] == "t"
        feed[tensor["input"]] = value[: position + graph["pad_rows"]] if grows else value  # a view: nothing is copied
    logits, *outputs = session.run(["logits", *(tensor["output"] for tensor in tensors)], feed)
    for tensor, value in zip(tensors, outputs, strict=True):
        if tensor["update"] == "append":
            state[tensor["name"]][position] = value[0]  # one new row
        else:
            state[tensor["name"]] = value  # the whole next state; of "concat" pools, all rows
    return logits[0, 0]


BOS, SEP, EOS = 0, 1, 2
tokens = [BOS, *(ord(letter) - ord("a") + 3 for letter in prompt), SEP]
logits, position = np.zeros(0), 0
for token in tokens:
    logits, position = step(token, position), position + 1
copy = ""
while (token := int(logits.argmax())) != EOS and position < most:
    copy += chr(token - 3 + ord("a")) if token > EOS else "?"
    logits, position = step(token, position), position + 1
print(copy)
