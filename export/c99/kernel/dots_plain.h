/* int8 products in plain C: the definition of what the others compute.
 *
 * Needs lanes.h. */

typedef struct {
    int32_t v[LANES];
} counts;
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
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    float values[LANES];
    (void)sums;
    for (int i = 0; i < LANES; i++)
        values[i] = (float)c.v[i];
    return load(values);
}
