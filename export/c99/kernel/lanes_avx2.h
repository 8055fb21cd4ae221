/* 16 lanes as two vectors of AVX2, products and sums fused.
 *
 * Needs lanes.h, and <immintrin.h> with avx2, fma and f16c. */

typedef struct {
    __m256 low, high;
} lanes;
typedef struct {
    __m256i a, b, c, d;
} counts;
CAUSALRN_INLINE lanes hold(lanes x)
{
    __asm__("" : "+x"(x.low), "+x"(x.high));
    return x;
}
#define EACH(operation) \
    lanes r;            \
    r.low = operation(a.low, b.low), r.high = operation(a.high, b.high); \
    return r
CAUSALRN_INLINE lanes set(float x)
{
    lanes r;
    r.low = r.high = _mm256_set1_ps(x);
    return r;
}
CAUSALRN_INLINE lanes load(const float *p)
{
    lanes r;
    r.low = _mm256_loadu_ps(p), r.high = _mm256_loadu_ps(p + 8);
    return r;
}
CAUSALRN_INLINE void store(float *p, lanes x) { _mm256_storeu_ps(p, x.low), _mm256_storeu_ps(p + 8, x.high); }
CAUSALRN_INLINE lanes add(lanes a, lanes b) { EACH(_mm256_add_ps); }
CAUSALRN_INLINE lanes sub(lanes a, lanes b) { EACH(_mm256_sub_ps); }
CAUSALRN_INLINE lanes mul(lanes a, lanes b) { EACH(_mm256_mul_ps); }
CAUSALRN_INLINE lanes divide(lanes a, lanes b) { EACH(_mm256_div_ps); }
CAUSALRN_INLINE lanes larger(lanes a, lanes b) { EACH(_mm256_max_ps); }
#undef EACH
CAUSALRN_INLINE lanes root(lanes a)
{
    lanes r;
    r.low = _mm256_sqrt_ps(a.low), r.high = _mm256_sqrt_ps(a.high);
    return r;
}
CAUSALRN_INLINE lanes madd(lanes a, lanes b, lanes c)
{
#ifdef CAUSALRN_REPRODUCIBLE
    return add(mul(a, b), c);
#else
    lanes r;
    r.low = _mm256_fmadd_ps(a.low, b.low, c.low), r.high = _mm256_fmadd_ps(a.high, b.high, c.high);
    return r;
#endif
}
CAUSALRN_INLINE float sum(lanes x)
{
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
CAUSALRN_INLINE void sum4(const lanes *x, float *out) /* the same additions for four rows at once */
{
    const __m256 a = _mm256_add_ps(x[0].low, x[0].high), b = _mm256_add_ps(x[1].low, x[1].high);
    const __m256 c = _mm256_add_ps(x[2].low, x[2].high), d = _mm256_add_ps(x[3].low, x[3].high);
    const __m256 p = _mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
    const __m256 q = _mm256_add_ps(_mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31));
    const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(p, q, 0x44), _mm256_shuffle_ps(p, q, 0xee));
    const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two, two, 0x88), _mm256_shuffle_ps(two, two, 0xdd));
    _mm_storeu_ps(out, _mm_movelh_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1)));
}
CAUSALRN_INLINE float largest(lanes x)
{
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
CAUSALRN_INLINE __m256 NAME(scale_half)(__m256 x, __m256 n)
{
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
}
CAUSALRN_INLINE lanes scale_by_power(lanes x, lanes n)
{
    lanes r;
    r.low = NAME(scale_half)(x.low, n.low), r.high = NAME(scale_half)(x.high, n.high);
    return r;
}
CAUSALRN_INLINE lanes load_int8(const int8_t *p)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    lanes r;
    r.low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    r.high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
    return r;
}
CAUSALRN_INLINE lanes load_half(const uint16_t *p)
{
    lanes r;
    r.low = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    r.high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)));
    return r;
}
CAUSALRN_INLINE void store_half(uint16_t *p, lanes x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
CAUSALRN_INLINE counts no_counts(void)
{
    counts r;
    r.a = r.b = r.c = r.d = _mm256_setzero_si256();
    return r;
}
CAUSALRN_INLINE __m256i NAME(dot_quarter)(const int8_t *w, __m256i in, __m256i c)
{
    const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)w));
    return _mm256_add_epi32(c, _mm256_madd_epi16(weights, in));
}
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_set1_epi32(in));
    c.a = NAME(dot_quarter)(w, wide, c.a);
    c.b = NAME(dot_quarter)(w + 16, wide, c.b);
    c.c = NAME(dot_quarter)(w + 32, wide, c.c);
    c.d = NAME(dot_quarter)(w + 48, wide, c.d);
    return c;
}
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    lanes r;
    (void)sums;
    r.low = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(c.a, c.b), 0xd8));
    r.high = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(c.c, c.d), 0xd8));
    return r;
}
