/* Rows of values: norms, padding, the largest one, rounding to int8.
 *
 * Needs lanes and arithmetic.h. */

#define normalize NAME(normalize)
#define normalize_with NAME(normalize_with)
#define zero_padding NAME(zero_padding)
#define largest_of NAME(largest_of)
#define quantize NAME(quantize)
#define narrow NAME(narrow)

/* out = in / (rms(in) + eps), over `width` values of which only the padding is zero. 0 where the mean square overflows. */
CAUSALRN_INLINE int normalize_with(const float *in, float *out, int padded, int width, float eps)
{
    lanes squares = set(0.0f);
    for (int i = 0; i < padded; i += LANES)
        squares = madd(load(in + i), load(in + i), squares);
    const float mean_square = sum(squares) / (float)width;
    const float rms = sqrtf(mean_square + MEAN_SQUARE_FLOOR);
    const lanes scale = set(1.0f / (HAS_EPS ? rms + eps : rms));
    for (int i = 0; i < padded; i += LANES)
        store(out + i, mul(load(in + i), scale));
    return mean_square <= FLT_MAX;
}

/* The same with the model's eps. */
CAUSALRN_INLINE int normalize(const float *in, float *out, int padded, int width)
{
    return normalize_with(in, out, padded, width, CAUSALRN_NORM_EPS);
}

/* Zeros into the padding of every head. */
CAUSALRN_INLINE void zero_padding(float *values)
{
    if (WIDTH != DP)
        for (int head = 0; head < HEADS; head++)
            for (int i = WIDTH; i < DP; i++)
                values[head * DP + i] = 0.0f;
}

/* The largest of the first `width` values; the padding is overwritten. */
CAUSALRN_INLINE float largest_of(float *values, int padded, int width)
{
    for (int i = width; i < padded; i++)
        values[i] = values[0];
    lanes most = load(values);
    for (int i = LANES; i < padded; i += LANES)
        most = larger(most, load(values + i));
    return largest(most);
}

/* Round a row to int8, symmetric, and give the scale that it has to be multiplied by. */
CAUSALRN_INLINE float quantize(const float *in, int8_t *out, int padded)
{
    lanes most = set(LARGEST_FLOOR);
    for (int i = 0; i < padded; i += LANES)
        most = larger(most, larger(load(in + i), sub(set(0.0f), load(in + i))));
    const float scale = largest(most) / 127.0f;
    for (int i = 0; i < padded; i += LANES) {
        float rounded[LANES];
        store(rounded, sub(add(divide(load(in + i), set(scale)), set(ROUNDER)), set(ROUNDER)));
        for (int k = 0; k < LANES; k++)
            out[i + k] = (int8_t)(int32_t)rounded[k];
    }
    return scale;
}

/* Round a row to float16, halves to even. 0 where a value is beyond its range, or no number. */
CAUSALRN_INLINE int narrow(const float *in, uint16_t *out, int padded)
{
    int finite = 1;
    for (int i = 0; i < padded; i += LANES)
        store_half(out + i, load(in + i));
    for (int i = 0; i < padded; i++)
        finite &= (out[i] & 0x7c00u) != 0x7c00u;
    return finite;
}
