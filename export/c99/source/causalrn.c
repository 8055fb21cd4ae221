/* A CausalRN (arXiv 2406.16168) as a recurrent cell in strict C99: one token in, one row of logits out, state carried.
 *
 * Read it from top to bottom: numbers and rounding, loading, sessions, then the kernel. There is no malloc, no global
 * variable, and of the C library only sqrtf. What the model is stands in causalrn.h as macros.
 *
 * The kernel is written in rows of 16 lanes, whatever the processor has: sums run over 16 partial sums and one fixed tree,
 * so that vector widths do not show in the result. Plain C is the definition. On x86 with GCC or Clang this file
 * includes itself, once for AVX2 and once for AVX-512, and the processor decides at run time.
 *
 * Letters: V vocabulary, E embedding width, H hidden width, G heads, D = H / G, T tokens, B sequences. Widths are padded
 * to multiples of 16 with zeros: EP, HP, DP, VP.
 */
#ifndef CAUSALRN_KERNEL

#include "causalrn.h"

#include <float.h>
#include <stddef.h>
#ifdef __wasm__ /* no C library there, and square roots are an instruction */
#define sqrtf __builtin_sqrtf
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif
#else
#include <math.h>
#endif

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error "causalrn.c needs IEEE arithmetic: -ffast-math breaks the rounding inside exp and the compensated sums"
#endif
#if FLT_RADIX != 2 || FLT_MANT_DIG != 24 || (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0)
#error "causalrn.c needs IEEE float32 without excess precision (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF
#elif !defined(__STRICT_ANSI__) && !defined(CAUSALRN_CONTRACTION_IS_OFF)
#error "GCC fuses a * b + c as it likes: compile with -std=c99, or -ffp-contract=off -DCAUSALRN_CONTRACTION_IS_OFF"
#endif

#if defined(__GNUC__)
#define CAUSALRN_INLINE static inline __attribute__((always_inline, unused))
#define CAUSALRN_UNUSED __attribute__((unused))
#else
#define CAUSALRN_INLINE static inline
#define CAUSALRN_UNUSED
#endif
/* Hints: into the cache what is needed soon; and of weights, each needed once per step, what lies a page further on. */
#if defined(__GNUC__) && !defined(__wasm__)
#define CAUSALRN_FETCH(address) __builtin_prefetch(address, 0, 2)
#define CAUSALRN_FETCH_ONCE(address) __builtin_prefetch((const void *)((uintptr_t)(address) + 4096u), 0, 0)
#else
#define CAUSALRN_FETCH(address) ((void)0)
#define CAUSALRN_FETCH_ONCE(address) ((void)(address))
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define CAUSALRN_UNROLL _Pragma("GCC unroll 32")
#else
#define CAUSALRN_UNROLL
#endif

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

enum {
    LANES = 16,
    VOCABULARY = CAUSALRN_VOCABULARY,
    EMBEDDING = CAUSALRN_EMBEDDING,
    HIDDEN = CAUSALRN_HIDDEN,
    BLOCKS = CAUSALRN_BLOCKS,
    HEADS = CAUSALRN_HEADS,
    WIDTH = HIDDEN / HEADS,                                  /* D */
    EP = CAUSALRN_EP,
    DP = CAUSALRN_DP,
    HP = CAUSALRN_HP,
    VP = CAUSALRN_VP,
    WIDEST = EP > HP ? EP : HP,
    PANEL = 6,                                               /* columns of a packed matrix side by side, in 16 lanes */
    TILE = 16,                                               /* rows of the pool that are read together */
    SEGMENT = 512,                                           /* rows that are summed before they join the others */
    AHEAD = 2,                                               /* tiles that are fetched before they are needed */
    LINES = 8,                                               /* of weights, fetched with 16 exps of all rows of a tile */
    PER_BLOCK = CAUSALRN_TENSORS / BLOCKS,
    HAS_POOL = CAUSALRN_HAS_POOL
};

#define MEAN_SQUARE_FLOOR 1e-30f /* keeps the norm of a vector of zeros at zero; nothing else notices */
#define LARGEST_FLOOR 1e-28f     /* and the int8 row of one */

/* Sizes of the arrays in a weights file, in its order. Each starts at a multiple of 64 bytes. */
#if CAUSALRN_WEIGHTS == CAUSALRN_FLOAT32
typedef float causalrn_weight;
#else
typedef int8_t causalrn_weight;
#endif
#define FLOATS(count) CAUSALRN_BYTES(count, sizeof(float))
#define MATRIX(in, out)                                                                                   \
    (CAUSALRN_BYTES((size_t)(in) * (out), sizeof(causalrn_weight)) +                                        \
     FLOATS(out) * (1 + (CAUSALRN_WEIGHTS != CAUSALRN_FLOAT32) + (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC)))
#define PAYLOAD                                                                                          \
    (FLOATS((size_t)VOCABULARY * EP) + FLOATS((size_t)CAUSALRN_POSITIONS * EP) +                            \
     BLOCKS * (MATRIX(EP, 2 * HP) + MATRIX(HP, EP)) + MATRIX(EP, VP))

/* ---- weights: checked once, then pointed into, never copied ------------------------------------------------------ */

static uint32_t read_u32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* CRC-32 (IEEE 802.3) as in zlib, by eight lookups that do not wait for each other. */
static uint32_t crc32_of(const unsigned char *bytes, size_t size)
{
    static const uint32_t first[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    uint32_t table[8][16]; /* [k][n]: what four bits n have become k + 1 times four bits later */
    for (size_t k = 0; k < 8; k++)
        for (size_t n = 0; n < 16; n++)
            table[k][n] = k == 0 ? first[n] : first[table[k - 1][n] & 15u] ^ (table[k - 1][n] >> 4);
    uint32_t crc = 0xffffffffu;
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        const uint32_t four = crc ^ read_u32(bytes + i);
        crc = 0;
        for (size_t k = 0; k < 8; k++)
            crc ^= table[7 - k][four >> 4 * k & 15u];
    }
    for (; i < size; i++) {
        crc ^= bytes[i];
        crc = first[crc & 15u] ^ (crc >> 4);
        crc = first[crc & 15u] ^ (crc >> 4);
    }
    return ~crc;
}

static const void *take(const unsigned char **next, size_t bytes)
{
    const unsigned char *here = *next;
    *next += CAUSALRN_UP(bytes, 64u);
    return here;
}

static causalrn_matrix take_matrix(const unsigned char **next, int in, int out)
{
    causalrn_matrix matrix = {0};
    matrix.panels = take(next, (size_t)in * (size_t)out * sizeof(causalrn_weight));
    matrix.bias = take(next, (size_t)out * sizeof(float));
    if (CAUSALRN_WEIGHTS != CAUSALRN_FLOAT32)
        matrix.scale = take(next, (size_t)out * sizeof(float));
    if (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC)
        matrix.sums = take(next, (size_t)out * sizeof(int32_t));
    return matrix;
}

int causalrn_use(causalrn_weights *weights, const void *payload)
{
    const unsigned char *next = payload;
    const uint32_t one = 1;
    if (*(const unsigned char *)&one != 1)
        return CAUSALRN_WRONG_ENDIANNESS; /* the file is little-endian, and is used as it lies in memory */
    if ((uintptr_t)payload % sizeof(float) != 0)
        return CAUSALRN_MISALIGNED;
    weights->wte = take(&next, (size_t)VOCABULARY * EP * sizeof(float));
    weights->wpe = take(&next, (size_t)CAUSALRN_POSITIONS * EP * sizeof(float));
    for (int block = 0; block < BLOCKS; block++) {
        weights->w12[block] = take_matrix(&next, EP, 2 * HP);
        weights->w3[block] = take_matrix(&next, HP, EP);
    }
    weights->head = take_matrix(&next, EP, VP);
    return CAUSALRN_OK;
}

int causalrn_load(causalrn_weights *weights, const void *file, size_t size)
{
    const unsigned char *bytes = file;
    if (size < CAUSALRN_HEADER)
        return CAUSALRN_TRUNCATED;
    if (bytes[0] != 'C' || bytes[1] != 'R' || bytes[2] != 'N' || bytes[3] != 'W')
        return CAUSALRN_NOT_WEIGHTS;
    if (read_u32(bytes + 4) == 0x04030201u)
        return CAUSALRN_WRONG_ENDIANNESS;
    if (read_u32(bytes + 4) != 0x01020304u)
        return CAUSALRN_NOT_WEIGHTS;
    if (read_u32(bytes + 8) != CAUSALRN_VERSION)
        return CAUSALRN_WRONG_VERSION;
    if (crc32_of(bytes, CAUSALRN_HEADER - 4) != read_u32(bytes + CAUSALRN_HEADER - 4))
        return CAUSALRN_DAMAGED;
    if (read_u32(bytes + 12) != CAUSALRN_MODEL)
        return CAUSALRN_WRONG_MODEL;
    if (read_u32(bytes + 16) != PAYLOAD)
        return CAUSALRN_WRONG_MODEL;
    if (size - CAUSALRN_HEADER < PAYLOAD)
        return CAUSALRN_TRUNCATED;
    if (size - CAUSALRN_HEADER > PAYLOAD)
        return CAUSALRN_OVERSIZED;
    if (crc32_of(bytes + CAUSALRN_HEADER, PAYLOAD) != read_u32(bytes + 20))
        return CAUSALRN_DAMAGED;
    return causalrn_use(weights, bytes + CAUSALRN_HEADER);
}

const char *causalrn_message(int code)
{
    switch (code) {
    case CAUSALRN_OK: return "fine";
    case CAUSALRN_NOT_WEIGHTS: return "not a causalrn weights file";
    case CAUSALRN_WRONG_ENDIANNESS: return "the weights file and this machine have another byte order";
    case CAUSALRN_WRONG_VERSION: return "a weights file of another version: export again";
    case CAUSALRN_WRONG_MODEL: return "weights of another model than causalrn.h describes";
    case CAUSALRN_TRUNCATED: return "the weights file is truncated";
    case CAUSALRN_OVERSIZED: return "the weights file is longer than it says";
    case CAUSALRN_DAMAGED: return "the weights file is damaged: its checksum differs";
    case CAUSALRN_MISALIGNED: return "memory has to be aligned to 4 bytes, better 64";
    case CAUSALRN_TOO_SMALL: return "less memory than causalrn_session_size says";
    case CAUSALRN_WRONG_TOKEN: return "a token is outside the vocabulary";
    case CAUSALRN_FULL: return "no position is left";
    case CAUSALRN_NOT_FINITE: return "NaN or infinity: reset before going on";
    case CAUSALRN_WRONG_SIZE: return "a capacity, batch or number of tokens that cannot be";
    default: return "unknown error";
    }
}

/* ---- kernels: one per instruction set --------------------------------------------------------------------------- */

/* What a call of a kernel works on: at most CAUSALRN_ROWS rows, time-major. */
typedef struct {
    const causalrn_weights *weights;
    causalrn_session *session;
    const int32_t *tokens; /* [B][stride], of which `time` are taken */
    size_t stride;
    int32_t time;
    float *logits;         /* [B][stride][V] */
} call_t;

/* Places in a session's working memory, for `rows` rows. */
typedef struct {
    float *x, *normalized, *ab, *o, *logits;
    float *tiles;      /* [CAUSALRN_THREADS][TILE][HP]: int8 pool rows, widened */
    float *sums;       /* [rows or segments][HP]: what one segment adds up to */
    int8_t *quantized; /* [rows][WIDEST] */
    float *scales;     /* [rows] */
} work_t;

/* Lay out working memory of CAUSALRN_WORK_BYTES. */
static void lay_out_work(work_t *work, void *memory, int32_t batch, int32_t capacity)
{
    const size_t rows = CAUSALRN_ROWS_OF(batch);
    unsigned char *next = memory;
#define PLACE(name, type, count)                                                            \
    do {                                                                                    \
        work->name = (type *)(void *)next;                                                    \
        next += CAUSALRN_BYTES(count, sizeof(type));                                          \
    } while (0)
    PLACE(x, float, rows * EP);
    PLACE(normalized, float, rows * EP);
    PLACE(ab, float, rows * 2 * HP);
    PLACE(o, float, rows * HP);
    PLACE(logits, float, rows * VP);
    PLACE(tiles, float, CAUSALRN_POOL8 ? CAUSALRN_THREADS * TILE * HP : 0);
    PLACE(sums, float, CAUSALRN_SUMS(batch, capacity) * HP);
    PLACE(quantized, int8_t, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows * WIDEST : 0u);
    PLACE(scales, float, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows : 0u);
#undef PLACE
}

#define CAUSALRN_KERNEL portable
#if defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)) && \
    !defined(CAUSALRN_NO_VECTORS)
#define CAUSALRN_ISA 4 /* four vectors of 4 */
#else
#define CAUSALRN_ISA 0 /* plain C */
#endif
#include "causalrn.c"
#undef CAUSALRN_KERNEL
#undef CAUSALRN_ISA

#if defined(__GNUC__) && defined(__x86_64__) && !defined(CAUSALRN_NO_VECTORS)
#define CAUSALRN_DISPATCH 1
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define CAUSALRN_KERNEL avx2
#define CAUSALRN_ISA 8 /* two vectors of 8 */
#include "causalrn.c"
#undef CAUSALRN_KERNEL
#undef CAUSALRN_ISA
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
#endif
#define CAUSALRN_KERNEL avx512
#define CAUSALRN_ISA 16
#include "causalrn.c"
#undef CAUSALRN_KERNEL
#undef CAUSALRN_ISA
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

static int best_isa(void)
{
#ifdef CAUSALRN_DISPATCH
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return CAUSALRN_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return CAUSALRN_AVX2;
#endif
    return CAUSALRN_PORTABLE;
}

int causalrn_choose_isa(causalrn_session *session, int isa)
{
    const int best = best_isa();
    session->isa = isa == CAUSALRN_BEST || isa > best ? best : isa;
    return session->isa;
}

static size_t tensor_size(int index, int32_t batch, int32_t capacity)
{
    const size_t rows = CAUSALRN_STATE_ROWS(batch, capacity);
    if (!CAUSALRN_POOL8)
        return CAUSALRN_BYTES(rows * HP, sizeof(float));
    return index % PER_BLOCK == 0 ? CAUSALRN_BYTES(rows * HP, 1u) : CAUSALRN_BYTES(rows, sizeof(float));
}

static int sizes_are_possible(int32_t batch, int32_t capacity)
{
    return batch >= 1 && capacity >= 1 && (CAUSALRN_POSITIONS == 0 || capacity <= CAUSALRN_POSITIONS);
}

size_t causalrn_session_size(int32_t batch, int32_t capacity)
{
    return sizes_are_possible(batch, capacity) ? CAUSALRN_SESSION_BYTES(batch, capacity) : 0;
}

int causalrn_open(causalrn_session *session, const causalrn_weights *weights, void *memory, size_t size, int32_t batch,
                  int32_t capacity)
{
    unsigned char *next = memory;
    if (!sizes_are_possible(batch, capacity))
        return CAUSALRN_WRONG_SIZE;
    if ((uintptr_t)memory % sizeof(float) != 0)
        return CAUSALRN_MISALIGNED;
    if (size < causalrn_session_size(batch, capacity))
        return CAUSALRN_TOO_SMALL;
    *session = (causalrn_session){0};
    session->weights = weights;
    session->batch = batch;
    session->capacity = capacity;
    session->threads = 1;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        session->past[i] = session->next[i] = next;
        next += tensor_size(i, batch, capacity);
    }
    session->work = next;
    causalrn_choose_isa(session, CAUSALRN_BEST);
    causalrn_reset(session);
    return CAUSALRN_OK;
}

void causalrn_reset(causalrn_session *session)
{
    session->position = 0;
    if (!HAS_POOL) /* rows of a pool are written before they are read */
        for (int i = 0; i < CAUSALRN_TENSORS; i++) {
            float *values = session->past[i];
            for (size_t j = 0; j < (size_t)session->batch * HP; j++)
                values[j] = 0.0f;
        }
}

static int run_rows(const call_t *call)
{
#ifdef CAUSALRN_DISPATCH
    if (call->session->isa == CAUSALRN_AVX512)
        return forward_avx512(call);
    if (call->session->isa == CAUSALRN_AVX2)
        return forward_avx2(call);
#endif
    return forward_portable(call);
}

int causalrn_prefill(causalrn_session *session, const int32_t *tokens, int32_t time, float *logits)
{
    const int32_t batch = session->batch, at_once = batch >= CAUSALRN_ROWS ? 1 : CAUSALRN_ROWS / batch;
    const int32_t start = session->position;
    if (time < 1)
        return CAUSALRN_WRONG_SIZE;
    if ((HAS_POOL || CAUSALRN_POSITIONS != 0) && time > session->capacity - session->position)
        return CAUSALRN_FULL;
    for (int64_t i = 0; i < (int64_t)batch * time; i++)
        if (tokens[i] < 0 || tokens[i] >= VOCABULARY)
            return CAUSALRN_WRONG_TOKEN;
    for (int32_t taken = 0; taken < time; taken += at_once) {
        const int32_t count = time - taken < at_once ? time - taken : at_once;
        const call_t call = {session->weights, session, tokens + taken, (size_t)time,
                             count,            logits + (size_t)taken * VOCABULARY};
        const int code = run_rows(&call);
        if (code != CAUSALRN_OK) {
            session->position = start;
            return code;
        }
        session->position += count;
        if (session->past[0] != session->next[0] && !HAS_POOL) /* the next rows go on from what was written */
            for (int i = 0; i < CAUSALRN_TENSORS; i++)
                session->past[i] = session->next[i];
    }
    return CAUSALRN_OK;
}

int causalrn_step(causalrn_session *session, const int32_t *tokens, float *logits)
{
    return causalrn_prefill(session, tokens, 1, logits);
}

#else

/* ==== the kernel: everything below is compiled once per instruction set ========================================== */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, CAUSALRN_KERNEL)

/* ---- 16 lanes ---------------------------------------------------------------------------------------------------- */

#define lanes NAME(lanes)
#define counts NAME(counts)
#define set NAME(set)
#define load NAME(load)
#define store NAME(store)
#define add NAME(add)
#define sub NAME(sub)
#define mul NAME(mul)
#define divide NAME(divide)
#define root NAME(root)
#define larger NAME(larger)
#define madd NAME(madd)
#define sum NAME(sum)
#define sum4 NAME(sum4)
#define largest NAME(largest)
#define scale_by_power NAME(scale_by_power)
#define load_int8 NAME(load_int8)
#define no_counts NAME(no_counts)
#define dot4 NAME(dot4)
#define counted NAME(counted)

/* madd(a, b, c) = a * b + c: rounded once where the processor can, unless CAUSALRN_REPRODUCIBLE asks for two roundings,
 * which every machine can. sum() adds lane i to lane i + 8, then + 4, + 2, + 1. counts are 16 exact int32 sums. */

#if CAUSALRN_ISA == 16

typedef __m512 lanes;
typedef __m512i counts;
CAUSALRN_INLINE lanes set(float x) { return _mm512_set1_ps(x); }
CAUSALRN_INLINE lanes load(const float *p) { return _mm512_loadu_ps(p); }
CAUSALRN_INLINE void store(float *p, lanes x) { _mm512_storeu_ps(p, x); }
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

#elif CAUSALRN_ISA == 8

typedef struct {
    __m256 low, high;
} lanes;
typedef struct {
    __m256i a, b, c, d;
} counts;
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

#else /* in plain C, or with vectors of 4 where the compiler has them */

#if CAUSALRN_ISA == 4 && defined(__wasm_simd128__)
#define WASM 1
#else
#define WASM 0
#endif

#if CAUSALRN_ISA == 4

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
#if WASM
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
#else
CAUSALRN_INLINE lanes load_int8(const int8_t *p)
{
    float values[LANES];
    for (int i = 0; i < LANES; i++)
        values[i] = (float)p[i];
    return load(values);
}
#endif
#undef four
#undef bits

#else /* plain C: the definition */

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

#endif

CAUSALRN_INLINE void sum4(const lanes *x, float *out)
{
    for (int i = 0; i < 4; i++)
        out[i] = sum(x[i]);
}
#if !WASM
typedef struct {
    int32_t v[LANES];
} counts;
CAUSALRN_INLINE counts no_counts(void)
{
    const counts r = {{0}};
    return r;
}
CAUSALRN_INLINE counts dot4(const int8_t *w, int32_t in, counts c)
{
    const uint32_t u = (uint32_t)in; /* four int8, the first in the lowest byte */
    const int32_t x0 = (int8_t)(u & 255u), x1 = (int8_t)(u >> 8 & 255u), x2 = (int8_t)(u >> 16 & 255u),
                  x3 = (int8_t)(u >> 24);
    for (int i = 0; i < LANES; i++)
        c.v[i] += w[4 * i] * x0 + w[4 * i + 1] * x1 + w[4 * i + 2] * x2 + w[4 * i + 3] * x3;
    return c;
}
CAUSALRN_INLINE lanes counted(counts c, const int32_t *sums)
{
    float values[LANES];
    (void)sums;
    for (int i = 0; i < LANES; i++)
        values[i] = (float)c.v[i];
    return load(values);
}
#endif
#undef WASM

#endif

/* ---- exp and gelu -------------------------------------------------------------------------------------------------- */

#define exp2_near NAME(exp2_near)
#define exp2_any NAME(exp2_any)
#define natural_exp NAME(natural_exp)
#define gelu NAME(gelu)
#define activate NAME(activate)

#define LOG2E 1.44269504f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits */

/* 2^t for |t| < 126: t = n + f with |f| <= 1/2, a polynomial of degree 5 for 2^f (minimax, 7.5e-8), n into the
 * exponent. Relative error at most 2.4e-7, measured over every float in [-126, 126]. */
CAUSALRN_INLINE lanes exp2_near(lanes t)
{
    const lanes n = add(t, set(ROUNDER)), f = sub(t, sub(n, set(ROUNDER)));
    lanes p = madd(f, set(0x1.5c08e6p-10f), set(0x1.3d0c52p-7f));
    p = madd(p, f, set(0x1.c6b6e4p-5f));
    p = madd(p, f, set(0x1.ebf918p-3f));
    p = madd(p, f, set(0x1.62e428p-1f));
    p = madd(p, f, set(0x1.000002p+0f));
    return scale_by_power(p, n);
}

/* 2^t for any t: at least 2^-125, infinity from 2^128. */
CAUSALRN_INLINE lanes exp2_any(lanes t)
{
    const lanes down = larger(t, set(-125.0f)), up = larger(sub(set(0.0f), down), set(-128.25f));
    return mul(exp2_near(sub(set(-1.0f), up)), set(2.0f));
}

CAUSALRN_INLINE lanes natural_exp(lanes x) { return exp2_any(mul(x, set(LOG2E))); }

/* x Phi(x) = max(x, 0) - |x| Q(|x|), with Q(z) = exp(-z^2 / 2) R(1 / (1 + 0.35 z)) and a fitted polynomial for R. Error at
 * most 1.3e-7 max(1, |x|), measured over every float in [-30, 30]. */
CAUSALRN_INLINE lanes gelu(lanes x)
{
    const lanes z = larger(x, sub(set(0.0f), x)), t = divide(set(1.0f), madd(z, set(0.35f), set(1.0f)));
    lanes r = madd(t, set(0x1.9516p-6f), set(-0x1.56e7aap-4f));
    r = madd(r, t, set(-0x1.1b0096p-8f));
    r = madd(r, t, set(0x1.0b41acp-2f));
    r = madd(r, t, set(-0x1.fc614ap-6f));
    r = madd(r, t, set(0x1.a9d18p-3f));
    r = madd(r, t, set(0x1.fba706p-4f));
    r = madd(r, t, set(0x1.867698p-10f));
    r = mul(r, exp2_any(mul(mul(z, z), set(-0.5f * LOG2E))));
    return sub(larger(x, set(0.0f)), mul(z, r));
}

#if CAUSALRN_READOUT == CAUSALRN_EXACT && CAUSALRN_HIDDEN / CAUSALRN_HEADS < 7600
#define exp2_pair exp2_near /* |LN0| < sqrt(D) bounds the exponent */
#else
#define exp2_pair exp2_any
#endif

/* f's outer function. For exp, x comes times log2(e) already. */
CAUSALRN_INLINE lanes activate(lanes x)
{
#if CAUSALRN_ACTIVATION == CAUSALRN_EXP
    return exp2_pair(x);
#elif CAUSALRN_ACTIVATION == CAUSALRN_RELU
    return larger(x, set(0.0f));
#elif CAUSALRN_ACTIVATION == CAUSALRN_GELU
    return gelu(x);
#else /* elu */
    const lanes zero = set(0.0f), negative = sub(zero, larger(sub(zero, x), zero));
    return add(larger(x, zero), sub(natural_exp(negative), set(1.0f)));
#endif
}
#define PAIR_SCALE (CAUSALRN_ACTIVATION == CAUSALRN_EXP ? LOG2E : 1.0f)

/* ---- rows of values ------------------------------------------------------------------------------------------------ */

#define normalize NAME(normalize)
#define zero_padding NAME(zero_padding)
#define largest_of NAME(largest_of)

/* out = in / rms(in), over `width` values of which only the padding is zero. 0 where the mean square overflows. */
CAUSALRN_INLINE int normalize(const float *in, float *out, int padded, int width)
{
    lanes squares = set(0.0f);
    for (int i = 0; i < padded; i += LANES)
        squares = madd(load(in + i), load(in + i), squares);
    const float mean_square = sum(squares) / (float)width;
    const lanes scale = set(1.0f / sqrtf(mean_square + MEAN_SQUARE_FLOOR));
    for (int i = 0; i < padded; i += LANES)
        store(out + i, mul(load(in + i), scale));
    return mean_square <= FLT_MAX;
}

/* Zeros into the padding of every head. */
CAUSALRN_INLINE void zero_padding(float *values)
{
    if (WIDTH != DP)
        for (int head = 0; head < HEADS; head++)
            for (int i = WIDTH; i < DP; i++)
                values[head * DP + i] = 0.0f;
}

/* The largest of the first `width` values; the padding is overwritten. */
CAUSALRN_INLINE float largest_of(float *values, int padded, int width)
{
    for (int i = width; i < padded; i++)
        values[i] = values[0];
    lanes most = load(values);
    for (int i = LANES; i < padded; i += LANES)
        most = larger(most, load(values + i));
    return largest(most);
}

/* ---- matrix products ----------------------------------------------------------------------------------------------- *
 *
 * A matrix [out, in] lies in panels of 6 x 16 outputs, each [in][6][16] (int8 x int8: [in / 4][6][16][4]): weights are
 * read once from front to back, and every output is one sum over `in`, in order. */

#define group NAME(group)
#define panel NAME(panel)
#define product NAME(product)

#if CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC
enum { NAME(together) = CAUSALRN_ISA == 16 ? 6 : CAUSALRN_ISA == 8 ? 2 : 1, NAME(rows) = CAUSALRN_ISA == 16 ? 4 : 1 };
#else
enum {
    NAME(together) = CAUSALRN_ISA >= 8 ? 6 : CAUSALRN_ISA == 4 ? 2 : 1,
    NAME(rows) = CAUSALRN_ISA == 16 ? 4 : CAUSALRN_ISA == 8 ? 2 : 1
};
#endif

/* Where a product's input comes from and its output goes to. */
#define job NAME(job)
typedef struct {
    const void *in;
    const float *in_scales;
    float *out;
    size_t in_stride, out_stride; /* in values */
    int depth, accumulate; /* number of inputs; whether to add to what is in `out` */
} job;

/* `n` columns of 16 outputs, beginning at `column` of a panel of `width` columns, for `r` rows. All but the pointers are
 * constants once this is inlined. */
CAUSALRN_INLINE void group(const causalrn_matrix *m, const causalrn_weight *weights, const job *j, size_t row, size_t output,
                           int column, int width, const int n, const int r)
{
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC
    const int8_t *in = (const int8_t *)j->in + row * j->in_stride;
    counts sums[4][PANEL];
    CAUSALRN_UNROLL
    for (int i = 0; i < r; i++)
        CAUSALRN_UNROLL
        for (int c = 0; c < n; c++)
            sums[i][c] = no_counts();
    for (int k = 0; k < j->depth; k += 4) {
        const int8_t *w = weights + ((size_t)k / 4 * (size_t)width + (size_t)column) * LANES * 4;
        if (r == 1)
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c++)
                CAUSALRN_FETCH_ONCE(w + c * LANES * 4);
        CAUSALRN_UNROLL
        for (int i = 0; i < r; i++) {
            const int8_t *x = in + (size_t)i * j->in_stride + k;
            const int32_t four_in = (int32_t)((uint32_t)(uint8_t)x[0] | (uint32_t)(uint8_t)x[1] << 8 |
                                              (uint32_t)(uint8_t)x[2] << 16 | (uint32_t)(uint8_t)x[3] << 24);
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c++)
                sums[i][c] = dot4(w + c * LANES * 4, four_in, sums[i][c]);
        }
    }
#else
    const float *in = (const float *)j->in + row * j->in_stride;
    lanes sums[4][PANEL];
    CAUSALRN_UNROLL
    for (int i = 0; i < r; i++)
        CAUSALRN_UNROLL
        for (int c = 0; c < n; c++)
            sums[i][c] = set(0.0f);
    for (int k = 0; k < j->depth; k++) {
        const causalrn_weight *w = weights + ((size_t)k * (size_t)width + (size_t)column) * LANES;
        lanes columns[PANEL];
        CAUSALRN_UNROLL
        for (int c = 0; c < n; c++)
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8
            columns[c] = load_int8(w + c * LANES);
#else
            columns[c] = load(w + c * LANES);
#endif
        if (r == 1)
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c += (int)(sizeof(float) / sizeof *w))
                CAUSALRN_FETCH_ONCE(w + c * LANES);
        CAUSALRN_UNROLL
        for (int i = 0; i < r; i++) {
            const lanes x = set(in[(size_t)i * j->in_stride + (size_t)k]);
            CAUSALRN_UNROLL
            for (int c = 0; c < n; c++)
                sums[i][c] = madd(x, columns[c], sums[i][c]);
        }
    }
#endif
    CAUSALRN_UNROLL
    for (int i = 0; i < r; i++)
        CAUSALRN_UNROLL
        for (int c = 0; c < n; c++) {
            const size_t place = output + (size_t)(column + c) * LANES;
            float *out = j->out + (row + (size_t)i) * j->out_stride + place;
            const lanes bias = load(m->bias + place);
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC
            const lanes scale = mul(load(m->scale + place), set(j->in_scales[row + (size_t)i]));
            lanes value = madd(counted(sums[i][c], m->sums + place), scale, bias);
#elif CAUSALRN_WEIGHTS == CAUSALRN_INT8
            lanes value = madd(sums[i][c], load(m->scale + place), bias);
#else
            lanes value = add(sums[i][c], bias);
#endif
            if (j->accumulate)
                value = add(load(out), value);
            store(out, value);
        }
}

/* All columns of a panel, `most` at a time, for `r` rows. */
CAUSALRN_INLINE void panel(const causalrn_matrix *m, const causalrn_weight *w, const job *j, size_t row, size_t output,
                           int width, const int most, const int r)
{
    int column = 0;
    for (; column + most <= width; column += most)
        group(m, w, j, row, output, column, width, most, r);
#define REMAINDER(n)                                            \
    if ((n) < most) /* a constant: what cannot be is not compiled */ \
    group(m, w, j, row, output, column, width, n, r)
    switch (width - column) {
    case 5: REMAINDER(5); break;
    case 4: REMAINDER(4); break;
    case 3: REMAINDER(3); break;
    case 2: REMAINDER(2); break;
    case 1: REMAINDER(1); break;
    default: break;
    }
#undef REMAINDER
}

static CAUSALRN_UNUSED void product(const causalrn_matrix *m, const job *j, size_t rows, int outputs)
{
    const causalrn_weight *w = m->panels;
    for (int output = 0; output < outputs; output += PANEL * LANES) {
        const int columns = (outputs - output) / LANES, width = columns < PANEL ? columns : PANEL;
        const int several = NAME(rows) == 2 ? 3 : NAME(together);
        size_t row = 0;
        if (NAME(rows) > 1)
            for (; row + NAME(rows) <= rows; row += NAME(rows))
                panel(m, w, j, row, (size_t)output, width, several, NAME(rows));
        for (; row < rows; row++)
            panel(m, w, j, row, (size_t)output, width, NAME(together), 1);
        w += (size_t)width * LANES * (size_t)j->depth;
    }
}

#define multiply NAME(multiply)
#define quantize NAME(quantize)

/* Round a row to int8, symmetric, and give the scale that it has to be multiplied by. */
CAUSALRN_INLINE float quantize(const float *in, int8_t *out, int padded)
{
    lanes most = set(LARGEST_FLOOR);
    for (int i = 0; i < padded; i += LANES)
        most = larger(most, larger(load(in + i), sub(set(0.0f), load(in + i))));
    const float scale = largest(most) / 127.0f;
    for (int i = 0; i < padded; i += LANES) {
        float rounded[LANES];
        store(rounded, sub(add(divide(load(in + i), set(scale)), set(ROUNDER)), set(ROUNDER)));
        for (int k = 0; k < LANES; k++)
            out[i + k] = (int8_t)(int32_t)rounded[k];
    }
    return scale;
}

/* out[rows][outputs] = m in + bias, or added to what is there. */
static void multiply(const causalrn_matrix *m, const float *in, int depth, float *out, int outputs, size_t rows,
                     int accumulate, const work_t *work)
{
    job j = {in, NULL, out, (size_t)depth, (size_t)outputs, depth, accumulate};
    if (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC) {
        for (size_t row = 0; row < rows; row++)
            work->scales[row] = quantize(in + row * (size_t)depth, work->quantized + row * (size_t)depth, depth);
        j.in = work->quantized;
        j.in_scales = work->scales;
    }
    product(m, &j, rows, outputs);
}

/* ---- readouts with a pool ------------------------------------------------------------------------------------------ */

#if CAUSALRN_HAS_POOL

#define reading_t NAME(reading_t)
#define scale_pairs NAME(scale_pairs)
#define add_pairs NAME(add_pairs)
#define to_fetch NAME(to_fetch)
#define append_row NAME(append_row)
#define tile_rows NAME(tile_rows)
#define read_segment NAME(read_segment)
#define read_pool NAME(read_pool)
#define part_t NAME(part_t)
#define add_rows NAME(add_rows)
#define read_part NAME(read_part)

/* One query and the rows of a tile that it reads, in every head. */
typedef struct {
    const float *a, *rows; /* [HP]; [count][stride] */
    size_t stride;
    int count;             /* <= TILE */
    float *o;              /* [HP], to be added to */
    size_t ahead;          /* the rows so many values further on are fetched meanwhile; 0: none */
    const char *fetch;     /* what comes after the pool, to be fetched meanwhile; or NULL */
    float scales[HEADS * TILE];
} reading_t;

/* scales[head][j] of f(a, b_j) = act(scale_j (a + b_j)): 1 / rms(a + b_j) for exact, times log2(e) for exp. */
CAUSALRN_INLINE void scale_pairs(reading_t *r)
{
#if CAUSALRN_READOUT == CAUSALRN_EXACT
    for (int head = 0; head < HEADS; head++) {
        const float *a = r->a + head * DP, *b = r->rows + head * DP;
        float *const scales = r->scales + head * TILE;
        int row = 0;
        for (; row + 4 <= r->count; row += 4) {
            lanes squares[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
            for (int i = 0; i < DP; i += LANES) {
                CAUSALRN_UNROLL
                for (int k = 0; k < 4; k++) {
                    const lanes pair = add(load(b + (size_t)(row + k) * r->stride + i), load(a + i));
                    squares[k] = madd(pair, pair, squares[k]);
                }
            }
            sum4(squares, scales + row);
        }
        for (; row < TILE; row++) {
            lanes squares = set(0.0f);
            for (int i = 0; i < DP && row < r->count; i += LANES) {
                const lanes pair = add(load(b + (size_t)row * r->stride + i), load(a + i));
                squares = madd(pair, pair, squares);
            }
            scales[row] = sum(squares);
        }
        const lanes mean_square = divide(load(scales), set((float)WIDTH));
        store(scales, divide(set(PAIR_SCALE), root(add(mean_square, set(MEAN_SQUARE_FLOOR)))));
    }
#else
    for (int i = 0; i < HEADS * TILE; i++)
        r->scales[i] = PAIR_SCALE;
#endif
}

/* o += sum_j f(a, b_j). */
CAUSALRN_INLINE void add_pairs(const reading_t *r)
{
    const char *fetch = r->fetch;
    for (int i = 0; i < HP; i += LANES) {
        const float *const scales = r->scales + i / DP * TILE, *b = r->rows + i;
        const lanes query = load(r->a + i);
        lanes total = load(r->o + i);
        if (fetch != NULL) {
            for (int k = 0; k < LINES; k++)
                CAUSALRN_FETCH(fetch + k * 64);
            fetch += LINES * 64;
        }
        for (int k = 0; k < r->count; k++, b += r->stride) {
            if (r->ahead > 0)
                CAUSALRN_FETCH(b + r->ahead);
            total = add(total, activate(mul(add(query, load(b)), set(scales[k]))));
        }
        store(r->o + i, total);
    }
}

/* Write one row b into the pool of a block. */
CAUSALRN_INLINE void append_row(const causalrn_session *s, int block, size_t place, const float *b)
{
#if CAUSALRN_POOL8
    float *scales = s->next[block * PER_BLOCK + 1];
    scales[place] = quantize(b, (int8_t *)s->next[block * PER_BLOCK] + place * HP, HP);
#else
    float *row = (float *)s->next[block] + place * HP;
    for (int i = 0; i < HP; i += LANES)
        store(row + i, load(b + i));
#endif
}

/* Rows first .. first + count - 1 of sequence b as float32, and their stride. */
CAUSALRN_INLINE const float *tile_rows(const causalrn_session *s, float *tile, int block, size_t first, int count, size_t b,
                                       size_t *stride)
{
    const size_t batch = (size_t)s->batch;
#if CAUSALRN_POOL8
    const int8_t *pool = s->next[block * PER_BLOCK];
    const float *scales = s->next[block * PER_BLOCK + 1];
    for (int k = 0; k < count; k++) {
        const size_t place = (first + (size_t)k) * batch + b;
        for (int i = 0; i < HP; i += LANES)
            store(tile + k * HP + i, mul(load_int8(pool + place * HP + i), set(scales[place])));
    }
    *stride = HP;
    return tile;
#else
    (void)tile, (void)count;
    *stride = batch * HP;
    return (const float *)s->next[block] + (first * batch + b) * HP;
#endif
}

/* Some of the work of a call on one block's pool. */
typedef struct {
    const call_t *call;
    const work_t *work;
    size_t b;
    int32_t block, parts;
} part_t;

/* Weights that are needed after this pool and should be fetched during its tile of this number; or NULL. */
CAUSALRN_INLINE const char *to_fetch(const part_t *p, size_t tile)
{
    const causalrn_weights *weights = p->call->weights;
    const int next = p->block + 1;
    const char *from = weights->w3[p->block].panels;
    const char *end = (const char *)(next < BLOCKS ? weights->w12[next].bias : weights->head.bias);
    const size_t bytes = LINES * 64 * HP / LANES; /* with every tile */
    return (tile + 1) * bytes <= (size_t)(end - from) ? from + tile * bytes : NULL;
}

/* What queries q0 .. q1 - 1 of sequence b read of rows begin .. begin + SEGMENT - 1, into sums[query][HP]. */
CAUSALRN_INLINE void read_segment(const part_t *p, float *tile, size_t begin, size_t q0, size_t q1, float *sums)
{
    const causalrn_session *s = p->call->session;
    const work_t *work = p->work;
    const size_t batch = (size_t)s->batch, position = (size_t)s->position;
    const size_t end = begin + SEGMENT < position + q1 ? begin + SEGMENT : position + q1;
    const int alone = q1 - q0 == 1;
    for (size_t q = q0; q < q1; q++)
        for (int i = 0; i < HP; i += LANES)
            store(sums + (q - q0) * HP + i, set(0.0f));
    for (size_t first = begin; first < end; first += TILE) {
        const int there = end - first < TILE ? (int)(end - first) : TILE;
        size_t stride;
        const float *rows = tile_rows(s, tile, p->block, first, there, p->b, &stride);
        for (size_t q = first > position + q0 ? first - position : q0; q < q1; q++) {
            const size_t seen = position + q + 1 - first; /* a query reads itself and what came before it */
            reading_t r = {work->ab + (q * batch + p->b) * 2 * HP, rows, stride, 0, sums + (q - q0) * HP, 0, NULL, {0}};
            r.count = seen < (size_t)there ? (int)seen : there;
            if (alone) { /* with several queries, rows are there already for all but the first */
                r.ahead = !CAUSALRN_POOL8 && first + (AHEAD + 1) * TILE <= end ? AHEAD * TILE * stride : 0u;
                r.fetch = to_fetch(p, first / TILE);
            }
            scale_pairs(&r);
            add_pairs(&r);
        }
    }
}

CAUSALRN_INLINE void add_rows(float *o, const float *sums, int is_first)
{
    for (int i = 0; i < HP; i += LANES)
        store(o + i, is_first ? load(sums + i) : add(load(o + i), load(sums + i)));
}

/* One part of the work: of a step, every parts-th segment; of a prefill, some of the queries. */
static void read_part(void *argument, int32_t part)
{
    const part_t *p = argument;
    const size_t batch = (size_t)p->call->session->batch, time = (size_t)p->call->time;
    const size_t number = (size_t)part, parts = (size_t)p->parts;
    const size_t end = (size_t)p->call->session->position + time;
    float *const tile = p->work->tiles + (CAUSALRN_POOL8 ? number * TILE * HP : 0u);
    if (time == 1) {
        for (size_t segment = number; segment * SEGMENT < end; segment += parts)
            read_segment(p, tile, segment * SEGMENT, 0, 1, p->work->sums + segment * HP);
        return;
    }
    const size_t q0 = time * number / parts, q1 = time * (number + 1) / parts;
    for (size_t begin = 0; begin < end - time + q1; begin += SEGMENT) {
        read_segment(p, tile, begin, q0, q1, p->work->sums + q0 * HP);
        for (size_t q = q0; q < q1; q++)
            if (begin <= end - time + q)
                add_rows(p->work->o + (q * batch + p->b) * HP, p->work->sums + q * HP, begin == 0);
    }
}

/* o[rows][HP] of a block: sums over segments, added in order, so that threads change nothing. */
static void read_pool(const call_t *call, const work_t *work, int block)
{
    const causalrn_session *s = call->session;
    const size_t end = (size_t)s->position + (size_t)call->time;
    const int32_t most = call->time > 1 ? call->time : (int32_t)((end + SEGMENT - 1) / SEGMENT);
    const int32_t threads = s->parallel != NULL && end > SEGMENT ? s->threads : 1, parts = most < threads ? most : threads;
    part_t part = {call, work, 0, block, parts};
    for (; part.b < (size_t)s->batch; part.b++) {
        if (parts > 1)
            s->parallel(s->pool, parts, read_part, &part);
        else
            read_part(&part, 0);
        if (call->time == 1)
            for (size_t segment = 0; segment * SEGMENT < end; segment++)
                add_rows(work->o + part.b * HP, work->sums + segment * HP, segment == 0);
    }
}

#endif

/* ---- readouts with a state of constant size ------------------------------------------------------------------------ */

#define read_sums NAME(read_sums)

#if !CAUSALRN_HAS_POOL

/* One query of one sequence: a and b [HP] -> o [HP]; the state goes from `past` to `next`. */
CAUSALRN_INLINE void read_sums(const causalrn_session *s, int block, size_t b, size_t query, float *ab, float *o)
{
    float *const values = ab + HP;
    float *const *const next = (float *const *)(const void *)s->next + block * PER_BLOCK;
    float *const *const past = query > 0 ? next : (float *const *)(const void *)s->past + block * PER_BLOCK;
    const size_t at = b * HP;
#if CAUSALRN_READOUT == CAUSALRN_LINEAR
    (void)normalize(ab, ab, HP, HIDDEN);
    (void)normalize(values, values, HP, HIDDEN);
    const lanes most = set(CAUSALRN_GUARDED ? largest_of(ab, HP, HIDDEN) : 0.0f); /* cancels in the norm after */
    for (int i = 0; i < HP; i += LANES) {
        const lanes value = natural_exp(load(values + i));
#if CAUSALRN_COMPENSATED /* Kahan 1965: a stream without end adds up so much that rounding shows */
        const lanes added = sub(value, load(past[0] + at + i)), before = load(past[1] + at + i);
        const lanes total = add(before, added);
        store(next[0] + at + i, sub(sub(total, before), added));
        store(next[1] + at + i, total);
#else
        const lanes total = add(load(past[0] + at + i), value);
        store(next[0] + at + i, total);
#endif
        store(o + i, mul(natural_exp(sub(load(ab + i), most)), total));
    }
#else /* plain: sum_j exp(b_j) as a running maximum and a sum scaled by it */
    const int fresh = s->position == 0 && query == 0; /* then the past maximum is ignored, not compared */
    for (int i = 0; i < HP; i += LANES) {
        const lanes value = load(values + i), before = fresh ? value : load(past[0] + at + i);
        const lanes maximum = larger(before, value);
        const lanes kept = mul(load(past[1] + at + i), natural_exp(sub(before, maximum)));
        store(next[0] + at + i, maximum);
        store(next[1] + at + i, add(kept, natural_exp(sub(value, maximum))));
        store(ab + i, add(load(ab + i), maximum));
    }
    const lanes most = set(CAUSALRN_POST_NORM ? largest_of(ab, HP, HIDDEN) : 0.0f); /* cancels in the norm after */
    for (int i = 0; i < HP; i += LANES)
        store(o + i, mul(natural_exp(sub(load(ab + i), most)), load(next[1] + at + i)));
#endif
}

#endif

/* ---- one call ------------------------------------------------------------------------------------------------------ */

#define finish NAME(finish)
#define run_block NAME(run_block)
#define start_rows NAME(start_rows)
#define forward NAME(forward)

/* From the sum over positions to what W3 reads, in place; o [HP] of the query at `position`. */
CAUSALRN_INLINE int finish(float *o, int32_t position)
{
    zero_padding(o);
    if (!CAUSALRN_POST_NORM && !CAUSALRN_HEAD_SCALE) {
        const lanes count = set((float)(position + 1));
        for (int i = 0; i < HP; i += LANES)
            store(o + i, divide(load(o + i), count));
    }
    if (CAUSALRN_HEAD_SCALE && (HEADS > 1 || !CAUSALRN_POST_NORM)) {
        for (int head = 0; head < HEADS; head++) {
            const lanes most = set(largest_of(o + head * DP, DP, WIDTH));
            for (int i = head * DP; i < (head + 1) * DP; i += LANES)
                store(o + i, divide(load(o + i), most));
        }
        zero_padding(o);
    } else if (CAUSALRN_GUARDED) {
        const lanes most = set(largest_of(o, HP, HIDDEN));
        for (int i = 0; i < HP; i += LANES)
            store(o + i, divide(load(o + i), most));
        zero_padding(o);
    }
    if (!CAUSALRN_POST_NORM)
        return 1;
    if (CAUSALRN_CENTRED) {
        lanes total = set(0.0f);
        for (int i = 0; i < HP; i += LANES)
            total = add(total, load(o + i));
        const lanes mean = set(sum(total) / (float)HIDDEN);
        for (int i = 0; i < HP; i += LANES)
            store(o + i, sub(load(o + i), mean));
        zero_padding(o);
    }
    return normalize(o, o, HP, HIDDEN);
}

/* One block for all rows: x [rows][EP] -> x + W3 o + b3. 0 where a mean square overflows. */
static int run_block(const call_t *call, const work_t *work, int block)
{
    const causalrn_session *s = call->session;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
    int finite = 1;
    for (size_t row = 0; row < rows; row++)
        finite &= normalize(work->x + row * EP, work->normalized + row * EP, EP, EMBEDDING);
    multiply(&call->weights->w12[block], work->normalized, EP, work->ab, 2 * HP, rows, 0, work);
#if CAUSALRN_HAS_POOL
    for (size_t row = 0; row < rows; row++) {
        float *ab = work->ab + row * 2 * HP;
        if (CAUSALRN_READOUT == CAUSALRN_LINEAR)
            finite &= normalize(ab, ab, HP, HIDDEN) & normalize(ab + HP, ab + HP, HP, HIDDEN);
        append_row(s, block, (size_t)s->position * batch + row, ab + HP);
    }
    read_pool(call, work, block);
#else
    for (size_t row = 0; row < rows; row++)
        read_sums(s, block, row % batch, row / batch, work->ab + row * 2 * HP, work->o + row * HP);
#endif
    for (size_t row = 0; row < rows; row++)
        finite &= finish(work->o + row * HP, s->position + (int32_t)(row / batch));
    multiply(&call->weights->w3[block], work->o, HP, work->x, EP, rows, 1, work);
    return finite;
}

/* Embeddings of the tokens and their positions, time-major. */
CAUSALRN_INLINE void start_rows(const call_t *call, const work_t *work)
{
    const size_t batch = (size_t)call->session->batch, rows = (size_t)call->time * batch;
    for (size_t row = 0; row < rows; row++) {
        const size_t time = row / batch, token = (size_t)call->tokens[row % batch * call->stride + time];
        const float *place = call->weights->wpe + ((size_t)call->session->position + time) * EP;
        for (int i = 0; i < EP; i += LANES) {
            const lanes value = load(call->weights->wte + token * EP + i);
            store(work->x + row * EP + i, CAUSALRN_POSITIONS ? add(value, load(place + i)) : value);
        }
    }
}

static int forward(const call_t *call)
{
    causalrn_session *s = call->session;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
    work_t work;
    int finite = 1;
    lay_out_work(&work, s->work, s->batch, s->capacity);
    start_rows(call, &work);
    for (int block = 0; block <= BLOCKS; block++) {
        if (s->streams != NULL)
            for (size_t i = 0; i < rows * EP; i++)
                s->streams[(size_t)block * rows * EP + i] = work.x[i];
        if (block < BLOCKS)
            finite &= run_block(call, &work, block);
    }
    for (size_t row = 0; row < rows; row++)
        finite &= normalize(work.x + row * EP, work.normalized + row * EP, EP, EMBEDDING);
    multiply(&call->weights->head, work.normalized, EP, work.logits, VP, rows, 0, &work);
    for (size_t row = 0; row < rows; row++) {
        float *logits = call->logits + (row % batch * call->stride + row / batch) * VOCABULARY;
        for (int i = 0; i < VOCABULARY; i++) {
            logits[i] = work.logits[row * VP + (size_t)i];
            finite &= logits[i] - logits[i] == 0.0f;
        }
    }
    return finite ? CAUSALRN_OK : CAUSALRN_NOT_FINITE;
}

#undef JOIN_
#undef JOIN
#undef NAME
#undef lanes
#undef counts
#undef set
#undef load
#undef store
#undef add
#undef sub
#undef mul
#undef divide
#undef root
#undef larger
#undef madd
#undef sum
#undef sum4
#undef largest
#undef scale_by_power
#undef load_int8
#undef no_counts
#undef dot4
#undef counted
#undef exp2_near
#undef exp2_any
#undef natural_exp
#undef gelu
#undef activate
#undef normalize
#undef zero_padding
#undef largest_of
#undef group
#undef panel
#undef product
#undef job
#undef multiply
#undef quantize
#undef reading_t
#undef scale_pairs
#undef add_pairs
#undef to_fetch
#undef append_row
#undef tile_rows
#undef read_segment
#undef read_pool
#undef part_t
#undef add_rows
#undef read_part
#undef read_sums
#undef finish
#undef run_block
#undef start_rows
#undef forward
#undef LOG2E
#undef ROUNDER
#undef PAIR_SCALE
#undef exp2_pair
#endif
