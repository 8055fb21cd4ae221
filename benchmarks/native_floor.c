/* The physical floor of a step, measured where it is reported: reading weights once, and one exp per element of the pool
 * from the first-level cache. Compiled twice by native_latency.py, with -mavx512f -DWIDTH=16 and -mavx2 -mfma -DWIDTH=8. */
#include <immintrin.h>
#include <stddef.h>

#if WIDTH == 16
typedef __m512 vector;
#define SET _mm512_set1_ps
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define ADD _mm512_add_ps
#define SUB _mm512_sub_ps
#define MUL _mm512_mul_ps
#define FMA _mm512_fmadd_ps
#define SHIFT(x) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23))
#define ADD_BITS(x, y) _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_castps_si512(y)))
#else
typedef __m256 vector;
#define SET _mm256_set1_ps
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define ADD _mm256_add_ps
#define SUB _mm256_sub_ps
#define MUL _mm256_mul_ps
#define FMA _mm256_fmadd_ps
#define SHIFT(x) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23))
#define ADD_BITS(x, y) _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)))
#endif

/* Sum of `count` floats, a multiple of 128; prefetched, for that is the fastest way to read. */
float read_once(const float *values, size_t count)
{
    vector sums[8];
    float lanes[WIDTH], total = 0.0f;
    for (int k = 0; k < 8; k++)
        sums[k] = SET(0.0f);
    for (size_t i = 0; i < count; i += 8 * WIDTH)
        for (int k = 0; k < 8; k++) {
            __builtin_prefetch(values + i + k * WIDTH + 1024, 0, 0);
            sums[k] = ADD(sums[k], LOAD(values + i + k * WIDTH));
        }
    for (int k = 1; k < 8; k++)
        sums[0] = ADD(sums[0], sums[k]);
    STORE(lanes, sums[0]);
    for (int k = 0; k < WIDTH; k++)
        total += lanes[k];
    return total;
}

/* sums[i] += exp2(scale * (query + row[i])) over 16 rows of 192, `times` times: everything stays in the first cache. */
void exps(float *sums, const float *rows, size_t times)
{
    for (size_t t = 0; t < times; t++)
        for (int i = 0; i < 192; i += WIDTH) {
            vector total = LOAD(sums + i);
            for (int row = 0; row < 16; row++) {
                const vector x = MUL(ADD(SET(0.25f), LOAD(rows + row * 192 + i)), SET(0.5f));
                const vector n = ADD(x, SET(12582912.0f)), f = SUB(x, SUB(n, SET(12582912.0f)));
                vector p = FMA(f, SET(0x1.5c08e6p-10f), SET(0x1.3d0c52p-7f));
                p = FMA(p, f, SET(0x1.c6b6e4p-5f));
                p = FMA(p, f, SET(0x1.ebf918p-3f));
                p = FMA(p, f, SET(0x1.62e428p-1f));
                p = FMA(p, f, SET(0x1.000002p+0f));
                total = ADD(total, ADD_BITS(p, SHIFT(n)));
            }
            STORE(sums + i, total);
        }
}
