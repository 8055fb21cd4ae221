/* What plain C and vectors of 4 have in common: sums of four rows, rounding to float16.
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
