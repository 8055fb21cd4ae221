/* What a processor can do at all: loops that do nothing but read, nothing but exps, nothing but products, on vectors as
 * wide as the processor's (GCC manual, "Vector Extensions"). Everything but `read_floats` stays in the first-level
 * cache. Every function gives a number, so that nothing is left out. */
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define UNROLLED 8
#define SUMS 12
#define ROWS 16
#define WIDTH 192

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef float loaded __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* LANES numbers of 8 bits as floats; compilers are slow to find these instructions by themselves. */
static vector widened(const int8_t *p)
{
#if defined(__AVX512F__)
    return (vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
#elif defined(__AVX2__)
    return (vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    typedef int8_t narrow __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(__builtin_convertvector(*(const narrow *)p, integers), vector);
#endif
}

static float total_of(vector sum)
{
    float total = 0.0f;
    for (int k = 0; k < LANES; k++)
        total += sum[k];
    return total;
}

/* The best of the instruction sets that this file is compiled for: 2 AVX-512, 1 AVX2 with FMA, 0 what it comes with. */
EXPORT int best_isa(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

/* Reads `count` floats, a multiple of 128, `times` times; prefetched, for that is the fastest way to read. */
EXPORT float read_floats(const float *values, size_t count, size_t times)
{
    vector sums[UNROLLED] = {{0}};
    for (size_t t = 0; t < times; t++)
        for (size_t i = 0; i < count; i += UNROLLED * LANES)
            for (int k = 0; k < UNROLLED; k++) {
                __builtin_prefetch(values + i + k * LANES + 1024, 0, 0);
                sums[k] += *(const loaded *)(values + i + k * LANES);
            }
    for (int k = 1; k < UNROLLED; k++)
        sums[0] += sums[k];
    return total_of(sums[0]);
}

/* sums[i] += exp2(scale * (query + rows[row][i])), ROWS x WIDTH of them, `times` times. */
EXPORT float exps(float *sums, const float *rows, size_t times)
{
    const vector zero = {0};
    for (size_t t = 0; t < times; t++)
        for (int i = 0; i < WIDTH; i += LANES) {
            vector total = *(loaded *)(sums + i);
            for (int row = 0; row < ROWS; row++) {
                const vector x = (*(const loaded *)(rows + row * WIDTH + i) + 0.25f) * 0.5f;
                const vector n = x + 12582912.0f, f = x - (n - 12582912.0f);
                vector p = f * 0x1.5c08e6p-10f + (zero + 0x1.3d0c52p-7f);
                p = p * f + 0x1.c6b6e4p-5f;
                p = p * f + 0x1.ebf918p-3f;
                p = p * f + 0x1.62e428p-1f;
                p = p * f + 0x1.000002p+0f;
                total += (vector)((integers)p + ((integers)n << 23));
            }
            *(loaded *)(sums + i) = total;
        }
    return sums[0];
}

/* One factor times ROWS x WIDTH floats, added up, `times` times. SUMS at a time: as many as registers hold, and enough
 * that no sum waits for itself. */
EXPORT float products(const float *weights, size_t times)
{
    float total = 0.0f;
    for (int block = 0; block < WIDTH; block += SUMS * LANES) {
        vector sums[SUMS] = {{0}};
        for (size_t t = 0; t < times; t++)
            for (int row = 0; row < ROWS; row++) {
                const vector factor = (vector){0} + (float)(row + 1);
                for (int k = 0; k < SUMS; k++)
                    sums[k] += factor * *(const loaded *)(weights + row * WIDTH + block + k * LANES);
            }
        for (int k = 0; k < SUMS; k++)
            total += total_of(sums[k]);
    }
    return total;
}

/* The same with weights of 8 bits, which become floats first. */
EXPORT float int8_products(const int8_t *weights, size_t times)
{
    float total = 0.0f;
    for (int block = 0; block < WIDTH; block += SUMS * LANES) {
        vector sums[SUMS] = {{0}};
        for (size_t t = 0; t < times; t++)
            for (int row = 0; row < ROWS; row++) {
                const vector factor = (vector){0} + (float)(row + 1);
                for (int k = 0; k < SUMS; k++)
                    sums[k] += factor * widened(weights + row * WIDTH + block + k * LANES);
            }
        for (int k = 0; k < SUMS; k++)
            total += total_of(sums[k]);
    }
    return total;
}
