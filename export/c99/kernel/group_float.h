/* A few rows by a few columns of a matrix product, float32 inputs by float32 or int8 weights: sums, then scales and bias.
 *
 * Needs lanes and matrix.h. */

#define group NAME(group)

enum {
    NAME(together) = CAUSALRN_ISA >= 8 ? 6 : CAUSALRN_ISA == 4 ? 2 : 1,
    NAME(rows) = CAUSALRN_ISA == 16 ? 4 : CAUSALRN_ISA == 8 ? 2 : 1
};

/* `n` columns of 16 outputs, beginning at `column` of a panel of `width` columns, for `r` rows. All but the pointers are
 * constants once this is inlined. */
CAUSALRN_INLINE void group(const causalrn_matrix *m, const causalrn_weight *weights, const job *j, size_t row, size_t output,
                           int column, int width, const int n, const int r)
{
    const float *in = (const float *)j->in + row * j->in_stride;
    lanes sums[4][PANEL];
    EACH_ROW EACH_COLUMN sums[i][c] = set(0.0f);
    for (int k = 0; k < j->depth; k++) {
        const causalrn_weight *w = weights + ((size_t)k * (size_t)width + (size_t)column) * LANES;
        lanes columns[PANEL];
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8
        EACH_COLUMN columns[c] = load_int8(w + c * LANES);
#else
        EACH_COLUMN columns[c] = load(w + c * LANES);
#endif
        if (r == 1)
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c += (int)(sizeof(float) / sizeof *w))
                CAUSALRN_FETCH_ONCE(w + c * LANES);
        EACH_ROW {
            const lanes x = set(in[(size_t)i * j->in_stride + (size_t)k]);
            EACH_COLUMN sums[i][c] = madd(x, columns[c], sums[i][c]);
        }
    }
    EACH_ROW EACH_COLUMN {
        const size_t place = output + (size_t)(column + c) * LANES;
        float *out = j->out + (row + (size_t)i) * j->out_stride + place;
        const lanes bias = load(m->bias + place);
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8
        lanes value = madd(sums[i][c], load(m->scale + place), bias);
#else
        lanes value = add(sums[i][c], bias);
#endif
        if (j->accumulate)
            value = add(load(out), value);
        store(out, value);
    }
}
