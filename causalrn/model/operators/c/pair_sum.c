/* sum_{j<=i} f(q_i + k_j): forward and backward pass of the exact readout.

   Four keys at a time meet one query: the mean square of each pair comes from the pair itself (its expansion
   |q|^2 + |k|^2 + 2 q.k cancels catastrophically), then f is taken once per pair and channel. A block of keys stays in
   the first-level cache while all queries pass by; nothing of size T * T * H exists.

     basics.h       types                   threads.h       tasks for several threads
     vectors.h      vectors, lane sums      activations.h   f and its slope, with their own exp
     rows.h         sums, means             groups.h        one query, four keys
     passes.h       all queries of one sequence and head

   Compiled once per floating type and function, with GCC or Clang: -DUSE_DOUBLE=0|1 -DACTIVATION=EXP|RELU|ELU|GELU
   -DNORMALIZED=0|1, and options for the widest vectors that the processor has. */

#define EXP 0
#define RELU 1
#define ELU 2
#define GELU 3

#include "basics.h"

/* What a pass is over. Strides are in elements; heads lie side by side, `width` channels each. The queries are the last
   positions: query i reads the keys 0 .. keys - queries + i. */
typedef struct {
  int64_t batch, queries, keys, heads, width;
  int64_t query_batch_stride, query_stride; /* of q, the result and their gradients */
  int64_t key_batch_stride, key_stride;     /* of k and its gradient */
  int64_t centred; /* whether the mean is taken out of q and k first */
  int64_t threads;
  double eps; /* of the norm, beside the root */
} Shape;

enum { SEGMENTS = 16 }; /* tasks of a forward pass, at least: results do not depend on the number of threads */

#include "activations.h"
#include "groups.h"
#include "passes.h"

static int64_t channels_of_pairs(const Shape *shape) {
  return shape->batch * shape->heads * shape->width * shape->queries * (shape->keys - shape->queries / 2);
}

/* q [batch, queries, heads, width], k [batch, keys, heads, width] -> out like q. */
int causalrn_pair_sum(const Shape *shape, const Real *q, const Real *k, Real *out) {
  const int64_t rows = shape->batch * shape->heads;
  const int64_t segments = rows >= SEGMENTS ? 1 : (SEGMENTS + rows - 1) / rows;
  const Pass pass = {.shape = shape, .q = q, .k = k, .out = out, .segments = segments};
  return run_tasks(run_task, &pass, rows * segments, channels_of_pairs(shape), shape->threads);
}

/* The gradients of q and k from that of the result; all of them are written. */
int causalrn_pair_sum_gradients(const Shape *shape, const Real *q, const Real *k, const Real *gradient_out,
                                Real *gradient_q, Real *gradient_k) {
  const Pass pass = {.shape = shape, .q = q, .k = k, .gradient_out = gradient_out, .out = gradient_q,
                     .gradient_k = gradient_k, .segments = 1};
  return run_tasks(run_task, &pass, shape->batch * shape->heads, channels_of_pairs(shape), shape->threads);
}
