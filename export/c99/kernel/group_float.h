/* A few rows by a few columns of a matrix product, float32 inputs by float32 or int8 weights: sums, then scales and bias.
 *
 * Needs lanes and matrix.h. */

#define group NAME(group)
#define give_sums NAME(give_sums)
#define load_weights NAME(load_weights)

enum {
    NAME(together) = CAUSALRN_ISA >= 8 ? 6 : CAUSALRN_ISA == 4 ? 2 : 1,
    NAME(rows) = CAUSALRN_ISA == 16 ? 4 : CAUSALRN_ISA == 8 ? 2 : 1
};

CAUSALRN_INLINE lanes load_weights(const causalrn_weight *weights)
{
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8
    return load_int8(weights);
#else
    return load(weights);
#endif
}

/* Sums that are whole, to where the product goes: by their scales, with bias. */
CAUSALRN_INLINE void give_sums(const causalrn_matrix *m, const job *j, size_t row, size_t output, lanes (*sums)[PANEL],
                               const int n, const int r)
{
    EACH_ROW EACH_COLUMN {
        float *out = j->out + (row + (size_t)i) * j->out_stride + output + (size_t)c * LANES;
        const lanes bias = load(m->bias + output + c * LANES);
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8
        lanes value = madd(sums[i][c], load(m->scale + output + c * LANES), bias);
#else
        lanes value = add(sums[i][c], bias);
#endif
        if (j->accumulate)
            value = add(load(out), value);
        store(out, value);
    }
}

/* `n` columns of 16 outputs, beginning at `column` of a panel of `width` columns, for `r` rows; `in_parts`: of the job's
 * inputs begin .. end - 1. All but the pointers are constants once this is inlined. */
CAUSALRN_INLINE void group(const causalrn_matrix *m, const causalrn_weight *weights, const job *j, size_t row, size_t output,
                           int column, int width, const int n, const int r, const int in_parts)
{
    const float *in = (const float *)j->in + row * j->in_stride;
    float *const kept = in_parts ? j->kept + (row % KEPT_ROWS * PANEL + (size_t)column) * LANES : NULL;
    const int begin = in_parts ? j->begin : 0, end = in_parts && j->end < j->depth ? j->end : j->depth;
    lanes sums[4][PANEL];
    EACH_ROW EACH_COLUMN sums[i][c] = begin == 0 ? set(0.0f) : load(kept + (i * PANEL + c) * LANES);
    for (int k = begin; k < end; k++) {
        const causalrn_weight *w = weights + ((size_t)k * (size_t)width + (size_t)column) * LANES;
        lanes x[4];
        EACH_ROW x[i] = set(in[(size_t)i * j->in_stride + (size_t)k]);
        if (r == 1 && !in_parts)
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c += (int)(sizeof(float) / sizeof *w))
                CAUSALRN_FETCH_ONCE(w + c * LANES);
        EACH_COLUMN {
            const lanes these = r > 1 ? hold(load_weights(w + c * LANES)) : load_weights(w + c * LANES);
            EACH_ROW sums[i][c] = madd(x[i], these, sums[i][c]);
        }
    }
    if (in_parts && end < j->depth)
        EACH_ROW EACH_COLUMN store(kept + (i * PANEL + c) * LANES, sums[i][c]);
    else
        give_sums(m, j, row, output + (size_t)column * LANES, sums, n, r);
}
