/* Rows of `width` channels, of any width and alignment: sums, products, and the mean taken out. */

typedef struct {
  Real *first;
  int64_t stride;
} Rows;

INLINE Real *row(Rows rows, int64_t index) { return rows.first + index * rows.stride; }

INLINE Real sum_vector(Vector value) {
  Four part[LANES / GROUP];
  memcpy(part, &value, sizeof part);
  for (int i = 1; i < LANES / GROUP; i++) part[0] += part[i];
  return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}

INLINE Real sum_row(const Real *x, int64_t width) {
  Vector sums = {0};
  Real sum = 0;
  int64_t c = 0;
  for (; c + LANES <= width; c += LANES) sums += load(x + c);
  for (; c < width; c++) sum += x[c];
  return sum + sum_vector(sums);
}

INLINE Real dot_rows(const Real *x, const Real *y, int64_t width) {
  Vector sums = {0};
  Real sum = 0;
  int64_t c = 0;
  for (; c + LANES <= width; c += LANES) sums += load(x + c) * load(y + c);
  for (; c < width; c++) sum += x[c] * y[c];
  return sum + sum_vector(sums);
}

INLINE void subtract_mean(Real *x, int64_t width) {
  const Real mean = sum_row(x, width) / (Real)width;
  for (int64_t c = 0; c < width; c++) x[c] -= mean;
}

/* x - mean; exactly zero where all channels are equal. Two channels become (d, -d): LN0 of them is a sign, and x - mean
   would round the two differently. `out` may be x. */
INLINE void centre_row(const Real *x, Real *out, int64_t width) {
  if (width == 2) {
    const Real half = x[0] / 2 - x[1] / 2;
    out[0] = half;
    out[1] = -half;
    return;
  }
  const Real first = x[0];
  for (int64_t c = 0; c < width; c++) out[c] = x[c] - first;
  subtract_mean(out, width);
}
