/* 16 float32 at a time from standard input; for each kernel that this processor has, portable first, as it rounds them to
 * float16, and as it reads that back. */
#include "causalrn.c"

#include <stdio.h>

#define ROUND_BY(kernel)                                                                          \
    static int round_by_##kernel(const float *in)                                                   \
    {                                                                                             \
        uint16_t halves[LANES];                                                                   \
        float back[LANES];                                                                        \
        store_half_##kernel(halves, load_##kernel(in));                                             \
        store_##kernel(back, load_half_##kernel(halves));                                           \
        return fwrite(halves, sizeof halves, 1, stdout) + fwrite(back, sizeof back, 1, stdout) == 2; \
    }
ROUND_BY(portable)
#ifdef CAUSALRN_DISPATCH
__attribute__((target("avx2,fma,f16c"))) ROUND_BY(avx2)
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))) ROUND_BY(avx512)
#endif

int main(void)
{
    float in[LANES];
    int fine = 1;
    while (fine && fread(in, sizeof in, 1, stdin) == 1) {
        fine = round_by_portable(in);
#ifdef CAUSALRN_DISPATCH
        if (best_isa() >= CAUSALRN_AVX2)
            fine &= round_by_avx2(in);
        if (best_isa() == CAUSALRN_AVX512)
            fine &= round_by_avx512(in);
#endif
    }
    return !fine;
}
