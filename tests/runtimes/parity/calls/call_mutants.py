"""Sessions that are wrong in one kind of call only: what the levels calls and guards have to find."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from causalrn.errors import CausalRNError
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.state_file import save_state


@dataclass(frozen=True)
class Mutant:
    """A wrong session.

    Attributes:
        damage: takes a session that was just opened.
        model: "short" (exact, capacity 80, onnxruntime), "linear" (the same with sums) or "long" (exact, capacity 530,
            native).
        last: what the name of the shrunk walk's last call, or of the guard, begins with.
        level: where it is looked for.
    """

    name: str
    damage: object
    model: str = "short"
    last: str = ""
    level: str = "calls"


def wrap(owner, name, change):
    """Replace a method of one object: `change` is called with the right one, then its arguments."""
    right = getattr(owner, name)
    vars(owner)[name] = lambda *arguments, **keywords: change(right, *arguments, **keywords)


def off(when):
    """Five percent more, where `when(call)` holds: its tokens [B, T], position, and whether it is a step."""

    def damage(session):
        def advance(right, tokens, *, single):
            position, end = session.position, session.position + tokens.shape[1]
            logits = right(tokens, single=single)
            call = SimpleNamespace(
                session=session, tokens=tokens, batch=len(tokens), length=tokens.shape[1], start=position, end=end
            )
            call.single = single
            return logits * np.float32(1.05) if when(call) else logits

        wrap(session, "_advance", advance)

    return damage


def of_rows(change, when=lambda call: True):
    """Sequences of a batch in another order."""

    def damage(session):
        def advance(right, tokens, *, single):
            logits = right(tokens, single=single)
            return change(logits).copy() if when(SimpleNamespace(tokens=tokens, single=single)) else logits

        wrap(session, "_advance", advance)

    return damage


def at_positions(change):
    """Graphs are told another position."""

    def damage(session):
        wrap(session, "_run", lambda right, tokens, position, state: right(tokens, change(position, tokens), state))

    return damage


def of_state(change):
    """Graphs are handed another state: `change(arrays, position, tokens)`."""

    def damage(session):
        def run(right, tokens, position, state):
            return right(tokens, position, change([array.copy() for array in state], position, tokens))

        wrap(session, "_run", run)
        session._binds = False

    return damage


def _rows_from(first):
    def lose(arrays, position, tokens):
        for array in arrays:
            array[first:position] = array[:1]
        return arrays

    return lose


def _lose_beyond_512(session):
    """What C would do that skips the second stretch of its pool: rows from 512 on are the first row again."""

    def advance(right, tokens, *, single):
        pools = session._store.arrays
        kept = [pool[512:].copy() for pool in pools]
        if session.position > 512:
            for pool in pools:
                pool[512 : session.position] = pool[:1]
        logits = right(tokens, single=single)
        for pool, rows in zip(pools, kept, strict=True):
            count = max(0, session.position - 512)
            pool[512 : 512 + count] = rows[:count]
        return logits

    wrap(session, "_advance", advance)


def with_threads(damage, *numbers):
    """Only in sessions with so many threads."""
    return lambda session: damage(session) if session.threads in numbers else None


def _no_rollback(session):
    session._buffers.truncate = lambda position, mark: None


def _rolls_back_too_far(session):
    wrap(session._buffers, "truncate", lambda right, position, mark: right(max(position - 1, 0), mark))


def _rollback_of_position(session):
    def prefill(right, tokens):
        try:
            return right(tokens)
        except BaseException:
            session._position += 1
            raise

    wrap(session, "_prefill", prefill)


def skip_restore(when):
    """The state is not taken over, where `when(session, snapshot)` holds; everything that is shown is."""

    def damage(session):
        def load(right, snapshot):
            if not when(session, snapshot) or snapshot.batch != session.batch:
                right(snapshot)

        wrap(session, "_load_state", load)

    return damage


def _restore_does_nothing_at_zero(session):
    wrap(session, "restore", lambda right, snapshot: right(snapshot) if snapshot.position else None)


def _restore_aliases(session):
    def load(right, tensors, position, batch):
        right(tensors, position, batch)
        for index, tensor in enumerate(session.spec.tensors):
            given = tensors[tensor.name]
            grown = np.concatenate([given, np.zeros_like(session._buffers.arrays[index][position:])])
            grown[:position] *= 1
            given[...] = given[::-1].copy()
            session._buffers.arrays[index] = grown

    wrap(session._buffers, "load", load)


def _restore_reversed(session):
    def load(right, snapshot):
        right(dataclasses.replace(snapshot, tensors={n: _flipped(session, n, t) for n, t in snapshot.tensors.items()}))

    wrap(session, "_load_state", load)


def _flipped(session, name, value):
    axis = next(tensor.batch_axis for tensor in session.spec.tensors if tensor.name == name)
    return np.flip(value, axis).copy()


def _restore_one_row_less(session):
    def load(right, tensors, position, batch):
        right(tensors, position, batch)
        session._buffers.arrays[0][max(position - 1, 0)] = 0

    wrap(session._buffers, "load", load)


def _restore_keeps_logits(session):
    def restore(right, snapshot):
        before = session._logits
        right(snapshot)
        session._logits = before

    wrap(session, "restore", restore)


def stale_logits(when):
    """The last logits stay those of the call before."""

    def damage(session):
        def advance(right, tokens, *, single):
            before = session._logits
            logits = right(tokens, single=single)
            if when(tokens, single) and before is not None and before.shape == session._logits.shape:
                session._logits = before
            return logits

        wrap(session, "_advance_checked", advance)

    return damage


def _logits_of_first_sequence(session):
    def advance(right, tokens, *, single):
        logits = right(tokens, single=single)
        session._logits = np.repeat(logits[:1, -1], len(logits), axis=0)
        return logits

    wrap(session, "_advance_checked", advance)


def _reset_keeps_logits(session):
    def reset(right, batch=None):
        before = session._logits
        right(batch)
        session._logits = before

    wrap(session, "reset", reset)


def _reset_keeps_a_row(session):
    def clear(right, batch):
        kept = [array[3].copy() for array in session._buffers.arrays]
        right(batch)
        for array, row in zip(session._buffers.arrays, kept, strict=True):
            if array.shape[1] == len(row):
                array[3] = row

    wrap(session._buffers, "clear", clear)


def _reset_keeps_sums(session):
    def clear(right, batch):
        kept = session._buffers.arrays
        right(batch)
        if kept[0].shape == session._buffers.arrays[0].shape:
            session._buffers.arrays[0][...] = kept[0]

    wrap(session._buffers, "clear", clear)
    # at position 0 a cell ignores what it is handed: the position has to be wrong, too
    at_positions(lambda position, tokens: max(position, 1))(session)
    session._binds = False


def _reset_keeps_position(session):
    def reset(right, batch=None):
        position, same = session._position, batch in (None, session._batch)
        right(batch)
        session._position = position if same else 0

    wrap(session, "reset", reset)


def _batch_leaks(session):
    """Another number of sequences gets the memory of the ones before."""

    def clear(right, batch):
        kept = session._buffers.arrays
        right(batch)
        for array, old in zip(session._buffers.arrays, kept, strict=True):
            count = min(batch, old.shape[1])
            array[:12, :count] = old[:12, :count]

    wrap(session._buffers, "clear", clear)


def _last_row_of_prefill_lost(session):
    def update(right, position, outputs):
        right(position, outputs)
        if len(outputs[0]) > 1:
            session._buffers.arrays[0][position + len(outputs[0]) - 1] = 0

    wrap(session._buffers, "update", update)


def row_lost(at, when=lambda outputs: True):
    """One row is not stored."""

    def damage(session):
        def update(right, position, outputs):
            right(position, outputs)
            row = at if at >= 0 else session.capacity + at
            if position <= row < position + len(outputs[0]) and when(outputs):
                session._buffers.arrays[-1][row] = 0

        wrap(session._buffers, "update", update)

    return damage


def _saved_in_half(session):
    def save(right, path):
        snapshot = session.snapshot()
        halves = {name: t.astype(np.float16).astype(t.dtype) for name, t in snapshot.tensors.items()}
        save_state(path, dataclasses.replace(snapshot, tensors=halves))

    wrap(session, "save", save)


def _loads_what_was_saved_before(session):
    saved: list[Snapshot] = []

    def save(right, path):
        saved.append(session.snapshot())
        right(path)

    wrap(session, "save", save)
    wrap(session, "load", lambda right, path: session.restore(saved[-2]) if len(saved) > 1 else right(path))


def _saved_without_logits(session):
    wrap(
        session,
        "save",
        lambda right, path: save_state(path, dataclasses.replace(session.snapshot(), logits=None)),
    )


def _saves_batch_reversed(session):
    def save(right, path):
        snapshot = session.snapshot()
        flipped = {name: _flipped(session, name, t) for name, t in snapshot.tensors.items()}
        save_state(path, dataclasses.replace(snapshot, tensors=flipped))

    wrap(session, "save", save)


def _snapshot_aliases(session):
    def snapshot(right):
        taken = right()
        rows = session.position
        live = {
            tensor.name: array[:rows]
            for tensor, array in zip(session.spec.tensors, session._buffers.arrays, strict=True)
        }
        return dataclasses.replace(taken, tensors=live)

    wrap(session, "snapshot", snapshot)
    # memory is used again, as it would be where buffers are kept
    wrap(session._buffers, "clear", lambda right, batch: _cleared(session, right, batch))


def _cleared(session, right, batch):
    arrays = session._buffers.arrays
    if arrays and arrays[0].shape[1] == batch:
        for array in arrays:
            array[...] = 0
    else:
        right(batch)


def _snapshot_lacks_a_row(session):
    def copies(right, position):
        tensors = right(position)
        return {name: np.concatenate([t[:-1], 0 * t[-1:]]) if len(t) else t for name, t in tensors.items()}

    wrap(session._buffers, "copies", copies)


def _snapshot_of_earlier_logits(session):
    before: list[object] = [None]

    def advance(right, tokens, *, single):
        before[0] = session._logits
        return right(tokens, single=single)

    wrap(session, "_advance_checked", advance)
    wrap(session, "snapshot", lambda right: dataclasses.replace(right(), logits=before[0]))


def generation(change):
    """Another sequence of generated steps."""

    def damage(session):
        wrap(session, "generate", lambda right, *arguments, **keywords: change(session, right, arguments, keywords))

    return damage


def _one_early(session, right, arguments, keywords):
    yield from list(right(*arguments, **keywords))[:-1]


def _repeats(session, right, arguments, keywords):
    steps = list(right(*arguments, **keywords))
    yield from [steps[0]] * len(steps)


def _last_not_taken(session, right, arguments, keywords):
    steps = right(*arguments, **keywords)
    kept = session.snapshot()
    for step in steps:
        yield step
        last = kept
        kept = session.snapshot()
    session.restore(last)


def _least_likely(session, right, arguments, keywords):
    def negative(logits, options, position):
        return logits.argmin(-1).astype(np.int64)

    for step in right(*arguments, **keywords):
        yield dataclasses.replace(step, tokens=negative(session.last_logits, None, 0)) if session.position > 3 else step


def _ignores_stops(session, right, arguments, keywords):
    return right(*arguments, **{**keywords, "stop_ids": ()})


def _ignores_prompt_end(session, right, arguments, keywords):
    prompt, *rest = arguments
    return right(prompt[:, :-1] if prompt is not None and prompt.shape[1] > 1 else prompt, *rest, **keywords)


def failing(change):
    """A call that is refused leaves something behind."""

    def damage(session):
        for name in ("step", "prefill", "restore", "load"):
            wrap(session, name, lambda right, *arguments: _failing(session, right, arguments, change))

    return damage


def _failing(session, right, arguments, change):
    try:
        return right(*arguments)
    except CausalRNError:
        change(session)
        raise


def _move_on(session):
    session._position += 1


def _forget_logits(session):
    session._logits = None


def _touch_state(session):
    session._buffers.arrays[0][0] *= np.float32(1.01)


def accepting(change):
    """Tokens are mended instead of refused."""

    def damage(session):
        wrap(session, "_checked", lambda right, tokens: right(change(session, np.asarray(tokens))))

    return damage


def _whole(session, tokens):
    return tokens.astype(np.int64) if tokens.dtype.kind in "fb" else tokens


def _clipped(session, tokens):
    return tokens.clip(0, session.card.config.vocabulary - 1) if tokens.dtype.kind == "i" else tokens


def _wrapped(session, tokens):
    return np.where(tokens < 0, tokens + session.card.config.vocabulary, tokens) if tokens.dtype.kind == "i" else tokens


def _broadcast(session, tokens):
    return tokens[: session.batch] if tokens.ndim == 2 and len(tokens) > session.batch else tokens


def _cut_to_capacity(session, tokens):
    room = session.capacity - session.position
    return tokens[:, :room] if tokens.ndim == 2 and room else tokens


def _any_owner(session):
    wrap(session, "restore", lambda right, snapshot: right(dataclasses.replace(snapshot, owner=session.owner)))


def _numbers_for_nan(session):
    def restore(right, snapshot: Snapshot):
        mended = {n: np.nan_to_num(t, posinf=0, neginf=0) for n, t in snapshot.tensors.items()}
        right(dataclasses.replace(snapshot, tensors=mended))

    wrap(session, "restore", restore)


def _never_closed(session):
    session.close = lambda: None


def _restores_before_checking(session):
    def restore(right, snapshot):
        session._position = snapshot.position
        right(snapshot)

    wrap(session, "restore", restore)


def _shared_output(session):
    kept: dict[tuple[int, ...], np.ndarray] = {}

    def advance(right, tokens, *, single):
        logits = right(tokens, single=single)
        buffer = kept.setdefault(logits.shape, np.empty_like(logits))
        buffer[...] = logits
        return buffer

    wrap(session, "_advance_checked", advance)


def _changes_tokens(session):
    def prefill(right, tokens):
        logits = right(tokens)
        if isinstance(tokens, np.ndarray) and tokens.shape[1] > 2:
            tokens[:, 0] = 0
        return logits

    wrap(session, "prefill", prefill)


def _every_hundredth(session):
    count = [0]

    def advance(right, tokens, *, single):
        count[0] += 1
        logits = right(tokens, single=single)
        return logits * np.float32(1.01) if count[0] % 100 == 0 else logits

    wrap(session, "_advance", advance)


def _third_chunk_forgets(session):
    def prefill(right, tokens):
        session.began = session.position
        return right(tokens)

    def run(right, tokens, position, state):
        far = tokens.shape[1] > 1 and position - getattr(session, "began", position) > 2 * session.prefill_chunk - 1
        return right(tokens, position, [0 * array for array in state] if far else state)

    wrap(session, "_prefill", prefill)
    wrap(session, "_run", run)


def _sum_kept_at(position):
    def damage(session):
        def update(right, at, outputs):
            kept = session._buffers.arrays[0]
            right(at, outputs)
            if at == position:
                session._buffers.arrays = [kept, *session._buffers.arrays[1:]]

        wrap(session._buffers, "update", update)
        session._binds = False

    return damage


def _nan_at_50(session):
    def advance(right, tokens, *, single):
        logits = right(tokens, single=single)
        if session.position <= 50 < session.position + tokens.shape[1]:
            logits[:, 50 - session.position, 0] = np.nan
        return logits

    wrap(session, "_advance", advance)


def _three_times(call):
    tokens = call.tokens
    return call.length >= 3 and bool(((tokens[:, 2:] == tokens[:, 1:-1]) & (tokens[:, 1:-1] == tokens[:, :-2])).any())


def _three_steps_running(session):
    seen: list[list[int]] = []

    def advance(right, tokens, *, single):
        logits = right(tokens, single=single)
        seen[:] = [*seen, tokens[:, -1].tolist()][-3:] if single else []
        repeated = len(seen) == 3 and seen[0] == seen[1] == seen[2]
        return logits * np.float32(1.05) if repeated else logits

    wrap(session, "_advance", advance)


def _swap_two(logits):
    return logits[[1, 0, *range(2, len(logits))]]


MUTANTS = [
    Mutant("batch of 6 off", off(lambda c: c.batch == 6)),
    Mutant("batch of 7 off", off(lambda c: c.batch == 7)),
    Mutant("batch of 64 off", off(lambda c: c.batch == 64)),
    Mutant("batches above 32 off", off(lambda c: c.batch > 32)),
    Mutant("steps of 6 sequences off", off(lambda c: c.batch == 6 and c.single), last="step()"),
    Mutant("prefill of 7 sequences off", off(lambda c: c.batch == 7 and not c.single), last="prefill(1)"),
    Mutant("rows reversed", of_rows(lambda logits: logits[::-1])),
    Mutant("rows rolled in prefill", of_rows(lambda logits: np.roll(logits, 1, 0), lambda c: not c.single)),
    Mutant("two rows of 8 and more swapped", of_rows(_swap_two, lambda c: len(c.tokens) >= 8)),
    Mutant("no roll-back", _no_rollback),
    Mutant("rolls back one row too far", _rolls_back_too_far),
    Mutant("a failed prefill moves the position", _rollback_of_position),
    Mutant("restore skipped at the same position", skip_restore(lambda s, t: s.position == t.position)),
    Mutant("restore skipped at position 0", skip_restore(lambda s, t: t.position == 0), "linear"),
    Mutant("restore does nothing at position 0", _restore_does_nothing_at_zero, last="restore(0)"),
    Mutant("restore skipped at an earlier position", skip_restore(lambda s, t: t.position < s.position)),
    Mutant("restore aliases the snapshot", _restore_aliases),
    Mutant("restore reverses the rows", _restore_reversed),
    Mutant("restore loses a row", _restore_one_row_less),
    Mutant("restore keeps the last logits", _restore_keeps_logits),
    Mutant("stale last logits after a prefill", stale_logits(lambda tokens, single: not single)),
    Mutant("stale last logits after a step", stale_logits(lambda tokens, single: single), last="step()"),
    Mutant("last logits of the first sequence", _logits_of_first_sequence),
    Mutant("reset keeps the last logits", _reset_keeps_logits),
    Mutant("prefill of 17 off", off(lambda c: c.length == 17), last="prefill(17)"),
    Mutant("prefill of 3 at 41 off", off(lambda c: c.length == 3 and c.start == 41), last="prefill(3)"),
    Mutant("prefill ending at 32 off", off(lambda c: c.length > 1 and c.end == 32)),
    Mutant("prefill of the capacity off", off(lambda c: c.length == 80), last="prefill(80)"),
    Mutant("fresh prefill of 29 off", off(lambda c: c.length == 29 and c.start == 0), last="prefill(29)"),
    Mutant("prefill at 64 off", off(lambda c: c.length > 1 and c.start == 64)),
    Mutant("prefill of more than 64 off", off(lambda c: c.length > 64)),
    Mutant("prefill of one token off", off(lambda c: c.length == 1 and not c.single), last="prefill(1)"),
    Mutant("step at 64 off", off(lambda c: c.single and c.start == 64), last="step()"),
    Mutant("step at 0 off", off(lambda c: c.single and c.start == 0), last="step()"),
    Mutant("step at the last position off", off(lambda c: c.single and c.end == 80), last="step()"),
    Mutant("step of 5 sequences beyond 30 off", off(lambda c: c.single and c.batch == 5 and c.start > 30)),
    Mutant("position off by one beyond 64", at_positions(lambda p, t: p - 1 if p > 64 else p)),
    Mutant("position off by one at 16, in prefill", at_positions(lambda p, t: p - (p == 16 and t.shape[1] > 1))),
    Mutant("rows from 64 on lost", of_state(_rows_from(64))),
    Mutant("last row of a prefill not stored", _last_row_of_prefill_lost),
    Mutant("row 31 not stored", row_lost(31)),
    Mutant("row 63 not stored by steps", row_lost(63, lambda outputs: len(outputs[0]) == 1)),
    Mutant("last row of the capacity not stored", row_lost(-1)),
    Mutant("one token three times running, in prefill", off(_three_times)),
    Mutant("one token three times running, in steps", _three_steps_running),
    Mutant("saved in half precision", _saved_in_half),
    Mutant("load takes the state saved before", _loads_what_was_saved_before),
    Mutant("saved without logits", _saved_without_logits, last="load"),
    Mutant("saved with rows reversed", _saves_batch_reversed),
    Mutant("reset keeps a row", _reset_keeps_a_row),
    Mutant("reset keeps the position", _reset_keeps_position),
    Mutant("reset keeps sums", _reset_keeps_sums, "linear"),
    Mutant("another batch gets old memory", _batch_leaks),
    Mutant("snapshot aliases the buffers", _snapshot_aliases),
    Mutant("snapshot lacks the last row", _snapshot_lacks_a_row),
    Mutant("snapshot with earlier logits", _snapshot_of_earlier_logits),
    Mutant("generation one token short", generation(_one_early), last="generate"),
    Mutant("generation repeats its first token", generation(_repeats)),
    Mutant("generation does not take its last token", generation(_last_not_taken)),
    Mutant("generation shows other tokens", generation(_least_likely)),
    Mutant("generation ignores stop tokens", generation(_ignores_stops), last="generate"),
    Mutant("generation loses the prompt's last token", generation(_ignores_prompt_end)),
    Mutant("a refused call moves the position", failing(_move_on)),
    Mutant("a refused call forgets the last logits", failing(_forget_logits)),
    Mutant("a refused call touches the state", failing(_touch_state)),
    Mutant("floats taken for tokens", accepting(_whole), last="refuse(dtype)"),
    Mutant("token ids clipped", accepting(_clipped), last="refuse(token)"),
    Mutant("negative token ids wrap", accepting(_wrapped), last="refuse(negative)"),
    Mutant("rows too many are dropped", accepting(_broadcast), last="refuse(rows)"),
    Mutant("tokens beyond the capacity dropped", accepting(_cut_to_capacity), last="refuse(capacity)"),
    Mutant("states of any owner taken", _any_owner, last="refuse(foreign state)"),
    Mutant("NaN in a state mended", _numbers_for_nan, last="NaN in a restored state", level="guards"),
    Mutant("never closed", _never_closed, last="a closed session", level="guards"),
    Mutant("a refused state moves the position", _restores_before_checking, last="a state", level="guards"),
    Mutant("outputs share memory", _shared_output),
    Mutant("prefill changes its tokens", _changes_tokens),
    Mutant("every hundredth call off", _every_hundredth),
    Mutant("third part of a prefill forgets", _third_chunk_forgets),
    Mutant("NaN at position 50", _nan_at_50),
    Mutant("sum not updated at 16", _sum_kept_at(16), "linear"),
    Mutant("sum not updated at 77", _sum_kept_at(77), "linear"),
    Mutant("prefill of 33 off, linear", off(lambda c: c.length == 33), "linear", last="prefill(33)"),
    Mutant("position off by one beyond 64, linear", at_positions(lambda p, t: p + (p > 64)), "linear"),
    Mutant("rows beyond 512 lost", _lose_beyond_512, "long"),
    Mutant("rows beyond 512 lost in threads", with_threads(_lose_beyond_512, 2, 3), "long"),
    Mutant("3 threads off", with_threads(off(lambda c: True), 3), "long"),
    Mutant("2 threads off beyond 511", with_threads(off(lambda c: c.start >= 511), 2), "long"),
    Mutant("step at 513 off", off(lambda c: c.single and c.start == 513), "long", last="step()"),
    Mutant("prefill ending at 512 off", off(lambda c: c.length > 1 and c.end == 512), "long"),
    Mutant("prefill of exactly 530 off", off(lambda c: c.length == 530), "long", last="prefill(530)"),
]
assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
