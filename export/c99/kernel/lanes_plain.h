/* 16 lanes in plain C: the definition of what the others compute.
 *
 * Needs lanes.h and halves.h. lanes_portable.h has the rest. */

typedef struct {
    float v[LANES];
} lanes;
#define EACH(expression)            \
    lanes r;                        \
    for (int i = 0; i < LANES; i++) \
        r.v[i] = expression;        \
    return r
CAUSALRN_INLINE float NAME(madd1)(float x, float y, float z)
{
#if defined(__FP_FAST_FMAF) && !defined(CAUSALRN_REPRODUCIBLE)
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}
CAUSALRN_INLINE float NAME(power1)(float x, float n)
{
    union {
        float number;
        uint32_t bits;
    } value, power;
    value.number = x, power.number = n;
    value.bits += power.bits << 23;
    return value.number;
}
CAUSALRN_INLINE lanes set(float x) { EACH(x); }
CAUSALRN_INLINE lanes load(const float *p) { EACH(p[i]); }
CAUSALRN_INLINE void store(float *p, lanes x)
{
    for (int i = 0; i < LANES; i++)
        p[i] = x.v[i];
}
CAUSALRN_INLINE lanes add(lanes x, lanes y) { EACH(x.v[i] + y.v[i]); }
CAUSALRN_INLINE lanes sub(lanes x, lanes y) { EACH(x.v[i] - y.v[i]); }
CAUSALRN_INLINE lanes mul(lanes x, lanes y) { EACH(x.v[i] * y.v[i]); }
CAUSALRN_INLINE lanes divide(lanes x, lanes y) { EACH(x.v[i] / y.v[i]); }
CAUSALRN_INLINE lanes larger(lanes x, lanes y) { EACH(x.v[i] > y.v[i] ? x.v[i] : y.v[i]); }
CAUSALRN_INLINE lanes root(lanes x) { EACH(sqrtf(x.v[i])); }
CAUSALRN_INLINE lanes madd(lanes x, lanes y, lanes z) { EACH(NAME(madd1)(x.v[i], y.v[i], z.v[i])); }
CAUSALRN_INLINE lanes scale_by_power(lanes x, lanes n) { EACH(NAME(power1)(x.v[i], n.v[i])); }
CAUSALRN_INLINE lanes load_int8(const int8_t *p) { EACH((float)p[i]); }
CAUSALRN_INLINE lanes load_half(const uint16_t *p) { EACH(from_half(p[i])); }
#undef EACH
CAUSALRN_INLINE float sum(lanes x)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x.v[i] = x.v[i] + x.v[i + half];
    return x.v[0];
}
CAUSALRN_INLINE float largest(lanes x)
{
    for (int i = 1; i < LANES; i++)
        x.v[0] = x.v[i] > x.v[0] ? x.v[i] : x.v[0];
    return x.v[0];
}
