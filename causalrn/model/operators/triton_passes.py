"""The sum over pairs and its gradients as Triton programs. Imports Triton: only `triton_kernels.py` imports this.

A program is one warp or a few, owns a block of rows of one sequence and head, queries or keys, and walks over the rows
of the other kind that they meet, a few at a time. No two programs write to the same place, and nothing of a pair leaves
the registers: results do not depend on the order in which programs run. All arithmetic is float32.

A row of D channels is a tuple of PARTS blocks [N, CHANNELS], for a block's sides are powers of two and D need not be
one; channels beyond D are zero. Row n begins at `rows + n * stride`. Queries are the last `time` of `keys` positions.
NORM is 0 for none, 1 for a norm without an eps, 2 for one with.
"""

import triton
import triton.language as tl

from causalrn.model.normalization import MEAN_SQUARE_FLOOR

_FLOOR = tl.constexpr(MEAN_SQUARE_FLOOR)
_LOG2_E = tl.constexpr(1.4426950408889634)
_INV_SQRT_2 = tl.constexpr(0.7071067811865476)
_INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit
def _exp(x):
    """In two instructions; tl.exp has three more, for results below 1e-38."""
    return tl.exp2(x * _LOG2_E)


@triton.jit
def _exp_minus_one(x):
    """For x <= 0; near 0 by its series, right to 1e-8, where exp(x) - 1 would cancel."""
    series = 1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040 + x / 40320))))))
    return tl.where(x > -0.5, x * series, _exp(x) - 1)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "exp":
        value = _exp(x)
    elif ACTIVATION == "relu":
        value = tl.where(x < 0, 0.0, x)  # NaN stays
    elif ACTIVATION == "elu":
        value = tl.where(x < 0, _exp_minus_one(x), x)
    else:
        value = 0.5 * x * (1 + tl.erf(x * _INV_SQRT_2))
    return value


@triton.jit
def _slope(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "exp":
        slope = _exp(x)
    elif ACTIVATION == "relu":
        slope = tl.where(x > 0, 1.0, 0.0)
    elif ACTIVATION == "elu":
        slope = tl.where(x > 0, 1.0, _exp(x))
    else:
        slope = 0.5 * (1 + tl.erf(x * _INV_SQRT_2)) + x * _exp(-0.5 * x * x) * _INV_SQRT_2PI
    return slope


@triton.jit
def _load_rows(rows, index, stride, there, width, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Rows as float32; zeros for rows that are not there, and beyond the last channel."""
    parts = ()
    for part in tl.static_range(PARTS):
        channel = part * CHANNELS + tl.arange(0, CHANNELS)
        places = rows + index.to(tl.int64)[:, None] * stride + channel[None, :]
        values = tl.load(places, there[:, None] & (channel[None, :] < width), 0.0)  # [N, CHANNELS]
        parts = parts + (values.to(tl.float32),)
    return parts


@triton.jit
def _store_rows(rows, parts, index, stride, there, width, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    for part in tl.static_range(PARTS):
        channel = part * CHANNELS + tl.arange(0, CHANNELS)
        places = rows + index.to(tl.int64)[:, None] * stride + channel[None, :]
        tl.store(places, parts[part].to(rows.dtype.element_ty), there[:, None] & (channel[None, :] < width))


@triton.jit
def _no_pairs(QUERIES: tl.constexpr, KEYS: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    total = ()
    for _ in tl.static_range(PARTS):
        total = total + (tl.zeros([QUERIES, KEYS, CHANNELS], tl.float32),)
    return total


@triton.jit
def _rows_of(total, axis: tl.constexpr, PARTS: tl.constexpr):
    """Sums over one side of a tile of pairs."""
    rows = ()
    for part in tl.static_range(PARTS):
        rows = rows + (tl.sum(total[part], axis),)
    return rows


@triton.jit
def _pairs(query, key, PARTS: tl.constexpr):
    pairs = ()
    for part in tl.static_range(PARTS):
        pairs = pairs + (query[part][:, None, :] + key[part][None, :, :],)  # [Q, K, CHANNELS]
    return pairs


@triton.jit
def _mean_product(one, other, share, PARTS: tl.constexpr):
    """The mean over channels of one * other, [Q, K].

    Not [Q, K, 1]: computing with such numbers, Triton (3.7, 3.9) may lay out whole tiles as it lays out these, with a
    row per lane, and move every tile through shared memory and back: 255 registers instead of 96.
    """
    products = one[0] * other[0]
    for part in tl.static_range(1, PARTS):
        products += one[part] * other[part]
    return tl.sum(products, 2) * share


@triton.jit
def _inverse_rms(mean_square, eps, NORM: tl.constexpr):
    """1 / (rms + eps); NaN where the mean square overflows."""
    inverse = 1 / (tl.sqrt(mean_square) + eps) if NORM == 2 else tl.rsqrt(tl.maximum(mean_square, _FLOOR))
    return inverse + 0 * mean_square


@triton.jit
def _values(query, key, share, eps, ACTIVATION: tl.constexpr, NORM: tl.constexpr, PARTS: tl.constexpr):
    """The function of a tile of pairs."""
    pairs = _pairs(query, key, PARTS)
    if NORM:
        scale = _inverse_rms(_mean_product(pairs, pairs, share, PARTS), eps, NORM)
    values = ()
    for part in tl.static_range(PARTS):
        x = pairs[part] * scale[:, :, None] if NORM else pairs[part]
        values = values + (_activate(x, ACTIVATION),)
    return values


@triton.jit
def _gradients(query, key, gradient, share, eps, ACTIVATION: tl.constexpr, NORM: tl.constexpr, PARTS: tl.constexpr):
    """The gradient of a tile of pairs from that of the queries' sums."""
    pairs = _pairs(query, key, PARTS)
    if NORM:
        mean_square = _mean_product(pairs, pairs, share, PARTS)
        scale = _inverse_rms(mean_square, eps, NORM)
    outputs, slopes = (), ()
    for part in tl.static_range(PARTS):
        x = pairs[part] * scale[:, :, None] if NORM else pairs[part]
        outputs = outputs + (x,)
        slopes = slopes + (_slope(x, ACTIVATION) * gradient[part][:, None, :],)
    if NORM:
        along = _mean_product(slopes, outputs, share, PARTS)
        if NORM == 2:
            along = along * (1 + eps * tl.rsqrt(tl.maximum(mean_square, _FLOOR)))  # (rms + eps) / rms
    gradients = ()
    for part in tl.static_range(PARTS):
        x = (slopes[part] - outputs[part] * along[:, :, None]) * scale[:, :, None] if NORM else slopes[part]
        gradients = gradients + (x,)
    return gradients


@triton.jit
def _add(total, tile, seen, MASKED: tl.constexpr, PARTS: tl.constexpr):
    """Masked after the activation, never before it."""
    out = ()
    for part in tl.static_range(PARTS):
        if MASKED:
            out = out + (total[part] + tl.where(seen[:, :, None], tile[part], 0.0),)
        else:
            out = out + (total[part] + tile[part],)
    return out


@triton.jit
def _meet_keys(
    total, query, gradient, i, k, k_time, start, end, past, width, share, eps,
    BACKWARD: tl.constexpr, MASKED: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr,
    KEYS: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add the keys start .. end to what every query has summed up."""
    for first in range(start, end, KEYS):
        j = first + tl.arange(0, KEYS)
        key = _load_rows(k, j, k_time, j < end, width, PARTS, CHANNELS)
        if BACKWARD:
            tile = _gradients(query, key, gradient, share, eps, ACTIVATION, NORM, PARTS)
        else:
            tile = _values(query, key, share, eps, ACTIVATION, NORM, PARTS)
        seen = (j[None, :] <= past + i[:, None]) & (j[None, :] < end)
        total = _add(total, tile, seen, MASKED, PARTS)
    return total


@triton.jit
def _meet_queries(
    total, key, j, q, gradient, q_time, gradient_time, start, end, time, past, width, share, eps,
    MASKED: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr,
    QUERIES: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add groups of queries, counted from the last one, to the gradients of keys."""
    for group in range(start, end):
        i = time - (group + 1) * QUERIES + tl.arange(0, QUERIES)
        query = _load_rows(q, i, q_time, i >= 0, width, PARTS, CHANNELS)
        given = _load_rows(gradient, i, gradient_time, i >= 0, width, PARTS, CHANNELS)
        tile = _gradients(query, key, given, share, eps, ACTIVATION, NORM, PARTS)
        seen = (j[None, :] <= past + i[:, None]) & (i[:, None] >= 0)
        total = _add(total, tile, seen, MASKED, PARTS)
    return total


@triton.jit(do_not_specialize=["time", "keys", "keys_at_once"])
def walk_over_keys(
    q, k, gradient, out, time, keys, keys_at_once, heads, width, share, eps,
    q_batch, q_time, q_head, k_batch, k_time, k_head, gradient_batch, gradient_time, gradient_head,
    out_part, out_batch, out_time, out_head,
    BACKWARD: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The sums, or the gradients of queries: one block of queries, and `keys_at_once` keys into a part of `out`."""
    blocks = tl.cdiv(time, QUERIES)
    block, row = blocks - 1 - tl.program_id(0) % blocks, tl.program_id(0) // blocks  # those with most keys come first
    batch, head = (row // heads).to(tl.int64), (row % heads).to(tl.int64)
    i, past = block * QUERIES + tl.arange(0, QUERIES), keys - time
    query = _load_rows(q + batch * q_batch + head * q_head, i, q_time, i < time, width, PARTS, CHANNELS)
    given = query
    if BACKWARD:
        gradient = gradient + batch * gradient_batch + head * gradient_head
        given = _load_rows(gradient, i, gradient_time, i < time, width, PARTS, CHANNELS)
    k = k + batch * k_batch + head * k_head
    start = tl.program_id(1) * keys_at_once
    end = tl.minimum(start + keys_at_once, tl.minimum(past + (block + 1) * QUERIES, keys))
    seen_by_all = tl.maximum(tl.minimum(past + block * QUERIES + 1, end) - start, 0)
    masked_from = start + seen_by_all // KEYS * KEYS
    total = _no_pairs(QUERIES, KEYS, PARTS, CHANNELS)
    total = _meet_keys(
        total, query, given, i, k, k_time, start, masked_from, past, width, share, eps,
        BACKWARD, False, ACTIVATION, NORM, KEYS, PARTS, CHANNELS,
    )  # fmt: skip
    total = _meet_keys(
        total, query, given, i, k, k_time, masked_from, end, past, width, share, eps,
        BACKWARD, True, ACTIVATION, NORM, KEYS, PARTS, CHANNELS,
    )  # fmt: skip
    out = out + tl.program_id(1).to(tl.int64) * out_part + batch * out_batch + head * out_head
    _store_rows(out, _rows_of(total, 1, PARTS), i, out_time, i < time, width, PARTS, CHANNELS)


@triton.jit(do_not_specialize=["time", "keys"])
def walk_over_queries(
    q, k, gradient, out, time, keys, heads, width, share, eps,
    q_batch, q_time, q_head, k_batch, k_time, k_head, gradient_batch, gradient_time, gradient_head,
    out_batch, out_time, out_head,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of keys: one block of keys."""
    blocks = tl.cdiv(keys, KEYS)
    block, row = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch, head = (row // heads).to(tl.int64), (row % heads).to(tl.int64)
    j, past = block * KEYS + tl.arange(0, KEYS), keys - time
    key = _load_rows(k + batch * k_batch + head * k_head, j, k_time, j < keys, width, PARTS, CHANNELS)
    q, gradient = q + batch * q_batch + head * q_head, gradient + batch * gradient_batch + head * gradient_head
    first_that_sees_one = tl.maximum(block * KEYS - past, 0)
    first_that_sees_all = tl.maximum(tl.minimum(block * KEYS + KEYS, keys) - 1 - past, 0)
    free, groups = (time - first_that_sees_all) // QUERIES, tl.cdiv(time - first_that_sees_one, QUERIES)
    total = _no_pairs(QUERIES, KEYS, PARTS, CHANNELS)
    total = _meet_queries(
        total, key, j, q, gradient, q_time, gradient_time, 0, free, time, past, width, share, eps,
        False, ACTIVATION, NORM, QUERIES, PARTS, CHANNELS,
    )  # fmt: skip
    total = _meet_queries(
        total, key, j, q, gradient, q_time, gradient_time, free, groups, time, past, width, share, eps,
        True, ACTIVATION, NORM, QUERIES, PARTS, CHANNELS,
    )  # fmt: skip
    out = out + batch * out_batch + head * out_head
    _store_rows(out, _rows_of(total, 0, PARTS), j, out_time, j < keys, width, PARTS, CHANNELS)
