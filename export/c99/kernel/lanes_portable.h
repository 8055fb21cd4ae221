/* What plain C and vectors of 4 have in common: sums of four rows, rounding to float16, and int8 products where
 * lanes_wasm.h has none.
 *
 * Needs halves.h, and lanes_plain.h or lanes_vectors.h. */

CAUSALRN_INLINE lanes hold(lanes x) { return x; }

CAUSALRN_INLINE void sum4(const lanes *x, float *out)
{
    for (int i = 0; i < 4; i++)
        out[i] = sum(x[i]);
}

CAUSALRN_INLINE void store_half(uint16_t *p, lanes x)
{
    float values[LANES];
    store(values, x);
    for (int i = 0; i < LANES; i++)
        p[i] = to_half(values[i]);
}

#if !(CAUSALRN_ISA == 4 && defined(__wasm_simd128__))
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
#endif
