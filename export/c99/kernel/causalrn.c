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
#ifdef __cplusplus

#error "causalrn.c is C99: compile it as C; C++ includes causalrn.h"

#elif !defined(CAUSALRN_KERNEL)

#include "causalrn.h"

#include "compiler.h"
#include "sizes.h"
#include "halves.h"
#include "weights.h"
#include "messages.h"
#include "work.h"
#include "instruction_sets.h"
#include "session.h"
#include "steps.h"

#else

/* ==== the kernel: everything below is compiled once per instruction set ========================================== */

#include "names.h"
#include "lanes.h"
#if CAUSALRN_ISA == 16
#include "lanes_avx512.h"
#elif CAUSALRN_ISA == 8
#include "lanes_avx2.h"
#else
#if CAUSALRN_ISA == 0
#include "lanes_plain.h"
#else
#include "lanes_vectors.h"
#ifdef __wasm_simd128__
#include "lanes_wasm.h"
#endif
#endif
#include "lanes_portable.h"
#if CAUSALRN_INT8_BY == CAUSALRN_NEON
#include "dots_neon.h"
#elif CAUSALRN_ISA == 0 || !defined(__wasm_simd128__)
#include "dots_plain.h"
#endif
#if CAUSALRN_INT8_BY == CAUSALRN_DSP
#include "dots_dsp.h"
#elif CAUSALRN_INT8_BY == CAUSALRN_HELIUM
#include "dots_helium.h"
#elif CAUSALRN_INT8_BY == CAUSALRN_RVV
#include "dots_rvv.h"
#endif
#endif
#include "arithmetic.h"
#include "rows.h"
#include "matrix.h"
#if CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC
#include "group_int8.h"
#else
#include "group_float.h"
#endif
#include "products.h"
#if CAUSALRN_HAS_POOL
#include "pairs.h"
#include "pool.h"
#else
#include "sums.h"
#endif
#include "blocks.h"
#include "names_end.h"

#endif
