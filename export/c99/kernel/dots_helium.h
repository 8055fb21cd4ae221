/* int8 products by Helium: 16 inputs of an output at a time, gathered from where they lie four by four.
 *
 * Needs dots_plain.h and <arm_mve.h>. */

CAUSALRN_INLINE int32_t NAME(dot16)(const int8_t *w, uint32x4_t places, int8x16_t in, int32_t c)
{
    const int32x4_t weights = vldrwq_gather_offset_s32((const int32_t *)(const void *)w, places);
    return vmladavaq_s8(c, vreinterpretq_s8_s32(weights), in);
}
CAUSALRN_INLINE counts dots(const int8_t *w, size_t step, const int8_t *in, int depth)
{
    const uint32x4_t p0 = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step), p1 = vaddq_n_u32(p0, 4),
                     p2 = vaddq_n_u32(p0, 8), p3 = vaddq_n_u32(p0, 12);
    counts r;
    for (int output = 0; output < LANES; output += 4, w += 16) {
        const int8_t *next = w;
        int32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0;
        for (int k = 0; k < depth; k += 16, next += 4 * step) {
            const int8x16_t x = vldrbq_s8(in + k);
            c0 = NAME(dot16)(next, p0, x, c0);
            c1 = NAME(dot16)(next, p1, x, c1);
            c2 = NAME(dot16)(next, p2, x, c2);
            c3 = NAME(dot16)(next, p3, x, c3);
        }
        r.v[output] = c0, r.v[output + 1] = c1, r.v[output + 2] = c2, r.v[output + 3] = c3;
    }
    return r;
}
