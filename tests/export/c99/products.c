/* int8 products of many shapes and of the hardest values, bit by bit against sums that are taken one by one. As a program
 * for Linux, or with CAUSALRN_NO_MAIN in the place of the self-test of firmware. Needs a w8a8-dynamic model's causalrn.h. */
#include "causalrn.c"

enum { MOST_IN = 80, MOST_OUT = 224, MOST_ROWS = 5 };

static const int DEPTHS[] = {16, 32, 48, MOST_IN};
static const int OUTPUTS[] = {16, 32, 48, 64, 80, 96, 112, MOST_OUT}; /* panels of one to six columns, and what is left */
static const int ROWS[] = {1, 2, 3, 4, MOST_ROWS};
enum { ZEROS, HIGHEST, LOWEST, OPPOSITE, MIXED, KINDS };

static int8_t plain[MOST_OUT][MOST_IN], packed[MOST_OUT * MOST_IN], in[MOST_ROWS][MOST_IN];
static float bias[MOST_OUT], scale[MOST_OUT], in_scales[MOST_ROWS], out[MOST_ROWS][MOST_OUT], expected[MOST_ROWS][MOST_OUT];
static int32_t sums[MOST_OUT];
static uint32_t state = 1;

static uint32_t number(void) { return (state = state * 1664525u + 1013904223u) >> 8; }

static int8_t value(int kind, int is_weight)
{
    const uint32_t drawn = number() % 260u;
    switch (kind) {
    case ZEROS: return 0;
    case HIGHEST: return 127;
    case LOWEST: return -127;
    case OPPOSITE: return is_weight ? 127 : -127;
    default: return drawn > 254u ? (drawn % 2u ? 127 : -127) : (int8_t)((int)drawn - 127);
    }
}

static void fill(int kind, int depth, int outputs)
{
    for (int o = 0; o < outputs; o++) {
        const int panel = o / (PANEL * LANES) * PANEL * LANES; /* first output of its panel */
        const int width = outputs - panel < PANEL * LANES ? outputs - panel : PANEL * LANES;
        sums[o] = 0;
        for (int k = 0; k < depth; k++) {
            plain[o][k] = value(kind, 1);
            packed[panel * depth + k / 4 * width * 4 + (o - panel) * 4 + k % 4] = plain[o][k];
            sums[o] += 128 * plain[o][k];
        }
        bias[o] = (float)(number() % 1000u) / 7.0f, scale[o] = 1.0f / (float)(number() % 1000u + 3u);
    }
    for (int row = 0; row < MOST_ROWS; row++) {
        in_scales[row] = 1.0f / (float)(number() % 1000u + 3u);
        for (int k = 0; k < depth; k++)
            in[row][k] = value(kind, 0);
    }
}

/* What every row has to be: exact sums, and what the kernel's own lanes make of them. */
static void expect(int depth, int outputs, int rows, int accumulate)
{
    for (int row = 0; row < rows; row++)
        for (int o = 0; o < outputs; o += LANES) {
            float exact[LANES];
            for (int i = 0; i < LANES; i++) {
                int32_t all = 0;
                for (int k = 0; k < depth; k++)
                    all += (int32_t)plain[o + i][k] * in[row][k];
                exact[i] = (float)all;
            }
            const lanes_portable by = mul_portable(load_portable(scale + o), set_portable(in_scales[row]));
            lanes_portable sum = madd_portable(load_portable(exact), by, load_portable(bias + o));
            if (accumulate)
                sum = add_portable(load_portable(expected[row] + o), sum);
            store_portable(expected[row] + o, sum);
        }
}

/* How many outputs differ. */
static int wrong(int depth, int outputs, int rows)
{
    const causalrn_matrix matrix = {.panels = packed, .bias = bias, .scale = scale, .sums = sums};
    int count = 0;
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        job_portable job = {.in = in, .in_scales = in_scales, .out = out[0], .in_stride = MOST_IN, .out_stride = MOST_OUT,
                            .depth = depth, .accumulate = accumulate};
        product_portable(&matrix, &job, (size_t)rows, outputs);
        expect(depth, outputs, rows, accumulate);
        for (int row = 0; row < rows; row++)
            for (int o = 0; o < outputs; o++)
                count += !(out[row][o] == expected[row][o]);
    }
    return count;
}

static int count_wrong(void)
{
    int count = 0;
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t d = 0; d < sizeof DEPTHS / sizeof *DEPTHS; d++)
            for (size_t o = 0; o < sizeof OUTPUTS / sizeof *OUTPUTS; o++) {
                fill(kind, DEPTHS[d], OUTPUTS[o]);
                for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
                    count += wrong(DEPTHS[d], OUTPUTS[o], ROWS[r]);
            }
    return count;
}

#ifdef CAUSALRN_NO_MAIN
int causalrn_selftest(const causalrn_weights *weights, float *worst);
int causalrn_selftest(const causalrn_weights *weights, float *worst)
{
    (void)weights, *worst = 0.0f;
    return count_wrong() == 0 ? CAUSALRN_OK : -1;
}
#else
#include <stdio.h>

int main(void)
{
    printf("int8 by %d, %d wrong\n", CAUSALRN_INT8_BY, count_wrong());
    return 0;
}
#endif
