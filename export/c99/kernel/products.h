/* Matrix products: a whole matrix by rows of inputs, which are rounded to int8 first where that is the scheme.
 *
 * Needs matrix.h, group_float.h or group_int8.h, rows.h and work.h. */

#define panel NAME(panel)
#define product NAME(product)
#define multiply NAME(multiply)

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
