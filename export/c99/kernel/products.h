/* Matrix products: a whole matrix by rows of inputs, which are rounded to int8 first where that is the scheme.
 *
 * Needs matrix.h, group_float.h or group_int8.h, rows.h and work.h. */

#define panel NAME(panel)
#define product NAME(product)
#define panel_rows NAME(panel_rows)
#define multiply NAME(multiply)
#define IN_PARTS (CAUSALRN_ISA >= 8 && CAUSALRN_WEIGHTS == CAUSALRN_FLOAT32)

/* All columns of a panel, `most` at a time, for `r` rows. */
CAUSALRN_INLINE void panel(const causalrn_matrix *m, const causalrn_weight *w, const job *j, size_t row, size_t output,
                           int width, const int most, const int r, const int in_parts)
{
    int column = 0;
    for (; column + most <= width; column += most)
        group(m, w, j, row, output, column, width, most, r, in_parts);
#define REMAINDER(n)                                            \
    if ((n) < most) /* a constant: what cannot be is not compiled */ \
    group(m, w, j, row, output, column, width, n, r, in_parts)
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

/* The same for rows begin .. end - 1. */
CAUSALRN_INLINE void panel_rows(const causalrn_matrix *m, const causalrn_weight *w, const job *j, size_t begin, size_t end,
                                size_t output, int width, const int in_parts)
{
    const int several = NAME(rows) == 2 ? 3 : NAME(together);
    size_t row = begin;
    if (NAME(rows) > 1)
        for (; row + NAME(rows) <= end; row += NAME(rows))
            panel(m, w, j, row, output, width, several, NAME(rows), in_parts);
    for (; row < end; row++)
        panel(m, w, j, row, output, width, NAME(together), 1, in_parts);
}

/* All of a product. Several rows take the weights part by part, so that they come from the first cache for all but one. */
static CAUSALRN_UNUSED void product(const causalrn_matrix *m, job *j, size_t rows, int outputs)
{
    const causalrn_weight *w = m->panels;
    for (int output = 0; output < outputs; output += PANEL * LANES) {
        const int columns = (outputs - output) / LANES, width = columns < PANEL ? columns : PANEL;
        if (IN_PARTS && rows == 1)
            panel(m, w, j, 0, (size_t)output, width, NAME(together), 1, 0);
        else if (IN_PARTS)
            for (size_t row = 0; row < rows; row += KEPT_ROWS)
                for (j->begin = 0; j->begin < j->depth; j->begin = j->end) {
                    j->end = j->begin + PART;
                    panel_rows(m, w, j, row, row + KEPT_ROWS < rows ? row + KEPT_ROWS : rows, (size_t)output, width, 1);
                }
        else
            panel_rows(m, w, j, 0, rows, (size_t)output, width, 0);
        w += (size_t)width * LANES * (size_t)j->depth;
    }
}

/* out[rows][outputs] = m in + bias, or added to what is there. */
static void multiply(const causalrn_matrix *m, const float *in, int depth, float *out, int outputs, size_t rows,
                     int accumulate, const work_t *work)
{
    float kept[IN_PARTS ? KEPT_ROWS * PANEL * LANES : 1];
    job j = {in, NULL, out, (size_t)depth, (size_t)outputs, depth, accumulate, 0, depth, kept};
    if (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC) {
        for (size_t row = 0; row < rows; row++)
            work->scales[row] = quantize(in + row * (size_t)depth, work->quantized + row * (size_t)depth, depth);
        j.in = work->quantized;
        j.in_scales = work->scales;
    }
    product(m, &j, rows, outputs);
}
