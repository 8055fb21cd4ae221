/* Build systems of boards compile in GNU mode, where GCC fuses products and sums as it likes, and for size, where it keeps 16
 * lanes in memory: neither is for this file. */
#if defined(__SIZEOF_INT__) && __SIZEOF_INT__ < 4
#error "causalrn needs a processor with an int of 32 bits: AVR and MSP430 have 16"
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "no-math-errno", "fp-contract=off")
#ifndef CAUSALRN_CONTRACTION_IS_OFF
#define CAUSALRN_CONTRACTION_IS_OFF
#endif
#endif
