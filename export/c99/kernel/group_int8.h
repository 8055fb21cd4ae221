/* A few rows by a few columns of a matrix product, int8 x int8: exact int32 sums, then scales and bias.
 *
 * Needs lanes and matrix.h. */

#define group NAME(group)

enum { NAME(together) = CAUSALRN_ISA == 16 ? 6 : CAUSALRN_ISA == 8 ? 2 : 1, NAME(rows) = CAUSALRN_ISA == 16 ? 4 : 1 };

/* `n` columns of 16 outputs, beginning at `column` of a panel of `width` columns, for `r` rows. All but the pointers are
 * constants once this is inlined. */
CAUSALRN_INLINE void group(const causalrn_matrix *m, const causalrn_weight *weights, const job *j, size_t row, size_t output,
                           int column, int width, const int n, const int r, const int in_parts)
{
    (void)in_parts; /* never */
    const int8_t *in = (const int8_t *)j->in + row * j->in_stride;
    counts sums[4][PANEL];
    EACH_ROW EACH_COLUMN sums[i][c] = no_counts();
    for (int k = 0; k < j->depth; k += 4) {
        const int8_t *w = weights + ((size_t)k / 4 * (size_t)width + (size_t)column) * LANES * 4;
        if (r == 1)
            EACH_COLUMN CAUSALRN_FETCH_ONCE(w + c * LANES * 4);
        EACH_ROW {
            const int8_t *x = in + (size_t)i * j->in_stride + k;
            const int32_t four_in = (int32_t)((uint32_t)(uint8_t)x[0] | (uint32_t)(uint8_t)x[1] << 8 |
                                              (uint32_t)(uint8_t)x[2] << 16 | (uint32_t)(uint8_t)x[3] << 24);
            EACH_COLUMN sums[i][c] = dot4(w + c * LANES * 4, four_in, sums[i][c]);
        }
    }
    EACH_ROW EACH_COLUMN {
        const size_t place = output + (size_t)(column + c) * LANES;
        float *out = j->out + (row + (size_t)i) * j->out_stride + place;
        const lanes bias = load(m->bias + place);
        const lanes scale = mul(load(m->scale + place), set(j->in_scales[row + (size_t)i]));
        lanes value = madd(counted(sums[i][c], m->sums + place), scale, bias);
        if (j->accumulate)
            value = add(load(out), value);
        store(out, value);
    }
}
