/* int8 products by the DSP extension of ARM: two at a time. Of 16 outputs four are summed together, as many as there are
 * registers for.
 *
 * Needs dots_plain.h and <arm_acle.h>. */

typedef int32_t NAME(word) __attribute__((may_alias));
CAUSALRN_INLINE int32_t NAME(load_word)(const int8_t *p) { return *(const NAME(word) *)(const void *)p; }
CAUSALRN_INLINE int16x2_t NAME(even)(int32_t word) { return __sxtb16(word); }
CAUSALRN_INLINE int16x2_t NAME(odd)(int32_t word)
{
    int16x2_t r;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(word)); /* GCC makes two instructions of the intrinsic */
    return r;
}
CAUSALRN_INLINE int32_t NAME(dot_word)(const int8_t *w, int16x2_t even, int16x2_t odd, int32_t c)
{
    const int32_t weights = NAME(load_word)(w);
    return __smlad(NAME(odd)(weights), odd, __smlad(NAME(even)(weights), even, c));
}
CAUSALRN_INLINE counts dots(const int8_t *w, size_t step, const int8_t *in, int depth)
{
    counts r;
    for (int output = 0; output < LANES; output += 4, w += 16) {
        const int8_t *next = w;
        int32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0;
        for (int k = 0; k < depth; k += 4, next += step) {
            const int32_t x = NAME(load_word)(in + k);
            const int16x2_t even = NAME(even)(x), odd = NAME(odd)(x);
            c0 = NAME(dot_word)(next, even, odd, c0);
            c1 = NAME(dot_word)(next + 4, even, odd, c1);
            c2 = NAME(dot_word)(next + 8, even, odd, c2);
            c3 = NAME(dot_word)(next + 12, even, odd, c3);
        }
        r.v[output] = c0, r.v[output + 1] = c1, r.v[output + 2] = c2, r.v[output + 3] = c3;
    }
    return r;
}
