/* Largest errors of the kernel's own functions over every n-th float: exp2 relative, in [-126, 126]; gelu over
 * max(1, |x|), in [-30, 30]. Argument: n; 1 takes all of them, and some 20 seconds. */
#include "causalrn.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double exp2_error(float x, float said) { return fabs((double)said / exp2((double)x) - 1.0); }

static double gelu_error(float x, float said)
{
    const double right = 0.5 * (double)x * erfc(-0.70710678118654752440 * (double)x);
    return fabs((double)said - right) / fmax(1.0, fabs((double)x));
}

int main(int count, char **words)
{
    const uint32_t stride = count > 1 ? (uint32_t)strtoul(words[1], NULL, 10) : 1;
    double exp2_worst = 0.0, gelu_worst = 0.0;
    float in[LANES], out[LANES];
    int filled = 0;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += stride) {
        const uint32_t pattern = (uint32_t)bits;
        memcpy(&in[filled], &pattern, sizeof pattern);
        if (!(in[filled] >= -126.0f && in[filled] <= 126.0f) || ++filled < LANES)
            continue;
        filled = 0;
        store_portable(out, exp2_near_portable(load_portable(in)));
        for (int i = 0; i < LANES; i++)
            exp2_worst = fmax(exp2_worst, exp2_error(in[i], out[i]));
        store_portable(out, gelu_portable(load_portable(in)));
        for (int i = 0; i < LANES; i++)
            if (in[i] >= -30.0f && in[i] <= 30.0f)
                gelu_worst = fmax(gelu_worst, gelu_error(in[i], out[i]));
    }
    printf("%.3e %.3e\n", exp2_worst, gelu_worst);
    return 0;
}
