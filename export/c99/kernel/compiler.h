/* What the compiler has to keep to, IEEE arithmetic, and what it may be told: inlining, prefetching, unrolling.
 *
 * Needs causalrn.h. Checks and macros only. */

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
#if defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Whose instructions multiply int8 x int8, where no kernel of its own is compiled for them (instruction_sets.h). */
#define CAUSALRN_C 0
#define CAUSALRN_NEON 1   /* aarch64; with the dot product, where the compiler may use it */
#define CAUSALRN_HELIUM 2 /* Cortex-M55 and M85 */
#define CAUSALRN_DSP 3    /* Cortex-M4, M7 and M33 */
#define CAUSALRN_RVV 4    /* RISC-V with vectors of 128 bits or more */
#if CAUSALRN_WEIGHTS != CAUSALRN_INT8_DYNAMIC || !defined(__GNUC__) || defined(CAUSALRN_NO_VECTORS) || \
    defined(CAUSALRN_PLAIN_INT8)
#define CAUSALRN_INT8_BY CAUSALRN_C
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define CAUSALRN_INT8_BY CAUSALRN_NEON
#elif defined(__ARM_FEATURE_MVE)
#define CAUSALRN_INT8_BY CAUSALRN_HELIUM
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_NEON)
#define CAUSALRN_INT8_BY CAUSALRN_DSP
#include <arm_acle.h>
#elif defined(__riscv_vector) && __riscv_v_min_vlen >= 128 && \
    ((defined(__clang__) && __clang_major__ <= 15) || (defined(__riscv_v_intrinsic) && __riscv_v_intrinsic >= 12000))
#define CAUSALRN_INT8_BY CAUSALRN_RVV
#include <riscv_vector.h>
#else
#define CAUSALRN_INT8_BY CAUSALRN_C
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
#define CAUSALRN_FETCH(address) ((void)(address))
#define CAUSALRN_FETCH_ONCE(address) ((void)(address))
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define CAUSALRN_UNROLL _Pragma("GCC unroll 32")
#else
#define CAUSALRN_UNROLL
#endif
