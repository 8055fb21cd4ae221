/* Readouts with a pool: rows are appended to it and read back in tiles, segments and parts, by threads if there are any.
 *
 * Needs pairs.h, rows.h and work.h. */

#define append_row NAME(append_row)
#define stored_rows NAME(stored_rows)
#define part_t NAME(part_t)
#define to_fetch NAME(to_fetch)
#define rows_ahead NAME(rows_ahead)
#define read_tile NAME(read_tile)
#define read_segment NAME(read_segment)
#define add_rows NAME(add_rows)
#define read_part NAME(read_part)
#define read_pool NAME(read_pool)

/* Write one row b into the pool of a block. 0 where it does not fit. */
CAUSALRN_INLINE int append_row(const causalrn_session *s, int block, size_t place, const float *b)
{
#if CAUSALRN_POOL_BITS == 8
    float *scales = s->next[block * PER_BLOCK + 1];
    scales[place] = quantize(b, (int8_t *)s->next[block * PER_BLOCK] + place * HP, HP);
    return 1;
#elif CAUSALRN_POOL_BITS == 16
    return narrow(b, (uint16_t *)s->next[block] + place * HP, HP);
#else
    float *row = (float *)s->next[block] + place * HP;
    for (int i = 0; i < HP; i += LANES)
        store(row + i, load(b + i));
    return 1;
#endif
}

/* Rows of sequence b from `first` on. */
CAUSALRN_INLINE stored_t stored_rows(const causalrn_session *s, int block, size_t first, size_t b)
{
    const size_t place = first * (size_t)s->batch + b;
    stored_t rows = {(const causalrn_pooled *)s->next[block * PER_BLOCK] + place * HP, NULL, (size_t)s->batch};
    if (CAUSALRN_POOL_BITS == 8)
        rows.scales = (const float *)s->next[block * PER_BLOCK + 1] + place;
    return rows;
}

/* Some of the work of a call on one block's pool. */
typedef struct {
    const call_t *call;
    int32_t block, parts;
} part_t;

/* Weights that are needed after this pool and should be fetched during its tile of this number; or NULL. */
CAUSALRN_INLINE const char *to_fetch(const part_t *p, size_t tile)
{
    const causalrn_weights *weights = p->call->session->weights;
    const int next = p->block + 1;
    const char *from = weights->w3[p->block].panels;
    const char *end = (const char *)(next < BLOCKS ? weights->w12[next].bias : weights->head.bias);
    const size_t bytes = LINES * 64 * HP / LANES; /* with every tile */
    return (tile + 1) * bytes <= (size_t)(end - from) ? from + tile * bytes : NULL;
}

/* Rows to be fetched during a step's tile at `first`: those of the tile that comes AHEAD tiles later, and towards the `end`
 * of a pool those of the next call's pool, which lies anywhere; or NULL. */
CAUSALRN_INLINE const char *rows_ahead(const part_t *p, const stored_t *rows, size_t first, size_t end)
{
    const size_t batch = rows->batch, left = (end - first + TILE - 1) / TILE - 1; /* tiles of this pool */
    if (first + (AHEAD + 1) * TILE <= end)
        return (const char *)(rows->values + AHEAD * TILE * batch * HP);
    if (left >= AHEAD || p->call->is_last || p->parts > 1)
        return NULL;
    const causalrn_session *next = p->call[1].session;
    const size_t from = (AHEAD - 1 - left) * TILE;
    if ((size_t)next->batch != batch || p->call[1].time > 1 || (size_t)next->position < from + TILE)
        return NULL;
    return (const char *)((const causalrn_pooled *)next->next[p->block * PER_BLOCK] + from * batch * HP);
}

/* What queries q0 .. q1 - 1 of sequence b read of a tile of `there` rows, into sums[query][sequence][HP]. */
CAUSALRN_INLINE void read_tile(const part_t *p, float *tile, size_t first, size_t end, size_t b, size_t q0, size_t q1,
                               float *sums)
{
    const causalrn_session *s = p->call->session;
    const size_t batch = (size_t)s->batch, position = (size_t)s->position;
    const int alone = q1 - q0 == 1, there = end - first < TILE ? (int)(end - first) : TILE;
    const int joins = CAUSALRN_POOL_BITS < 32 && CAUSALRN_ISA >= 8 && CAUSALRN_READOUT == CAUSALRN_EXACT && alone;
    reading_t r = {.rows = stored_rows(s, p->block, first, b), .tile = tile};
    if (alone) /* with several queries, rows are there already for all but the first */
        r.ahead = rows_ahead(p, &r.rows, first, p->parts > 1 ? end : position + 1);
    if (alone && b == 0 && p->call->is_last)
        r.after = to_fetch(p, first / TILE);
    if (CAUSALRN_POOL_BITS < 32 && !joins)
        for (int k = 0; k < there; k++)
            for (int i = 0; i < HP; i += LANES)
                store(tile + k * HP + i, load_stored(&r.rows, k, i));
    for (size_t q = first > position + q0 ? first - position : q0; q < q1; q++) {
        const size_t seen = position + q + 1 - first; /* a query reads itself and what came before it */
        r.a = p->call->work.ab + (q * batch + b) * 2 * HP;
        r.o = sums + ((q - q0) * batch + b) * HP;
        r.count = seen < (size_t)there ? (int)seen : there;
        if (CAUSALRN_POOL_BITS == 32)
            read_pairs(&r, STORED);
        else if (joins) /* widened, added and squared in one go */
            read_pairs(&r, SUMMED);
        else
            read_pairs(&r, WIDENED);
    }
}

/* The same of rows begin .. begin + SEGMENT - 1, for all sequences: their rows lie side by side. */
CAUSALRN_INLINE void read_segment(const part_t *p, float *tile, size_t begin, size_t q0, size_t q1, float *sums)
{
    const size_t batch = (size_t)p->call->session->batch, after = (size_t)p->call->session->position + q1;
    const size_t end = begin + SEGMENT < after ? begin + SEGMENT : after;
    for (size_t i = 0; i < (q1 - q0) * batch * HP; i += LANES)
        store(sums + i, set(0.0f));
    for (size_t first = begin; first < end; first += TILE)
        for (size_t b = 0; b < batch; b++)
            read_tile(p, tile, first, end, b, q0, q1, sums);
}

CAUSALRN_INLINE void add_rows(float *o, const float *sums, int is_first)
{
    for (int i = 0; i < HP; i += LANES)
        store(o + i, is_first ? load(sums + i) : add(load(o + i), load(sums + i)));
}

/* One part of the work: of a step, every parts-th segment; of a prefill, some of the queries. */
static void read_part(void *argument, int32_t part)
{
    const part_t *p = argument;
    const size_t batch = (size_t)p->call->session->batch, time = (size_t)p->call->time;
    const size_t number = (size_t)part, parts = (size_t)p->parts;
    const size_t end = (size_t)p->call->session->position + time;
    float *const tile = p->call->work.tiles + (CAUSALRN_POOL_BITS < 32 ? number * TILE * HP : 0u);
    if (time == 1) {
        for (size_t segment = number; segment * SEGMENT < end; segment += parts)
            read_segment(p, tile, segment * SEGMENT, 0, 1, p->call->work.sums + segment * batch * HP);
        return;
    }
    const size_t q0 = time * number / parts, q1 = time * (number + 1) / parts;
    for (size_t begin = 0; begin < end - time + q1; begin += SEGMENT) {
        read_segment(p, tile, begin, q0, q1, p->call->work.sums + q0 * batch * HP);
        for (size_t row = q0 * batch; row < q1 * batch; row++)
            if (begin <= end - time + row / batch)
                add_rows(p->call->work.o + row * HP, p->call->work.sums + row * HP, begin == 0);
    }
}

/* o[rows][HP] of a block: sums over segments, added in order, so that threads change nothing. */
static void read_pool(const call_t *call, int block)
{
    const causalrn_session *s = call->session;
    const size_t end = (size_t)s->position + (size_t)call->time;
    const int32_t most = call->time > 1 ? call->time : (int32_t)((end + SEGMENT - 1) / SEGMENT);
    const int32_t threads = s->parallel != NULL && end > SEGMENT ? s->threads : 1, parts = most < threads ? most : threads;
    part_t part = {call, block, parts};
    if (parts > 1)
        s->parallel(s->pool, parts, read_part, &part);
    else
        read_part(&part, 0);
    if (call->time == 1)
        for (size_t b = 0, batch = (size_t)s->batch; b < batch; b++)
            for (size_t segment = 0; segment * SEGMENT < end; segment++)
                add_rows(call->work.o + b * HP, call->work.sums + (segment * batch + b) * HP, segment == 0);
}
