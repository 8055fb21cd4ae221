/* 16 lanes as four vectors of 4, by the vector types of GCC and Clang: SSE2, NEON, WebAssembly.
 *
 * Needs lanes.h. lanes_portable.h has the rest; for WebAssembly lanes_wasm.h has what loads and multiplies int8. */

typedef float NAME(four) __attribute__((vector_size(16)));
typedef uint32_t NAME(bits) __attribute__((vector_size(16)));
#define four NAME(four)
#define bits NAME(bits)
typedef struct {
    four a, b, c, d;
} lanes;
#define EACH(expression)                                                                       \
    lanes r;                                                                                   \
    r.a = expression(a), r.b = expression(b), r.c = expression(c), r.d = expression(d);          \
    return r
CAUSALRN_INLINE four NAME(larger4)(four x, four y)
{
    const bits mask = (bits)(x > y);
    return (four)(((bits)x & mask) | ((bits)y & ~mask));
}
CAUSALRN_INLINE four NAME(root4)(four x)
{
    const four r = {sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
    return r;
}
CAUSALRN_INLINE four NAME(madd4)(four x, four y, four z)
{
#if defined(__aarch64__) && !defined(CAUSALRN_REPRODUCIBLE)
    const four r = {__builtin_fmaf(x[0], y[0], z[0]), __builtin_fmaf(x[1], y[1], z[1]),
                    __builtin_fmaf(x[2], y[2], z[2]), __builtin_fmaf(x[3], y[3], z[3])};
    return r;
#else
    return x * y + z;
#endif
}
CAUSALRN_INLINE four NAME(load4)(const float *p)
{
    const four r = {p[0], p[1], p[2], p[3]};
    return r;
}
CAUSALRN_INLINE void NAME(store4)(float *p, four x) { p[0] = x[0], p[1] = x[1], p[2] = x[2], p[3] = x[3]; }
CAUSALRN_INLINE lanes set(float x)
{
    const four all = {x, x, x, x};
    lanes r;
    r.a = r.b = r.c = r.d = all;
    return r;
}
CAUSALRN_INLINE lanes load(const float *p)
{
    lanes r;
    r.a = NAME(load4)(p), r.b = NAME(load4)(p + 4), r.c = NAME(load4)(p + 8), r.d = NAME(load4)(p + 12);
    return r;
}
CAUSALRN_INLINE void store(float *p, lanes x)
{
    NAME(store4)(p, x.a), NAME(store4)(p + 4, x.b), NAME(store4)(p + 8, x.c), NAME(store4)(p + 12, x.d);
}
#define ADD(part) (x.part + y.part)
#define SUB(part) (x.part - y.part)
#define MUL(part) (x.part * y.part)
#define DIV(part) (x.part / y.part)
#define MAX(part) NAME(larger4)(x.part, y.part)
#define ROOT(part) NAME(root4)(x.part)
#define MADD(part) NAME(madd4)(x.part, y.part, z.part)
#define POWER(part) (four)((bits)x.part + ((bits)y.part << 23))
CAUSALRN_INLINE lanes add(lanes x, lanes y) { EACH(ADD); }
CAUSALRN_INLINE lanes sub(lanes x, lanes y) { EACH(SUB); }
CAUSALRN_INLINE lanes mul(lanes x, lanes y) { EACH(MUL); }
CAUSALRN_INLINE lanes divide(lanes x, lanes y) { EACH(DIV); }
CAUSALRN_INLINE lanes larger(lanes x, lanes y) { EACH(MAX); }
CAUSALRN_INLINE lanes root(lanes x) { EACH(ROOT); }
CAUSALRN_INLINE lanes madd(lanes x, lanes y, lanes z) { EACH(MADD); }
CAUSALRN_INLINE lanes scale_by_power(lanes x, lanes y) { EACH(POWER); }
#undef EACH
#undef ADD
#undef SUB
#undef MUL
#undef DIV
#undef MAX
#undef ROOT
#undef MADD
#undef POWER
CAUSALRN_INLINE float sum(lanes x)
{
    const four r = (x.a + x.c) + (x.b + x.d);
    return (r[0] + r[2]) + (r[1] + r[3]);
}
CAUSALRN_INLINE float largest(lanes x)
{
    const four r = NAME(larger4)(NAME(larger4)(x.a, x.c), NAME(larger4)(x.b, x.d));
    const float p = r[0] > r[2] ? r[0] : r[2], q = r[1] > r[3] ? r[1] : r[3];
    return p > q ? p : q;
}

#ifndef __wasm_simd128__
CAUSALRN_INLINE lanes load_int8(const int8_t *p)
{
    float values[LANES];
    for (int i = 0; i < LANES; i++)
        values[i] = (float)p[i];
    return load(values);
}
#endif

/* 16 halves: what is one times 2^112 too small as the bits of a float is exact as a float. */
CAUSALRN_INLINE four NAME(from_halves)(bits halves)
{
    const four magnitude = (four)((halves & 0x7fffu) << 13) * 0x1p112f;
    return (four)((bits)magnitude | (halves & 0x8000u) << 16);
}
#ifndef __wasm_simd128__
CAUSALRN_INLINE four NAME(half4)(const uint16_t *p)
{
#ifdef __aarch64__
    return (four)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    const bits halves = {p[0], p[1], p[2], p[3]};
    return NAME(from_halves)(halves);
#endif
}
CAUSALRN_INLINE lanes load_half(const uint16_t *p)
{
    lanes r;
    r.a = NAME(half4)(p), r.b = NAME(half4)(p + 4), r.c = NAME(half4)(p + 8), r.d = NAME(half4)(p + 12);
    return r;
}
#endif
