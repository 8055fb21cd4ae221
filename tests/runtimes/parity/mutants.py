"""Ways of damaging a bundle or a runtime, and what a report should have of each."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from causalrn.bundle.bundle_folder import Bundle, seal_bundle

_COMPARING = ("logits", "state", "split", "layer")


@dataclass(frozen=True)
class Mutant:
    """One kind of damage and what the report should have of it.

    Attributes:
        damage: of a graph: takes (model, name of the graph); of a session: takes the session.
        tensor, cause: of the attribution; None where none is asked for.
    """

    name: str
    damage: object
    tensor: str | None = None
    cause: str | None = None
    readout: str = "exact"
    levels: tuple[str, ...] = _COMPARING


# What happens to a graph.


def _initializer(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change(name, edit):
    def damage(model, graph):
        tensor = _initializer(model, name)
        array = numpy_helper.to_array(tensor).copy()
        edit(array)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return damage


def add(place, amount):
    def change(array):
        array[place] += amount

    return change


def _zero(part):
    def change(array):
        array[part] = 0

    return change


def _roll(array):
    array[:] = np.roll(array, 1, axis=0)


def _nodes_between(model, first, last):
    """Nodes that come after stream `first` is there, until stream `last` is."""
    nodes = list(model.graph.node)
    start = next((i for i, node in enumerate(nodes) if first in node.input), 0)
    end = next(i for i, node in enumerate(nodes) if last in node.output)
    return nodes[start : end + 1]


def _in_block(block, op, index, change, only=None):
    def damage(model, graph):
        if only is not None and graph != only:
            return
        inside = _nodes_between(model, f"stream.{block:02d}", f"stream.{block + 1:02d}")
        change(model, [node for node in inside if node.op_type == op][index])

    return damage


def _epsilon(value):
    def change(model, node):
        next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = value

    return change


def _other_op(name):
    def change(model, node):
        node.op_type = name

    return change


def _through_float16(scale):
    """A value that is kept in half precision for a moment, after a factor that may overflow there."""

    def change(model, node):
        helper = onnx.helper
        out = node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{out}.scale"))
        node.output[0] = f"{out}.right"
        added = [
            helper.make_node("Mul", [f"{out}.right", f"{out}.scale"], [f"{out}.scaled"]),
            helper.make_node("Cast", [f"{out}.scaled"], [f"{out}.half"], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Cast", [f"{out}.half"], [f"{out}.whole"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Div", [f"{out}.whole", f"{out}.scale"], [out]),
        ]
        index = list(model.graph.node).index(node)
        for offset, new in enumerate(added, start=1):
            model.graph.node.insert(index + offset, new)

    return change


_H = 32
GRAPHS = [
    Mutant("W2 of block 1 off by 1e-3", change("blocks.1.w12", add((_H + 8, 0), 1e-3)), "01.pool", "graph"),
    Mutant("W1 of block 0 off by 1e-3", change("blocks.0.w12", add((4, 3), 1e-3)), "stream.01", "graph"),
    Mutant("W3 of block 1 off by 1e-3", change("blocks.1.w3", add((2, 5), 1e-3)), "stream.02", "graph"),
    Mutant("head off by 1e-3", change("head", add((7, 7), 1e-3)), "logits", "graph"),
    Mutant("embedding off by 1e-3", change("wte", add((slice(None), 1), 1e-3)), "stream.00", "graph"),
    Mutant("one embedding row lost", change("wte", _zero(27)), "stream.00", "graph"),
    Mutant("positions off by one, in the weights", change("wpe", _roll), "stream.00", "graph"),
    Mutant("b1 of block 0 lost", change("blocks.0.b12", _zero(slice(0, _H))), "stream.01", "graph"),
    Mutant("channel of block 1 pruned", change("blocks.1.w12", _zero(_H + 9)), "01.pool", "graph"),
    Mutant("b3 of block 0 lost", change("blocks.0.b3", _zero(slice(None))), "stream.01", "graph"),
    Mutant("eps of block 0's norm", _in_block(0, "RMSNormalization", 0, _epsilon(1e-3)), "00.pool", "graph"),
    Mutant("eps of block 1's pair norm", _in_block(1, "RMSNormalization", -1, _epsilon(1e-3)), "stream.02", "graph"),
    Mutant("oldest row masked", change("reading.step_weights", _zero((0, 0))), "stream.01", "graph"),
    Mutant("new row not counted", change("reading.step_terms", _zero((-1, 1))), "stream.01", "graph"),
    Mutant("relu for exp in block 1", _in_block(1, "Exp", 0, _other_op("Relu")), "stream.02", "graph"),
    Mutant("half precision in block 1", _in_block(1, "Exp", 0, _through_float16(1.0)), "stream.02", "graph"),
    Mutant("float16 overflow in block 0", _in_block(0, "Exp", 0, _through_float16(1e4)), "stream.01", "graph"),
    Mutant(
        "eps of block 1, in prefill only",
        _in_block(1, "LayerNormalization", 0, _epsilon(1e-1), only="prefill"),
        "stream.02",
        "graph",
    ),
    Mutant("W2 of block 0, linear", change("blocks.0.w12", add((_H + 3, 3), 1e-3)), "00.sum", "graph", "linear"),
    Mutant("W1 of block 1, plain", change("blocks.1.w12", add((3, 3), 1e-3)), "stream.02", "graph", "plain"),
]


# What happens around the graph: how a runtime keeps the state.


def _wrap_run(session, change):
    run = session._run
    session._run = lambda tokens, position, state: run(*change(tokens, position, state))
    session._binds = False  # steps go through _run, too


def _states_swapped(session):
    per_block = len(session.spec.tensors) // 2
    _wrap_run(session, lambda tokens, position, state: (tokens, position, [*state[per_block:], *state[:per_block]]))


def _position_off_by_one(session):
    _wrap_run(session, lambda tokens, position, state: (tokens, max(position - 1, 0), state))


def _reset_between_chunks(session):
    def change(tokens, position, state):
        return tokens, position, [np.zeros_like(array) for array in state] if tokens.shape[1] > 1 else state

    _wrap_run(session, change)


def _row_dropped(session):
    update = session._buffers.update
    session._buffers.update = lambda position, outputs: update(position, outputs) if position != 10 else None


def _stale_row(session):
    update = session._buffers.update

    def stale(position, outputs):
        update(position, outputs)
        if position == 12:
            session._buffers.arrays[1][12] = session._buffers.arrays[1][11]

    session._buffers.update = stale


def _one_row_too_many(session):
    update = session._buffers.update

    def more(position, outputs):
        update(position, outputs)
        end = position + len(outputs[0])
        if len(outputs[0]) > 1 and end < len(session._buffers.arrays[0]):
            session._buffers.arrays[0][end] = outputs[0][-1]

    session._buffers.update = more


def _sum_not_updated(session):
    update = session._buffers.update

    def stale(position, outputs):
        kept = session._buffers.arrays[1]
        update(position, [outputs[0], kept] if position == 9 else outputs)

    session._buffers.update = stale
    session._binds = False


def _snapshot_off(session):
    copies = session._buffers.copies
    session._buffers.copies = lambda position: {
        name: tensor * np.float32(1.001) if name.startswith("01") else tensor
        for name, tensor in copies(position).items()
    }


def _restore_loses_a_row(session):
    load = session._buffers.load

    def lose(tensors, position, batch):
        load(tensors, position, batch)
        session._buffers.arrays[0][max(position - 1, 0)] = 0

    session._buffers.load = lose


def _batch_rows_mixed(session):
    advance = session._advance
    session._advance = lambda tokens, *, single: advance(tokens, single=single)[::-1].copy()


def _noise(session):
    advance, rng = session._advance, np.random.default_rng(0)

    def noisy(tokens, *, single):
        logits = advance(tokens, single=single)
        return logits + (1e-7 * rng.standard_normal(logits.shape)).astype(np.float32)

    session._advance = noisy


_SHARED: dict[str, object] = {}


def _buffers_shared_between_sessions(session):
    session._buffers = _SHARED.setdefault(session.owner, session._buffers)


def _logits_off(when):
    """Five percent more, where a call is of a certain kind."""

    def damage(session):
        advance = session._advance

        def off(tokens, *, single):
            logits = advance(tokens, single=single)
            return logits * np.float32(1.05) if when(session, tokens) else logits

        session._advance = off

    return damage


def _second_chunk_forgets(session):
    """From the second internal chunk of one prefill on, the state is empty."""
    session.prefill_chunk = 6
    run, prefill, started = session._run, session._prefill, {}

    def begin(tokens):
        started["at"] = session.position
        return prefill(tokens)

    def forget(tokens, position, state):
        fresh = tokens.shape[1] > 1 and position > started.get("at", position)
        return run(tokens, position, [np.zeros_like(array) for array in state] if fresh else state)

    session._prefill, session._run = begin, forget


def _last_logits_of_the_first_token(session):
    advance = session._advance_checked

    def first(tokens, *, single):
        logits = advance(tokens, single=single)
        session._logits = logits[:, 0].copy()
        return logits

    session._advance_checked = first


SESSIONS = [
    Mutant("fresh prefill off", _logits_off(lambda s, t: t.shape[1] > 1 and s.position == 0), "logits", "runtime"),
    Mutant("prefill to the capacity off", _logits_off(lambda s, t: t.shape[1] > 1 and s.position + t.shape[1] == 40)),
    Mutant("long prefill off", _logits_off(lambda s, t: t.shape[1] > 24)),
    Mutant("batches of two off", _logits_off(lambda s, t: t.shape[0] == 2)),
    Mutant("batches of three off", _logits_off(lambda s, t: t.shape[0] == 3)),
    Mutant("batches above four off", _logits_off(lambda s, t: t.shape[0] > 4)),
    Mutant("second chunk forgets", _second_chunk_forgets, "stream.01", "runtime"),
    Mutant("last logits of another token", _last_logits_of_the_first_token, levels=("determinism",)),
    Mutant("states swapped", _states_swapped, "stream.01", "runtime"),
    Mutant("states swapped, linear", _states_swapped, "00.sum", "runtime", "linear"),
    Mutant("position off by one", _position_off_by_one, "stream.00", "runtime"),
    Mutant("state reset between chunks", _reset_between_chunks, "stream.01", "runtime"),
    Mutant("row dropped", _row_dropped, "00.pool", "runtime"),
    Mutant("stale row", _stale_row, "01.pool", "runtime"),
    Mutant("prefill writes a row too many", _one_row_too_many, "stream.01", "state handling"),
    Mutant("sum not updated", _sum_not_updated, "01.sum", "runtime", "linear"),
    Mutant("snapshot off", _snapshot_off, "01.pool"),
    Mutant("restore loses a row", _restore_loses_a_row, "00.pool", "runtime", levels=("state", "determinism")),
    Mutant("rows of a batch mixed up", _batch_rows_mixed, "logits", "runtime"),
    Mutant("noise of 1e-7", _noise, levels=("determinism",)),
    Mutant("buffers shared between sessions", _buffers_shared_between_sessions, levels=("determinism",)),
]


def damaged_copy(bundle, target, damage):
    """A bundle whose graphs were changed, sealed again: hashes fit, answers do not."""
    shutil.copytree(bundle, target)
    manifest = Bundle.open(bundle).manifest
    for name, graph in manifest.graphs.items():
        model = onnx.load(target / graph.file)
        try:
            damage(model, name)
        except StopIteration:  # this graph does not have what is damaged
            continue
        onnx.save(model, target / graph.file)
    return seal_bundle(target, manifest).path


def with_wrong_logits(bundle, target, graph="step", op="Neg"):
    """A bundle with one more node behind the logits of one graph, sealed again."""
    shutil.copytree(bundle, target)
    model = onnx.load(target / f"{graph}.onnx", load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node(op, ["right"], ["logits"]))
    onnx.save(model, target / f"{graph}.onnx")
    return seal_bundle(target, Bundle.open(bundle).manifest).path
