/* What a query reads of a tile of a pool: the sum of f(a, b_j) over the tile's rows j.
 *
 * Needs lanes and arithmetic.h. */

#define stored_t NAME(stored_t)
#define load_stored NAME(load_stored)
#define reading_t NAME(reading_t)
#define take_pair NAME(take_pair)
#define scale_pairs NAME(scale_pairs)
#define add_pairs NAME(add_pairs)
#define read_pairs NAME(read_pairs)

/* A sequence's rows as the pool has them. */
typedef struct {
    const causalrn_pooled *values; /* [..][batch][HP] */
    const float *scales;           /* [..][batch] of int8; else NULL */
    size_t batch;
} stored_t;

/* 16 values of a row, from channel i on. */
CAUSALRN_INLINE lanes load_stored(const stored_t *s, int row, int i)
{
    const size_t place = (size_t)row * s->batch;
    const causalrn_pooled *values = s->values + place * HP + i;
#if CAUSALRN_POOL_BITS == 8
    return mul(load_int8(values), set(s->scales[place]));
#elif CAUSALRN_POOL_BITS == 16
    return load_half(values);
#else
    return load(values);
#endif
}

/* One query and the rows of a tile that it reads, in every head. */
typedef struct {
    const float *a;    /* [HP] */
    stored_t rows;
    float *tile;       /* [TILE][HP], by `from`: b_j, or room for a + b_j */
    int count;         /* of rows, <= TILE */
    float *o;          /* [HP], to be added to */
    const char *ahead; /* rows that are needed soon, to be fetched meanwhile; or NULL */
    const char *after; /* what comes after the pool, to be fetched likewise; or NULL */
    float scales[HEADS * TILE];
} reading_t;

/* a + b_j for 16 channels from i on. `from` is a constant: what pairs are made of. */
CAUSALRN_INLINE lanes take_pair(const reading_t *r, int row, int i, const int from)
{
    float *place = r->tile + row * HP + i;
    const lanes pair = add(from == WIDENED ? load(place) : load_stored(&r->rows, row, i), load(r->a + i));
    if (from == SUMMED)
        store(place, pair);
    return pair;
}

/* scales[head][j] of f(a, b_j) = act(scale_j (a + b_j)): 1 / (rms(a + b_j) + eps) for exact, times log2(e) for exp. */
CAUSALRN_INLINE void scale_pairs(reading_t *r, const int from)
{
#if CAUSALRN_READOUT == CAUSALRN_EXACT
    for (int head = 0; head < HEADS; head++) {
        float *const scales = r->scales + head * TILE;
        int row = 0;
        for (; row + 4 <= r->count; row += 4) {
            lanes squares[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
            for (int i = head * DP; i < (head + 1) * DP; i += LANES) {
                CAUSALRN_UNROLL
                for (int k = 0; k < 4; k++) {
                    const lanes pair = take_pair(r, row + k, i, from);
                    squares[k] = madd(pair, pair, squares[k]);
                }
            }
            sum4(squares, scales + row);
        }
        for (; row < TILE; row++) {
            lanes squares = set(0.0f);
            for (int i = head * DP; i < (head + 1) * DP && row < r->count; i += LANES) {
                const lanes pair = take_pair(r, row, i, from);
                squares = madd(pair, pair, squares);
            }
            scales[row] = sum(squares);
        }
        const lanes mean_square = divide(load(scales), set((float)WIDTH));
        const lanes rms = root(add(mean_square, set(MEAN_SQUARE_FLOOR)));
        store(scales, divide(set(PAIR_SCALE), HAS_EPS ? add(rms, set(CAUSALRN_NORM_EPS)) : rms));
    }
#else
    (void)from;
    for (int i = 0; i < HEADS * TILE; i++)
        r->scales[i] = PAIR_SCALE;
#endif
}

/* o += sum_j f(a, b_j). */
CAUSALRN_INLINE void add_pairs(const reading_t *r, const int from)
{
    const size_t row_bytes = r->rows.batch * HP * sizeof(causalrn_pooled);
    const char *after = r->after;
    for (int i = 0; i < HP; i += LANES) {
        const float *const scales = r->scales + i / DP * TILE;
        const size_t channel = (size_t)i * sizeof(causalrn_pooled); /* bytes into a row */
        lanes total = load(r->o + i);
        if (after != NULL) {
            for (int k = 0; k < LINES; k++)
                CAUSALRN_FETCH(after + k * 64);
            after += LINES * 64;
        }
        for (int k = 0; k < r->count; k++) {
            const lanes pair = from == SUMMED ? load(r->tile + k * HP + i) : take_pair(r, k, i, from);
            if (r->ahead != NULL && channel % 64 == 0)
                CAUSALRN_FETCH(r->ahead + (size_t)k * row_bytes + channel);
            total = add(total, activate(mul(pair, set(scales[k]))));
        }
        store(r->o + i, total);
    }
}

CAUSALRN_INLINE void read_pairs(reading_t *r, const int from)
{
    scale_pairs(r, from);
    add_pairs(r, from);
}
