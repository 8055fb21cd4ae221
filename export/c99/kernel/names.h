/* Names of one kernel: NAME(x) is x_portable, x_avx2 or x_avx512. Pieces of the kernel begin with macros for what they name
 * so, and names_end.h takes all of them away.
 *
 * Needs CAUSALRN_KERNEL, the suffix. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, CAUSALRN_KERNEL)
