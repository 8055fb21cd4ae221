/* int8 products by NEON: four of an output by one instruction where processors have the dot product, else in pairs.
 *
 * Needs lanes_vectors.h and <arm_neon.h>. */

#ifdef __ARM_FEATURE_DOTPROD
enum { NEON_COLUMNS = 6, NEON_ROWS = 2 };
typedef struct {
    int32x4_t v[4]; /* of four outputs each */
} counts;
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(in));
    for (int i = 0; i < 4; i++)
        c.v[i] = vdotq_s32(c.v[i], vld1q_s8(w + 16 * i), all);
    return c;
}
CAUSALRN_INLINE int32x4_t NAME(four_counts)(counts c, int i) { return c.v[i]; }
#else
enum { NEON_COLUMNS = 2, NEON_ROWS = 1 };
typedef struct {
    int32x4_t v[8]; /* of two outputs each, two sums of products apart */
} counts;
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(in));
    for (int i = 0; i < 4; i++) {
        const int8x16_t weights = vld1q_s8(w + 16 * i);
        c.v[2 * i] = vpadalq_s16(c.v[2 * i], vmull_s8(vget_low_s8(weights), vget_low_s8(all)));
        c.v[2 * i + 1] = vpadalq_s16(c.v[2 * i + 1], vmull_high_s8(weights, all));
    }
    return c;
}
CAUSALRN_INLINE int32x4_t NAME(four_counts)(counts c, int i) { return vpaddq_s32(c.v[2 * i], c.v[2 * i + 1]); }
#endif
CAUSALRN_INLINE counts no_counts(void)
{
    counts r;
    for (size_t i = 0; i < sizeof r.v / sizeof r.v[0]; i++)
        r.v[i] = vdupq_n_s32(0);
    return r;
}
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    lanes r;
    (void)sums;
    r.a = (four)vcvtq_f32_s32(NAME(four_counts)(c, 0)), r.b = (four)vcvtq_f32_s32(NAME(four_counts)(c, 1));
    r.c = (four)vcvtq_f32_s32(NAME(four_counts)(c, 2)), r.d = (four)vcvtq_f32_s32(NAME(four_counts)(c, 3));
    return r;
}
