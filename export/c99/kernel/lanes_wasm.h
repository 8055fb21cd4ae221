/* int8 and float16 in WebAssembly with SIMD: loaded as lanes; int8 products.
 *
 * Needs lanes_vectors.h and <wasm_simd128.h>. */

/* A byte + 128 as the lowest bits of 2^23, minus what that is too much: exact. (Clang 14 converts integers one by one.) */
CAUSALRN_INLINE four NAME(lowest_bits)(v128_t shorts) { return (four)wasm_f32x4_sub(shorts, wasm_f32x4_const_splat(8388736.0f)); }
CAUSALRN_INLINE lanes load_int8(const int8_t *p)
{
    const v128_t bytes = wasm_v128_xor(wasm_v128_load(p), wasm_i8x16_const_splat(-128)), exponent = wasm_i16x8_const_splat(0x4b00);
    const v128_t low = wasm_u16x8_extend_low_u8x16(bytes), high = wasm_u16x8_extend_high_u8x16(bytes);
    lanes r;
    r.a = NAME(lowest_bits)(wasm_i16x8_shuffle(low, exponent, 0, 8, 1, 9, 2, 10, 3, 11));
    r.b = NAME(lowest_bits)(wasm_i16x8_shuffle(low, exponent, 4, 12, 5, 13, 6, 14, 7, 15));
    r.c = NAME(lowest_bits)(wasm_i16x8_shuffle(high, exponent, 0, 8, 1, 9, 2, 10, 3, 11));
    r.d = NAME(lowest_bits)(wasm_i16x8_shuffle(high, exponent, 4, 12, 5, 13, 6, 14, 7, 15));
    return r;
}
CAUSALRN_INLINE lanes load_half(const uint16_t *p)
{
    const v128_t low = wasm_v128_load(p), high = wasm_v128_load(p + 8);
    lanes r;
    r.a = NAME(from_halves)((bits)wasm_u32x4_extend_low_u16x8(low)), r.b = NAME(from_halves)((bits)wasm_u32x4_extend_high_u16x8(low));
    r.c = NAME(from_halves)((bits)wasm_u32x4_extend_low_u16x8(high)), r.d = NAME(from_halves)((bits)wasm_u32x4_extend_high_u16x8(high));
    return r;
}

typedef struct {
    v128_t v[8]; /* of two outputs each, two sums of products apart */
} counts;
CAUSALRN_INLINE counts no_counts(void)
{
    counts r;
    for (int i = 0; i < 8; i++)
        r.v[i] = wasm_i32x4_const(0, 0, 0, 0);
    return r;
}
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const v128_t wide = wasm_i16x8_extend_low_i8x16(wasm_i32x4_splat(in));
    for (int i = 0; i < 4; i++) {
        const v128_t weights = wasm_v128_load(w + 16 * i);
        c.v[2 * i] = wasm_i32x4_add(c.v[2 * i], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(weights), wide));
        c.v[2 * i + 1] = wasm_i32x4_add(c.v[2 * i + 1], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(weights), wide));
    }
    return c;
}
CAUSALRN_INLINE four NAME(counted4)(v128_t x, v128_t y)
{
    return (four)wasm_f32x4_convert_i32x4(
        wasm_i32x4_add(wasm_i32x4_shuffle(x, y, 0, 2, 4, 6), wasm_i32x4_shuffle(x, y, 1, 3, 5, 7)));
}
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    lanes r;
    (void)sums;
    r.a = NAME(counted4)(c.v[0], c.v[1]), r.b = NAME(counted4)(c.v[2], c.v[3]);
    r.c = NAME(counted4)(c.v[4], c.v[5]), r.d = NAME(counted4)(c.v[6], c.v[7]);
    return r;
}
