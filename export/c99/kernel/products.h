/* Matrix products, in float32 or int8.
 *
 * A matrix [out, in] lies in panels of 6 x 16 outputs, each [in][6][16] (int8 x int8: [in / 4][6][16][4]): weights are
 * read once from front to back, and every output is one sum over `in`, in order.
 *
 * Needs lanes, arithmetic.h and work.h. */

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
