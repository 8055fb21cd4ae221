/* 16 lanes as one vector of AVX-512; int8 products by VNNI.
 *
 * Needs lanes.h, and <immintrin.h> with avx512f, avx512bw, avx512dq, avx512vl and avx512vnni. */

typedef __m512 lanes;
typedef __m512i counts;
CAUSALRN_INLINE lanes set(float x) { return _mm512_set1_ps(x); }
CAUSALRN_INLINE lanes load(const float *p) { return _mm512_loadu_ps(p); }
CAUSALRN_INLINE void store(float *p, lanes x) { _mm512_storeu_ps(p, x); }
CAUSALRN_INLINE lanes hold(lanes x)
{
    __asm__("" : "+v"(x));
    return x;
}
CAUSALRN_INLINE lanes add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
CAUSALRN_INLINE lanes sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
CAUSALRN_INLINE lanes mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
CAUSALRN_INLINE lanes divide(lanes a, lanes b) { return _mm512_div_ps(a, b); }
CAUSALRN_INLINE lanes root(lanes a) { return _mm512_sqrt_ps(a); }
CAUSALRN_INLINE lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); }
CAUSALRN_INLINE lanes madd(lanes a, lanes b, lanes c)
{
#ifdef CAUSALRN_REPRODUCIBLE
    return _mm512_add_ps(_mm512_mul_ps(a, b), c);
#else
    return _mm512_fmadd_ps(a, b, c);
#endif
}
CAUSALRN_INLINE float sum(lanes x)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
CAUSALRN_INLINE void sum4(const lanes *x, float *out) /* the same additions for four rows at once */
{
    const lanes p = _mm512_add_ps(_mm512_shuffle_f32x4(x[0], x[1], 0x44), _mm512_shuffle_f32x4(x[0], x[1], 0xee));
    const lanes q = _mm512_add_ps(_mm512_shuffle_f32x4(x[2], x[3], 0x44), _mm512_shuffle_f32x4(x[2], x[3], 0xee));
    const lanes four = _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x88), _mm512_shuffle_f32x4(p, q, 0xdd));
    const lanes two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    const lanes one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
}
CAUSALRN_INLINE float largest(lanes x) { return _mm512_reduce_max_ps(x); }
CAUSALRN_INLINE lanes scale_by_power(lanes x, lanes n)
{
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}
CAUSALRN_INLINE lanes load_int8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
CAUSALRN_INLINE lanes load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
CAUSALRN_INLINE void store_half(uint16_t *p, lanes x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
CAUSALRN_INLINE counts no_counts(void) { return _mm512_setzero_si512(); }
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const __m512i unsigned_in = _mm512_set1_epi32((int32_t)((uint32_t)in ^ 0x80808080u)); /* in + 128, see sums */
    return _mm512_dpbusd_epi32(c, unsigned_in, _mm512_loadu_si512((const void *)w));
}
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(c, _mm512_loadu_si512((const void *)sums)));
}
