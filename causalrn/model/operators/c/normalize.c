/* LN0, or its RMS variant, of rows: forward and backward pass. Compiled as pair_sum.c is, with -DUSE_DOUBLE=0|1. */

#include "basics.h"

enum { ROWS_OF_A_TASK = 256 };

typedef struct {
  int64_t rows, width, centred, rescaled, threads;
  double eps; /* beside the root */
} NormShape;

typedef struct {
  const NormShape *shape;
  const Real *x, *gradient; /* of a backward pass: the result, and its gradient */
  Real *out, *scale;        /* of a backward pass: the gradient of x, and what was the scale */
} NormPass;

/* Of positive channels. One that is NaN makes the whole row NaN, whatever this gives. */
static Real largest_of(const Real *x, int64_t width) {
  Vector most = all(MEAN_SQUARE_FLOOR);
  int64_t c = 0;
  for (; c + LANES <= width; c += LANES) most = WHERE(load(x + c) > most, load(x + c), most);
  Real largest = MEAN_SQUARE_FLOOR;
  for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
  for (; c < width; c++) largest = x[c] > largest ? x[c] : largest;
  return largest;
}

static void normalize_row(const NormShape *shape, const Real *x, Real *out, Real *scale) {
  const int64_t width = shape->width;
  /* x / c normalized with eps / c is the same, and its squares do not overflow */
  const Real largest = shape->rescaled ? largest_of(x, width) : 1, eps = (Real)shape->eps / largest;
  if (shape->rescaled) {
    for (int64_t c = 0; c < width; c++) out[c] = x[c] / largest;
    x = out;
  }
  if (shape->centred) centre_row(x, out, width);
  else if (x != out) memcpy(out, x, (size_t)width * sizeof(Real));
  const Real mean = dot_rows(out, out, width) / (Real)width;
  const Real least = eps == 0 && mean < MEAN_SQUARE_FLOOR ? MEAN_SQUARE_FLOOR : mean;
  const Real factor = 1 / ((USE_DOUBLE ? (Real)sqrt(least) : (Real)sqrtf((float)least)) + eps) + 0 * mean;
  for (int64_t c = 0; c < width; c++) out[c] *= factor;
  *scale = factor / largest;
}

/* (g - n mean(g n) (rms + eps) / rms) * scale for n = x * scale, where 1 - eps * scale is rms / (rms + eps). */
static void differentiate_row(const NormShape *shape, const Real *n, const Real *gradient, Real scale, Real *out) {
  const int64_t width = shape->width;
  Real along = dot_rows(gradient, n, width) / (Real)width;
  if (shape->eps != 0) {
    const Real ratio = 1 - (Real)shape->eps * scale;
    along /= ratio < MEAN_SQUARE_FLOOR ? MEAN_SQUARE_FLOOR : ratio;
  }
  for (int64_t c = 0; c < width; c++) out[c] = (gradient[c] - n[c] * along) * scale;
  if (shape->centred) subtract_mean(out, width);
}

static int run_norm_task(const void *argument, int64_t index) {
  const NormPass *pass = argument;
  const int64_t width = pass->shape->width, begin = index * ROWS_OF_A_TASK;
  const int64_t end = begin + ROWS_OF_A_TASK < pass->shape->rows ? begin + ROWS_OF_A_TASK : pass->shape->rows;
  for (int64_t i = begin; i < end; i++) {
    const int64_t at = i * width;
    if (pass->gradient)
      differentiate_row(pass->shape, pass->x + at, pass->gradient + at, pass->scale[i], pass->out + at);
    else
      normalize_row(pass->shape, pass->x + at, pass->out + at, pass->scale + i);
  }
  return OK;
}

static int run_norm(const NormPass *pass) {
  const int64_t tasks = (pass->shape->rows + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
  return run_tasks(run_norm_task, pass, tasks, pass->shape->rows * pass->shape->width, pass->shape->threads);
}

/* x [rows, width] -> out [rows, width] = x * scale, scale [rows]. */
int causalrn_normalize(const NormShape *shape, const Real *x, Real *out, Real *scale) {
  const NormPass pass = {.shape = shape, .x = x, .out = out, .scale = scale};
  return run_norm(&pass);
}

/* The gradient of x from that of the result, the result itself and its scale. */
int causalrn_normalize_gradient(const NormShape *shape, const Real *out, const Real *scale, const Real *gradient,
                                Real *gradient_x) {
  const NormPass pass = {.shape = shape, .x = out, .gradient = gradient, .out = gradient_x, .scale = (Real *)scale};
  return run_norm(&pass);
}
