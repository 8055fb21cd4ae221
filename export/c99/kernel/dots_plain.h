/* int8 products in plain C: the definition of what the others compute. Where there are no vectors, four outputs after the
 * other four, whose sums stay in registers.
 *
 * Needs lanes.h. dots_dsp.h, dots_helium.h and dots_rvv.h have dots() for their processors. */

typedef struct {
    int32_t v[LANES];
} counts;
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    float values[LANES];
    (void)sums;
    for (int i = 0; i < LANES; i++)
        values[i] = (float)c.v[i];
    return load(values);
}
#if CAUSALRN_ISA != 0
CAUSALRN_INLINE counts no_counts(void)
{
    const counts r = {{0}};
    return r;
}
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const uint32_t u = (uint32_t)in; /* four int8, the first in the lowest byte */
    const int32_t x0 = (int8_t)(u & 255u), x1 = (int8_t)(u >> 8 & 255u), x2 = (int8_t)(u >> 16 & 255u),
                  x3 = (int8_t)(u >> 24);
    for (int i = 0; i < LANES; i++)
        c.v[i] += w[4 * i] * x0 + w[4 * i + 1] * x1 + w[4 * i + 2] * x2 + w[4 * i + 3] * x3;
    return c;
}
#elif CAUSALRN_INT8_BY == CAUSALRN_C
CAUSALRN_INLINE counts dots(const int8_t *w, size_t step, const int8_t *in, int depth)
{
    counts r;
    for (int output = 0; output < LANES; output += 4, w += 16) {
        const int8_t *next = w;
        int32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0;
        for (int k = 0; k < depth; k += 4, next += step) {
            const int32_t x0 = in[k], x1 = in[k + 1], x2 = in[k + 2], x3 = in[k + 3];
            c0 += next[0] * x0 + next[1] * x1 + next[2] * x2 + next[3] * x3;
            c1 += next[4] * x0 + next[5] * x1 + next[6] * x2 + next[7] * x3;
            c2 += next[8] * x0 + next[9] * x1 + next[10] * x2 + next[11] * x3;
            c3 += next[12] * x0 + next[13] * x1 + next[14] * x2 + next[15] * x3;
        }
        r.v[output] = c0, r.v[output + 1] = c1, r.v[output + 2] = c2, r.v[output + 3] = c3;
    }
    return r;
}
#endif
