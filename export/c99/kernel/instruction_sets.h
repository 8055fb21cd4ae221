/* One kernel per instruction set: causalrn.c includes itself for each of them. Which one a session uses.
 *
 * Needs work.h and the kernel. Gives forward_portable, and on x86 forward_avx2 and forward_avx512. */

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
#include <cpuid.h>
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
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

#ifdef CAUSALRN_DISPATCH
/* Whether the processor converts float16: every one with AVX2 does, but not what every emulator shows of one. */
static CAUSALRN_UNUSED int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

static int best_isa(void)
{
#ifdef CAUSALRN_DISPATCH
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return CAUSALRN_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (CAUSALRN_POOL_BITS != 16 || has_f16c()))
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
