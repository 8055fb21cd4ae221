"""A prompt in, its continuation out, on a server: numpy and onnxruntime alone.

    python step_loop.py BUNDLE PROMPT [PAUSE]

One `Model` serves all conversations, from any thread; a `Conversation` is a state of its own, for one thread at a time.
Takes every ONNX bundle with letters as alphabet; docs/state-contract.md of the toolkit has the contract.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

BOS, SEP, EOS, FIRST_LETTER = 0, 1, 2, 3


class StepLoopError(Exception):
    """One line that may be shown to whoever sent the request."""


@dataclass(frozen=True)
class Saved:
    """A conversation's state at one moment: numpy arrays, which np.savez stores."""

    model: str  # its manifest's hash
    position: int
    logits: np.ndarray  # [V] after the last token; empty at the start and at the end
    tensors: dict[str, np.ndarray]  # of pools the rows that exist


class Model:
    """Graphs and weights of a bundle. onnxruntime runs one session from several threads at once."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if self.manifest["alphabet"] != "letters":
            raise StepLoopError(f"{folder}: this loop knows the alphabet `letters` alone: change `encode` and `decode`")
        for name, file in self.manifest["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != file["sha256"]:
                raise StepLoopError(f"{folder / name} is damaged: copy it again")
        graphs = self.manifest["graphs"]
        self.step, self.prefill = graphs.get("step_single", graphs["step"]), graphs["prefill"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            graph["file"]: onnxruntime.InferenceSession(folder / graph["file"], options, ["CPUExecutionProvider"])
            for graph in (self.step, self.prefill)
        }
        self.index = np.dtype(self.manifest.get("index_type", "int64"))
        self.tensors = self.manifest["state"]["tensors"]
        self.outputs = ["logits", *(tensor["output"] for tensor in self.tensors)]
        self.capacity: int | None = self.tensors[0]["capacity"]  # None: no bound


class Conversation:
    """One sequence: its state, and how many tokens it has seen. After an error it is as it was before the call."""

    def __init__(self, model: Model) -> None:
        self.model, self.position = model, 0
        self.logits = np.zeros(0, np.float32)
        self.state = {tensor["name"]: self._zeros(tensor, 65) for tensor in model.tensors}  # fresh: zeros

    def _zeros(self, tensor: dict, rows: int) -> np.ndarray:
        sizes = {"B": 1, "t": rows}
        return np.zeros([sizes.get(dim, dim) for dim in tensor["shape"]], tensor["dtype"])

    def take(self, tokens: list[int]) -> None:
        """Tokens onto whatever the state holds: prefill in chunks, all or nothing."""
        end, most = self.position + len(tokens), self.model.capacity
        if most is not None and end > most:
            raise StepLoopError(f"{end} positions: the model ends at {most}")
        before = self.save() if len(tokens) > self.model.manifest["prefill_chunk"] else None
        try:
            for start in range(0, len(tokens), self.model.manifest["prefill_chunk"]):
                self._run(self.model.prefill, tokens[start : start + self.model.manifest["prefill_chunk"]])
        except Exception:
            if before is not None:
                self.restore(before)
            raise

    def _run(self, graph: dict, tokens: list[int]) -> None:
        feed = {"tokens": np.array([tokens], self.model.index), "position": np.array(self.position, self.model.index)}
        for tensor in self.model.tensors:
            feed[tensor["input"]] = self._past(tensor, self.position + graph["pad_rows"])
        logits, *outputs = self.model.sessions[graph["file"]].run(self.model.outputs, feed)
        if not np.isfinite(logits).all():
            raise StepLoopError("NaN or infinity came out: no answer")  # nothing has been taken yet
        for tensor, value in zip(self.model.tensors, outputs, strict=True):
            if tensor["update"] == "append":
                self._append(tensor, value)  # the new rows
            else:
                self.state[tensor["name"]] = value  # the whole next value
        self.logits, self.position = logits[0, -1], self.position + len(tokens)

    def _past(self, tensor: dict, rows: int) -> np.ndarray:
        """What a graph reads of a tensor: of a growing pool its first rows, a view."""
        value = self.state[tensor["name"]]
        if tensor["shape"][0] != "t":
            return value
        if rows > len(value):
            value = self.state[tensor["name"]] = np.concatenate([value, self._zeros(tensor, rows)])
        return value[:rows]

    def _append(self, tensor: dict, rows: np.ndarray) -> None:
        end = self.position + len(rows)
        value = self.state[tensor["name"]]
        if end > len(value):
            value = self.state[tensor["name"]] = np.concatenate([value, self._zeros(tensor, end)])
        value[self.position : end] = rows

    def generate(self, most: int | None = None) -> Iterator[int]:
        """The most likely token, again and again: to EOS, to the capacity, or `most` tokens."""
        if self.model.capacity is None and most is None:
            raise StepLoopError("the model has no capacity: say how many tokens to generate")
        made = 0
        while len(self.logits) > 0 and (most is None or made < most):
            token = int(self.logits.argmax())
            if token == EOS or self.position == self.model.capacity:
                self.logits = np.zeros(0, np.float32)  # nothing goes on from here
            else:
                self._run(self.model.step, [token])
            made += 1
            yield token  # the state has taken it: it can be saved here

    def save(self) -> Saved:
        """A copy of the state, to be stored or handed to another process."""
        tensors = {
            tensor["name"]: self.state[tensor["name"]][: self.position if tensor["shape"][0] == "t" else None].copy()
            for tensor in self.model.tensors
        }
        return Saved(self.model.manifest["manifest_sha256"], self.position, self.logits.copy(), tensors)

    def restore(self, saved: Saved) -> None:
        """Go on from there, as if nothing had happened."""
        if saved.model != self.model.manifest["manifest_sha256"]:
            raise StepLoopError("this state belongs to another bundle")
        self.position, self.logits = saved.position, saved.logits.copy()
        for tensor in self.model.tensors:
            value = saved.tensors[tensor["name"]]
            spare = [self._zeros(tensor, 65)] if tensor["shape"][0] == "t" else []
            self.state[tensor["name"]] = np.concatenate([value, *spare])


def encode(prompt: str) -> list[int]:
    """Token ids: BOS, the letters, SEP."""
    if not prompt or not all("a" <= letter <= "z" for letter in prompt):
        raise StepLoopError(f"prompt {prompt!r}: give letters a to z")
    return [BOS, *(ord(letter) - ord("a") + FIRST_LETTER for letter in prompt), SEP]


def decode(tokens: list[int]) -> str:
    """Their letters, without markers."""
    return "".join(chr(token - FIRST_LETTER + ord("a")) for token in tokens if token >= FIRST_LETTER)


def main(folder: str, prompt: str, pause: str = "0") -> None:
    """Print the token ids and their text. After `pause` tokens the state is handed to another conversation."""
    model = Model(Path(folder))
    conversation = Conversation(model)
    conversation.take(encode(prompt))
    successor = Conversation(model)
    tokens = list(conversation.generate(int(pause)))
    successor.restore(conversation.save())
    tokens += successor.generate(256 if model.capacity is None else None)
    print(*tokens)
    print(decode(tokens))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (StepLoopError, OSError) as error:
        print(f"step_loop: {error}", file=sys.stderr)
        sys.exit(2)
