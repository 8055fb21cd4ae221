/* sum_{j<=i} f(q_i + k_j) in float64, with errors as if every operation were rounded to float32.

   What an error is drawn from is the value that is rounded, and a salt per kind of operation: equal pairs get equal
   errors, which then add up, as they do where things are rounded. One hash of a pair gives two numbers: the error of
   the pair and of its norm, and that of f. Magnitudes are those of runtimes/rounding/errors.py, in unit roundoffs;
   those of a pair (1) and of its norm (3) are drawn together.

   Compiled once per function with -DUSE_DOUBLE=1; ACTIVATION and NORMALIZED as in pair_sum.c. */

#include "basics.h"
#include "shape.h"
#include "activations.h"

#define UNIT_ROUNDOFF ((Real)0x1p-24)
#define EQUAL_TERMS ((Real)0.99)
enum { SUM_LANES = 16, PAIR_ULPS = 4, F_ULPS = 2, ROOT_ULPS = 2 };

typedef struct {
  Bits pair, scale, sum;
} Salts;

typedef struct {
  const Shape *shape;
  const Real *q, *k;
  Real *out;
  Salts salts;
  int64_t segments;
} NoisyPass;

/* Two numbers in [-1, 1) per lane, drawn from values as float32 has them. */
INLINE void draw(Vector value, Bits salt, Vector *first, Vector *second) {
  const Bits one = (Bits)0x3FF << 52;
  Integers mixed = ((((Integers)value + ((Bits)1 << 28)) >> 29) ^ salt) * (Bits)0x9E3779B97F4A7C15;
  mixed = (mixed ^ (mixed >> 32)) * (Bits)0xD6E8FEB86659FD93;
  *first = ((Vector)((mixed >> 12) | one) - (Real)1.5) * 2;
  *second = ((Vector)(((mixed << 32) >> 12) | one) - (Real)1.5) * 2;
}

INLINE Real draw_one(Real value, Bits salt) {
  Vector first, second;
  draw(all(value), salt, &first, &second);
  return first[0];
}

/* 1 / (root of the mean square + eps), off by what adding up squares and taking the root loses. */
INLINE Real noisy_scale(const Real *query, const Real *key, int64_t vectors, Real width, Real eps, Bits salt) {
  if (!NORMALIZED) return 1;
  Vector squares = {0};
  for (int64_t v = 0; v < vectors; v++) {
    Vector pair = load(query + v * LANES) + load(key + v * LANES);
    squares += pair * pair;
  }
  const Real mean = sum_vector(squares) / width, scattered = sqrt((Real)0.5 + width / 3), equal = width / (2 * SUM_LANES);
  const Real root = sqrt(eps == 0 && mean < MEAN_SQUARE_FLOOR ? MEAN_SQUARE_FLOOR : mean);
  const Real ulps = (scattered < equal ? equal : scattered) / 2 + ROOT_ULPS;
  return (1 + ulps * UNIT_ROUNDOFF * draw_one(mean, salt)) / (root + eps) + 0 * mean;
}

/* f at a pair, off by what the pair, its norm and f lose. */
INLINE Vector noisy_value(Vector pair, Real scale, Bits salt, int bounded) {
  Vector of_pair, of_f;
  draw(pair, salt, &of_pair, &of_f);
  pair *= 1 + PAIR_ULPS * UNIT_ROUNDOFF * of_pair;
  Vector value = value_at(pair, all(ACTIVATION == EXP ? scale * LOG2_E : scale), bounded);
  if (ACTIVATION == RELU) return value;
  value *= 1 + F_ULPS * UNIT_ROUNDOFF * of_f;
  if (ACTIVATION == EXP) return value;
  Vector x = pair * scale, near = WHERE(x < -1, all(1), WHERE(x < 0, -x, all(0))); /* below zero both cancel */
  return value + near * UNIT_ROUNDOFF * of_f;
}

/* Adds the error of adding up `terms` numbers, as _sum_error of runtimes/rounding/errors.py has it, to a total. */
INLINE Vector noisy_sum(Vector total, Vector squares, Real terms, Bits salt) {
  Vector first, second, magnitude, square = total * total;
  draw(total, salt, &first, &second);
  for (int i = 0; i < LANES; i++) {
    magnitude[i] = sqrt(terms * (squares[i] / 2 + square[i] / 3));
    const Real equal = terms / (2 * SUM_LANES) * fabs(total[i]);
    if (square[i] > EQUAL_TERMS * terms * squares[i] && magnitude[i] < equal) magnitude[i] = equal;
  }
  return WHERE(magnitude < (Real)INFINITY, total + UNIT_ROUNDOFF * magnitude * first, total);
}

/* One query and the keys that it reads: adds up in `out` and `squares`, both of zeros. */
INLINE void noisy_query(const NoisyPass *pass, const Real *query, Rows keys, int64_t visible, Real *out, Real *squares,
                        int64_t vectors, int bounded) {
  const Real width = (Real)pass->shape->width, eps = (Real)pass->shape->eps;
  for (int64_t j = 0; j < visible; j++) {
    const Real *key = row(keys, j), scale = noisy_scale(query, key, vectors, width, eps, pass->salts.scale);
    for (int64_t v = 0; v < vectors; v++) {
      Vector value = noisy_value(load(query + v * LANES) + load(key + v * LANES), scale, pass->salts.pair, bounded);
      store(out + v * LANES, load(out + v * LANES) + value);
      store(squares + v * LANES, load(squares + v * LANES) + value * value);
    }
  }
  for (int64_t v = 0; v < vectors; v++) {
    Real *sum = out + v * LANES;
    store(sum, noisy_sum(load(sum), load(squares + v * LANES), (Real)visible, pass->salts.sum));
  }
}

/* A segment of one head's queries of one sequence. */
static int noisy_task(const void *argument, int64_t index) {
  const NoisyPass *pass = argument;
  const Shape *shape = pass->shape;
  const int64_t segment = index % pass->segments, batch = index / pass->segments / shape->heads;
  const int64_t head = index / pass->segments % shape->heads, width = shape->width;
  const int64_t vectors = (width + LANES - 1) / LANES, padded = vectors * LANES;
  const int64_t first = segment_start(shape, segment, pass->segments);
  const int64_t end = segment_start(shape, segment + 1, pass->segments), past = shape->keys - shape->queries;
  if (first >= end) return OK;

  void *memory;
  if (posix_memalign(&memory, 64, (size_t)((past + end + 3) * padded) * sizeof(Real)) != 0) return NO_MEMORY;
  Real *next = memory;
  const Rows keys = take_rows(&next, past + end, padded), work = take_rows(&next, 3, padded);
  const int64_t at_key = batch * shape->key_batch_stride + head * width;
  copy_rows(keys, padded, (Rows){(Real *)pass->k + at_key, shape->key_stride}, width, past + end, 0);
  const int bounded = is_bounded(width);
  for (int64_t i = first; i < end; i++) {
    const int64_t at = batch * shape->query_batch_stride + i * shape->query_stride + head * width;
    copy_rows(work, padded, (Rows){(Real *)pass->q + at, 0}, width, 1, 0);
    memset(row(work, 1), 0, (size_t)(2 * padded) * sizeof(Real));
    if (bounded) noisy_query(pass, row(work, 0), keys, past + i + 1, row(work, 1), row(work, 2), vectors, 1);
    else noisy_query(pass, row(work, 0), keys, past + i + 1, row(work, 1), row(work, 2), vectors, 0);
    memcpy(pass->out + at, row(work, 1), (size_t)width * sizeof(Real));
  }
  free(memory);
  return OK;
}

/* q [batch, queries, heads, width], k [batch, keys, heads, width] -> out like q. */
int causalrn_noisy_pair_sum(const Shape *shape, const Salts *salts, const Real *q, const Real *k, Real *out) {
  const int64_t segments = segments_of(shape);
  const NoisyPass pass = {shape, q, k, out, *salts, segments};
  return run_tasks(noisy_task, &pass, shape->batch * shape->heads * segments, channels_of_pairs(shape), shape->threads);
}
