/* What a query reads of a tile of a pool: the sum of f(a, b_j) over the tile's rows j.
 *
 * Needs lanes and arithmetic.h. Every row of the tile is float32; pool.h sees to that. */

#define reading_t NAME(reading_t)
#define scale_pairs NAME(scale_pairs)
#define add_pairs NAME(add_pairs)

/* One query and the rows of a tile that it reads, in every head. */
typedef struct {
    const float *a, *rows; /* [HP]; [count][stride] */
    size_t stride;
    int count;             /* <= TILE */
    float *o;              /* [HP], to be added to */
    size_t ahead;          /* the rows so many values further on are fetched meanwhile; 0: none */
    const char *fetch;     /* what comes after the pool, to be fetched meanwhile; or NULL */
    float scales[HEADS * TILE];
} reading_t;

/* scales[head][j] of f(a, b_j) = act(scale_j (a + b_j)): 1 / (rms(a + b_j) + eps) for exact, times log2(e) for exp. */
CAUSALRN_INLINE void scale_pairs(reading_t *r)
{
#if CAUSALRN_READOUT == CAUSALRN_EXACT
    for (int head = 0; head < HEADS; head++) {
        const float *a = r->a + head * DP, *b = r->rows + head * DP;
        float *const scales = r->scales + head * TILE;
        int row = 0;
        for (; row + 4 <= r->count; row += 4) {
            lanes squares[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
            for (int i = 0; i < DP; i += LANES) {
                CAUSALRN_UNROLL
                for (int k = 0; k < 4; k++) {
                    const lanes pair = add(load(b + (size_t)(row + k) * r->stride + i), load(a + i));
                    squares[k] = madd(pair, pair, squares[k]);
                }
            }
            sum4(squares, scales + row);
        }
        for (; row < TILE; row++) {
            lanes squares = set(0.0f);
            for (int i = 0; i < DP && row < r->count; i += LANES) {
                const lanes pair = add(load(b + (size_t)row * r->stride + i), load(a + i));
                squares = madd(pair, pair, squares);
            }
            scales[row] = sum(squares);
        }
        const lanes mean_square = divide(load(scales), set((float)WIDTH));
        const lanes rms = root(add(mean_square, set(MEAN_SQUARE_FLOOR)));
        store(scales, divide(set(PAIR_SCALE), HAS_EPS ? add(rms, set(CAUSALRN_NORM_EPS)) : rms));
    }
#else
    for (int i = 0; i < HEADS * TILE; i++)
        r->scales[i] = PAIR_SCALE;
#endif
}

/* o += sum_j f(a, b_j). */
CAUSALRN_INLINE void add_pairs(const reading_t *r)
{
    const char *fetch = r->fetch;
    for (int i = 0; i < HP; i += LANES) {
        const float *const scales = r->scales + i / DP * TILE, *b = r->rows + i;
        const lanes query = load(r->a + i);
        lanes total = load(r->o + i);
        if (fetch != NULL) {
            for (int k = 0; k < LINES; k++)
                CAUSALRN_FETCH(fetch + k * 64);
            fetch += LINES * 64;
        }
        for (int k = 0; k < r->count; k++, b += r->stride) {
            if (r->ahead > 0)
                CAUSALRN_FETCH(b + r->ahead);
            total = add(total, activate(mul(add(query, load(b)), set(scales[k]))));
        }
        store(r->o + i, total);
    }
}
