"""The loops that `step_latency.py` times: every way to take a step, behind `hold`, `step` and `undo`.

`hold(state)` puts a loop at a depth (untimed), `step(token)` takes one step as a user's decoding loop would (timed),
`undo()` takes that step back (untimed), so that a thousand timed steps all read the same number of rows. Our sessions
do everything that `Session.step` does: checks, rows, position. The rivals do the least that a correct loop can do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as functional

from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.ort_loading import session_options
from causalrn.runtimes.snapshot import Snapshot


@dataclass(frozen=True)
class HeldState:
    """A model's state after some tokens: where every loop starts."""

    tokens: np.ndarray
    snapshot: Snapshot

    @property
    def position(self) -> int:
        return self.snapshot.position

    @property
    def arrays(self) -> list[np.ndarray]:
        """State tensors in block order."""
        return [self.snapshot.tensors[name] for name in sorted(self.snapshot.tensors)]


def load_graph(model: bytes) -> onnxruntime.InferenceSession:
    """Load a graph as `OnnxRuntimeSession` does: one thread, default optimizations."""
    return onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])


class Loop:
    """One way to take steps."""

    def hold(self, state: HeldState) -> None:
        """Take over a state. Untimed."""
        raise NotImplementedError

    def step(self, token: int) -> np.ndarray:
        """Take a step; returns logits in some shape of V elements. Timed."""
        raise NotImplementedError

    def undo(self) -> None:
        """Take the last step back. Untimed; loops whose cost does not depend on the position need not."""


class SessionLoop(Loop):
    """One of our sessions, called through `Session.step`. Snapshots of other runtimes are taken over too."""

    def __init__(self, session: CellSession) -> None:
        self.session = session

    def hold(self, state: HeldState) -> None:
        snapshot = state.snapshot
        owned = Snapshot(snapshot.position, snapshot.batch, snapshot.tensors, snapshot.logits, self.session.owner)
        self.session.restore(owned)

    def step(self, token: int) -> np.ndarray:
        return self.session.step([token])

    def undo(self) -> None:
        # restore() would do, but its fresh buffers would leave the pool cold at every step
        session = self.session
        if session.spec.has_pool:
            session._position -= 1
            if session.spec.pool == "concat":
                session._buffers.arrays = [array[:-1] for array in session._buffers.arrays]
                return
            for array in session._buffers.arrays:
                array[session._position] = 0


def ln0(x: torch.Tensor) -> torch.Tensor:
    """PyTorch's own layer norm, with an eps that changes nothing."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-30)


class FormulaLoop(Loop):
    """An eager PyTorch step written straight from the paper's formula: unfolded weights, pools grown by cat."""

    def __init__(self, model: SequenceModel) -> None:
        self.model = model

    def hold(self, state: HeldState) -> None:
        self.pools = [torch.from_numpy(array.copy()) for array in state.arrays]  # centred: the pair norm does not mind
        self.before, self.position = self.pools, state.position

    def step(self, token: int) -> np.ndarray:
        self.before = self.pools
        with torch.inference_mode():
            x = self.model.wte.weight[token] + self.model.wpe.weight[self.position]
            pools = []
            for block, pool in zip(self.model.blocks, self.pools, strict=True):
                r = ln0(x)
                a, b = block.fc_1(r), block.fc_2(r)
                pools.append(torch.cat([pool, b.reshape(1, 1, -1)]))
                o = ln0(a + pools[-1]).exp().mean(0)
                x = x + block.fc_3(ln0(o))[0]
            self.pools, self.position = pools, self.position + 1
            return self.model.head(ln0(x)).numpy()

    def undo(self) -> None:
        self.pools, self.position = self.before, self.position - 1


class ParallelLoop(Loop):
    """The whole parallel form for every token: decoding without a cell."""

    def __init__(self, model: SequenceModel) -> None:
        self.model = model

    def hold(self, state: HeldState) -> None:
        self.tokens = state.tokens[0].tolist()

    def step(self, token: int) -> np.ndarray:
        self.tokens.append(token)
        with torch.inference_mode():
            return self.model(torch.tensor([self.tokens]))[0, -1].numpy()

    def undo(self) -> None:
        self.tokens.pop()


class _GraphLoop(Loop):
    """A hand-written graph in a minimal loop."""

    def __init__(self, model: bytes, capacity: int) -> None:
        self.graph, self.capacity = load_graph(model), capacity
        self.names = [entry.name for entry in self.graph.get_inputs() if entry.name.startswith("past.")]
        self.outputs = [entry.name for entry in self.graph.get_outputs()]
        self.outputs.remove("logits")
        self.outputs.insert(0, "logits")


class NodeByNodeLoop(_GraphLoop):
    """Pools in preallocated buffers; the graph gives a and b, the loop appends b."""

    def hold(self, state: HeldState) -> None:
        self.position = state.position
        self.buffers = []
        for array in state.arrays:
            buffer = np.zeros((self.capacity + 1, array.shape[-1]), np.float32)
            buffer[: self.position] = array[:, 0]
            self.buffers.append(buffer)

    def step(self, token: int) -> np.ndarray:
        end = self.position + 1
        feed = {name: buffer[:end] for name, buffer in zip(self.names, self.buffers, strict=True)}
        feed["tokens"], feed["position"] = np.array([token]), np.array([self.position])
        logits, *terms = self.graph.run(self.outputs, feed)
        for buffer, both in zip(self.buffers, terms, strict=True):
            buffer[self.position] = both[1]
        self.position = end
        return logits

    def undo(self) -> None:
        self.position -= 1
        for buffer in self.buffers:
            buffer[self.position] = 0


class ConcatLoop(_GraphLoop):
    """Complete pools come out of the graph and are fed back."""

    def hold(self, state: HeldState) -> None:
        self.position, self.pools = state.position, state.arrays
        self.before = self.pools

    def step(self, token: int) -> np.ndarray:
        feed = dict(zip(self.names, self.pools, strict=True))
        feed["tokens"], feed["position"] = np.array([token]), np.array([self.position])
        self.before = self.pools
        logits, *self.pools = self.graph.run(self.outputs, feed)
        self.position += 1
        return logits

    def undo(self) -> None:
        self.position -= 1
        self.pools = self.before


class InPlaceLinearLoop(_GraphLoop):
    """Constant state: everything is bound once, one buffer as both past and present of a block."""

    def __init__(self, model: bytes, capacity: int) -> None:
        super().__init__(model, capacity)
        shapes = {entry.name: entry.shape for entry in self.graph.get_outputs()}
        self.tokens, self.position = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.logits = np.zeros(shapes["logits"], np.float32)
        self.sums = [np.zeros(shapes[name], np.float32) for name in self.outputs[1:]]
        self.binding = self.graph.io_binding()
        inputs = [("tokens", self.tokens), ("position", self.position), *zip(self.names, self.sums, strict=True)]
        outputs = [("logits", self.logits), *zip(self.outputs[1:], self.sums, strict=True)]
        for bind, entries in ((self.binding.bind_input, inputs), (self.binding.bind_output, outputs)):
            for name, array in entries:
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def hold(self, state: HeldState) -> None:
        self.position[0] = state.position
        for mine, array in zip(self.sums, state.arrays, strict=True):
            mine[...] = array

    def step(self, token: int) -> np.ndarray:
        self.tokens[0] = token
        self.graph.run_with_iobinding(self.binding)
        self.position[0] += 1
        return self.logits


class RawLoop(Loop):
    """`InferenceSession.run` alone, with the feed prepared: the graph's own time."""

    def __init__(self, graph: onnxruntime.InferenceSession) -> None:
        self.graph = graph
        self.shapes = {entry.name: entry.shape for entry in graph.get_inputs()}
        self.outputs = [entry.name for entry in graph.get_outputs()]
        self.logits_at = self.outputs.index("logits")

    def hold(self, state: HeldState) -> None:
        self.feed = {
            "tokens": np.zeros((1,) * len(self.shapes["tokens"]), np.int64),
            "position": np.full((1,) * len(self.shapes["position"]), state.position, np.int64),
        }
        names = sorted(name for name in self.shapes if name.startswith("past."))
        for name, array in zip(names, state.arrays, strict=True):
            padded = np.concatenate([array, np.zeros((1, *array.shape[1:]), np.float32)])  # [t + 1, 1, H], a zero slot
            self.feed[name] = padded if len(self.shapes[name]) == 3 else padded[:, 0]

    def step(self, token: int) -> np.ndarray:
        self.feed["tokens"][...] = token
        return self.graph.run(self.outputs, self.feed)[self.logits_at]
