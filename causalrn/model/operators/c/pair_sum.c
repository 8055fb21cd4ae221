/* sum_{j<=i} f(q_i + k_j): forward and backward pass of the exact readout.

   Four keys at a time meet one query: the mean square of each pair comes from the pair itself (its expansion
   |q|^2 + |k|^2 + 2 q.k cancels catastrophically), then f is taken once per pair and channel. A block of keys stays in
   the first-level cache while all queries pass by; nothing of size T * T * H exists.

     basics.h       types                   threads.h       tasks for several threads
     vectors.h      vectors, lane sums      activations.h   f and its slope, with their own exp
     rows.h         sums, means             shape.h         what there is, and its parts
     groups.h       one query, four keys    passes.h        all queries of one sequence and head

   Compiled once per floating type and function, with GCC or Clang: -DUSE_DOUBLE=0|1 -DACTIVATION=EXP|RELU|ELU|GELU
   -DNORMALIZED=0|1, and options for the widest vectors that the processor has. */

#include "basics.h"
#include "shape.h"
#include "activations.h"
#include "groups.h"
#include "passes.h"

/* q [batch, queries, heads, width], k [batch, keys, heads, width] -> out like q. */
int causalrn_pair_sum(const Shape *shape, const Real *q, const Real *k, Real *out) {
  const int64_t segments = segments_of(shape);
  const Pass pass = {.shape = shape, .q = q, .k = k, .out = out, .segments = segments};
  return run_tasks(run_task, &pass, shape->batch * shape->heads * segments, channels_of_pairs(shape), shape->threads);
}

/* The gradients of q and k from that of the result; all of them are written. */
int causalrn_pair_sum_gradients(const Shape *shape, const Real *q, const Real *k, const Real *gradient_out,
                                Real *gradient_q, Real *gradient_k) {
  const Pass pass = {.shape = shape, .q = q, .k = k, .gradient_out = gradient_out, .out = gradient_q,
                     .gradient_k = gradient_k, .segments = 1};
  return run_tasks(run_task, &pass, shape->batch * shape->heads, channels_of_pairs(shape), shape->threads);
}
