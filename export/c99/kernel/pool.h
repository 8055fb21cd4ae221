/* Readouts with a pool: rows are appended to it and read back in tiles, segments and parts, by threads if there are any.
 *
 * Needs pairs.h, rows.h and work.h. */

#define append_row NAME(append_row)
#define tile_rows NAME(tile_rows)
#define part_t NAME(part_t)
#define to_fetch NAME(to_fetch)
#define read_segment NAME(read_segment)
#define add_rows NAME(add_rows)
#define read_part NAME(read_part)
#define read_pool NAME(read_pool)

/* Write one row b into the pool of a block. */
CAUSALRN_INLINE void append_row(const causalrn_session *s, int block, size_t place, const float *b)
{
#if CAUSALRN_POOL8
    float *scales = s->next[block * PER_BLOCK + 1];
    scales[place] = quantize(b, (int8_t *)s->next[block * PER_BLOCK] + place * HP, HP);
#else
    float *row = (float *)s->next[block] + place * HP;
    for (int i = 0; i < HP; i += LANES)
        store(row + i, load(b + i));
#endif
}

/* Rows first .. first + count - 1 of sequence b as float32, and their stride. */
CAUSALRN_INLINE const float *tile_rows(const causalrn_session *s, float *tile, int block, size_t first, int count, size_t b,
                                       size_t *stride)
{
    const size_t batch = (size_t)s->batch;
#if CAUSALRN_POOL8
    const int8_t *pool = s->next[block * PER_BLOCK];
    const float *scales = s->next[block * PER_BLOCK + 1];
    for (int k = 0; k < count; k++) {
        const size_t place = (first + (size_t)k) * batch + b;
        for (int i = 0; i < HP; i += LANES)
            store(tile + k * HP + i, mul(load_int8(pool + place * HP + i), set(scales[place])));
    }
    *stride = HP;
    return tile;
#else
    (void)tile, (void)count;
    *stride = batch * HP;
    return (const float *)s->next[block] + (first * batch + b) * HP;
#endif
}

/* Some of the work of a call on one block's pool. */
typedef struct {
    const call_t *call;
    const work_t *work;
    size_t b;
    int32_t block, parts;
} part_t;

/* Weights that are needed after this pool and should be fetched during its tile of this number; or NULL. */
CAUSALRN_INLINE const char *to_fetch(const part_t *p, size_t tile)
{
    const causalrn_weights *weights = p->call->weights;
    const int next = p->block + 1;
    const char *from = weights->w3[p->block].panels;
    const char *end = (const char *)(next < BLOCKS ? weights->w12[next].bias : weights->head.bias);
    const size_t bytes = LINES * 64 * HP / LANES; /* with every tile */
    return (tile + 1) * bytes <= (size_t)(end - from) ? from + tile * bytes : NULL;
}

/* What queries q0 .. q1 - 1 of sequence b read of rows begin .. begin + SEGMENT - 1, into sums[query][HP]. */
CAUSALRN_INLINE void read_segment(const part_t *p, float *tile, size_t begin, size_t q0, size_t q1, float *sums)
{
    const causalrn_session *s = p->call->session;
    const work_t *work = p->work;
    const size_t batch = (size_t)s->batch, position = (size_t)s->position;
    const size_t end = begin + SEGMENT < position + q1 ? begin + SEGMENT : position + q1;
    const int alone = q1 - q0 == 1;
    for (size_t q = q0; q < q1; q++)
        for (int i = 0; i < HP; i += LANES)
            store(sums + (q - q0) * HP + i, set(0.0f));
    for (size_t first = begin; first < end; first += TILE) {
        const int there = end - first < TILE ? (int)(end - first) : TILE;
        size_t stride;
        const float *rows = tile_rows(s, tile, p->block, first, there, p->b, &stride);
        for (size_t q = first > position + q0 ? first - position : q0; q < q1; q++) {
            const size_t seen = position + q + 1 - first; /* a query reads itself and what came before it */
            reading_t r = {work->ab + (q * batch + p->b) * 2 * HP, rows, stride, 0, sums + (q - q0) * HP, 0, NULL, {0}};
            r.count = seen < (size_t)there ? (int)seen : there;
            if (alone) { /* with several queries, rows are there already for all but the first */
                r.ahead = !CAUSALRN_POOL8 && first + (AHEAD + 1) * TILE <= end ? AHEAD * TILE * stride : 0u;
                r.fetch = to_fetch(p, first / TILE);
            }
            scale_pairs(&r);
            add_pairs(&r);
        }
    }
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
    float *const tile = p->work->tiles + (CAUSALRN_POOL8 ? number * TILE * HP : 0u);
    if (time == 1) {
        for (size_t segment = number; segment * SEGMENT < end; segment += parts)
            read_segment(p, tile, segment * SEGMENT, 0, 1, p->work->sums + segment * HP);
        return;
    }
    const size_t q0 = time * number / parts, q1 = time * (number + 1) / parts;
    for (size_t begin = 0; begin < end - time + q1; begin += SEGMENT) {
        read_segment(p, tile, begin, q0, q1, p->work->sums + q0 * HP);
        for (size_t q = q0; q < q1; q++)
            if (begin <= end - time + q)
                add_rows(p->work->o + (q * batch + p->b) * HP, p->work->sums + q * HP, begin == 0);
    }
}

/* o[rows][HP] of a block: sums over segments, added in order, so that threads change nothing. */
static void read_pool(const call_t *call, const work_t *work, int block)
{
    const causalrn_session *s = call->session;
    const size_t end = (size_t)s->position + (size_t)call->time;
    const int32_t most = call->time > 1 ? call->time : (int32_t)((end + SEGMENT - 1) / SEGMENT);
    const int32_t threads = s->parallel != NULL && end > SEGMENT ? s->threads : 1, parts = most < threads ? most : threads;
    part_t part = {call, work, 0, block, parts};
    for (; part.b < (size_t)s->batch; part.b++) {
        if (parts > 1)
            s->parallel(s->pool, parts, read_part, &part);
        else
            read_part(&part, 0);
        if (call->time == 1)
            for (size_t segment = 0; segment * SEGMENT < end; segment++)
                add_rows(work->o + part.b * HP, work->sums + segment * HP, segment == 0);
    }
}
