/* A few rows by a few columns of a matrix product, int8 x int8: exact int32 sums, then scales and bias.
 *
 * Needs lanes and matrix.h. */

#define group NAME(group)
#define give_counts NAME(give_counts)

#if CAUSALRN_ISA == 16
enum { NAME(together) = 6, NAME(rows) = 4 };
#elif CAUSALRN_ISA == 8
enum { NAME(together) = 2, NAME(rows) = 1 };
#elif CAUSALRN_INT8_BY == CAUSALRN_NEON
enum { NAME(together) = NEON_COLUMNS, NAME(rows) = NEON_ROWS };
#else
enum { NAME(together) = 1, NAME(rows) = 1 };
#endif

/* A column of 16 outputs of a row, from its sums. */
CAUSALRN_INLINE void give_counts(const causalrn_matrix *m, const job *j, size_t row, size_t place, counts sums)
{
    float *out = j->out + row * j->out_stride + place;
    const lanes scale = mul(load(m->scale + place), set(j->in_scales[row]));
    lanes value = madd(counted(sums, m->sums + place), scale, load(m->bias + place));
    if (j->accumulate)
        value = add(load(out), value);
    store(out, value);
}

/* `n` columns of 16 outputs, beginning at `column` of a panel of `width` columns, for `r` rows. All but the pointers are
 * constants once this is inlined. */
CAUSALRN_INLINE void group(const causalrn_matrix *m, const causalrn_weight *weights, const job *j, size_t row, size_t output,
                           int column, int width, const int n, const int r, const int in_parts)
{
    const int8_t *in = (const int8_t *)j->in + row * j->in_stride;
    const size_t place = output + (size_t)column * LANES, step = (size_t)width * LANES * 4;
    const int8_t *w = weights + (size_t)column * LANES * 4;
    (void)in_parts; /* never */
#if CAUSALRN_ISA == 0
    EACH_ROW EACH_COLUMN give_counts(m, j, row + (size_t)i, place + (size_t)c * LANES,
                                     dots(w + c * LANES * 4, step, in + (size_t)i * j->in_stride, j->depth));
#else
    counts sums[4][PANEL];
    EACH_ROW EACH_COLUMN sums[i][c] = no_counts();
    for (int k = 0; k < j->depth; k += 4, w += step) {
        if (r == 1)
            EACH_COLUMN CAUSALRN_FETCH_ONCE(w + c * LANES * 4);
        EACH_ROW {
            const int8_t *x = in + (size_t)i * j->in_stride + k;
            const int32_t four_in = (int32_t)((uint32_t)(uint8_t)x[0] | (uint32_t)(uint8_t)x[1] << 8 |
                                              (uint32_t)(uint8_t)x[2] << 16 | (uint32_t)(uint8_t)x[3] << 24);
            EACH_COLUMN sums[i][c] = dot4(w + c * LANES * 4, four_in, sums[i][c]);
        }
    }
    EACH_ROW EACH_COLUMN give_counts(m, j, row + (size_t)i, place + (size_t)c * LANES, sums[i][c]);
#endif
}
