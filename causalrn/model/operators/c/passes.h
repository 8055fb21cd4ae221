/* All queries of one sequence and head, or a segment of them: block of keys by block of keys. */

#define KEY_BLOCK_BYTES 12288 /* of one array: keys, their gradients and slopes share a first-level cache */
enum { MOST_GROUPS = 16 };

/* What all tasks are over. In a forward pass `gradient_out` and `gradient_k` are NULL and `out` is the result, in a
   backward pass it is the gradient of q. */
typedef struct {
  const Shape *shape;
  const Real *q, *k, *gradient_out;
  Real *out, *gradient_k;
  int64_t segments; /* of the queries of one sequence and head */
} Pass;

/* What one task works with: rows as wide as whole vectors. */
typedef struct {
  Rows query, key, gradient_out, out, gradient_key;
  Real *no_key, *no_gradient, *slopes;
  int64_t first, end, past; /* queries first .. end; the first of all has so many keys before its own */
  int backward;
  Channels channels;
} Work;

/* Groups of keys that all queries meet before the next ones come. */
INLINE int64_t groups_at_once(int64_t vectors) {
  const int64_t fit = KEY_BLOCK_BYTES / (GROUP * vectors * LANES * (int64_t)sizeof(Real));
  return fit < 1 ? 1 : fit > MOST_GROUPS ? MOST_GROUPS : fit;
}

INLINE Group take_keys(const Work *work, int64_t from, int64_t end) {
  Group keys;
  for (int j = 0; j < GROUP; j++) {
    const int reads = from + j < end;
    keys.key[j] = reads ? row(work->key, from + j) : work->no_key;
    keys.gradient[j] = reads && work->backward ? row(work->gradient_key, from + j) : work->no_gradient;
  }
  keys.weight = (Four){from < end, from + 1 < end, from + 2 < end, from + 3 < end};
  return keys;
}

/* One query and up to MOST_GROUPS groups of keys, step by step: within a step groups do not wait for each other. */
INLINE void meet(const Work *work, int64_t index, int64_t from, int64_t end, int backward, int bounded) {
  const Channels channels = work->channels;
  const Real *query = row(work->query, index);
  Real *out = row(work->out, index);
  const int64_t groups = (end - from + GROUP - 1) / GROUP, slopes_of_one = GROUP * channels.vectors * LANES;
  Four scale[MOST_GROUPS], along[MOST_GROUPS];
  for (int64_t g = 0; g < groups; g++) {
    const Group keys = take_keys(work, from + g * GROUP, end);
    scale[g] = scale_of(query, &keys, channels);
  }
  if (!backward) {
    for (int64_t g = 0; g < groups; g++) {
      const Group keys = take_keys(work, from + g * GROUP, end);
      read_group(query, out, &keys, scale[g], channels, bounded);
    }
    return;
  }
  for (int64_t g = 0; g < groups; g++) {
    const Group keys = take_keys(work, from + g * GROUP, end);
    along[g] = slopes_of_group(query, row(work->gradient_out, index), work->slopes + g * slopes_of_one, &keys, scale[g],
                               channels, bounded);
  }
  for (int64_t g = 0; g < groups; g++) {
    const Group keys = take_keys(work, from + g * GROUP, end);
    gradients_of_group(query, out, work->slopes + g * slopes_of_one, &keys, scale[g], along[g], channels);
  }
}

INLINE void pass_over(const Work *work, int backward, int bounded) {
  const int64_t block = GROUP * groups_at_once(work->channels.vectors);
  for (int64_t from = 0; from < work->past + work->end; from += block) {
    for (int64_t i = from - work->past > work->first ? from - work->past : work->first; i < work->end; i++) {
      const int64_t visible = work->past + i + 1, end = from + block < visible ? from + block : visible;
      meet(work, i - work->first, from, end, backward, bounded);
    }
  }
}

/* Gradients of rows that were centred before. */
static void centre_gradients(Rows rows, int64_t width, int64_t count) {
  for (int64_t i = 0; i < count; i++) subtract_mean(row(rows, i), width);
}

/* One sequence and head, or a segment of its queries. */
static int run_task(const void *argument, int64_t index) {
  const Pass *pass = argument;
  const Shape *shape = pass->shape;
  const int backward = pass->gradient_out != NULL;
  const int64_t segment = index % pass->segments, batch = index / pass->segments / shape->heads;
  const int64_t head = index / pass->segments % shape->heads, width = shape->width;
  const int64_t vectors = (width + LANES - 1) / LANES, padded = vectors * LANES;
  Work work = {.first = segment_start(shape, segment, pass->segments),
               .end = segment_start(shape, segment + 1, pass->segments),
               .past = shape->keys - shape->queries,
               .backward = backward,
               .channels = {vectors, (Real)width, (Real)shape->eps}};
  const int64_t queries = work.end - work.first, keys = work.past + work.end;
  if (queries <= 0) return OK;

  const int64_t rows = 2 * queries + keys + 2 + (backward ? queries + keys + GROUP * groups_at_once(vectors) : 0);
  void *memory;
  if (posix_memalign(&memory, 64, (size_t)(rows * padded) * sizeof(Real)) != 0) return NO_MEMORY;
  Real *next = memory;
  const int64_t at_query = batch * shape->query_batch_stride + work.first * shape->query_stride + head * width;
  const int64_t at_key = batch * shape->key_batch_stride + head * width;
  const Rows key = {(Real *)pass->k + at_key, shape->key_stride};
  work.out = take_rows(&next, queries, padded);
  work.no_key = take_rows(&next, 1, padded).first;
  work.no_gradient = take_rows(&next, 1, padded).first;
  memset(memory, 0, (size_t)((queries + 2) * padded) * sizeof(Real));
  work.query = take_rows(&next, queries, padded);
  copy_rows(work.query, padded, (Rows){(Real *)pass->q + at_query, shape->query_stride}, width, queries, shape->centred);
  const int in_place = width == padded && !shape->centred; /* keys are read where they are */
  work.key = in_place ? key : take_rows(&next, keys, padded);
  if (!in_place) copy_rows(work.key, padded, key, width, keys, shape->centred);
  if (backward) {
    work.gradient_out = take_rows(&next, queries, padded);
    copy_rows(work.gradient_out, padded, (Rows){(Real *)pass->gradient_out + at_query, shape->query_stride}, width,
              queries, 0);
    work.gradient_key = take_rows(&next, keys, padded);
    memset(work.gradient_key.first, 0, (size_t)(keys * padded) * sizeof(Real));
    work.slopes = next;
  }

  const int bounded = is_bounded(width);
  if (backward && bounded) pass_over(&work, 1, 1);
  else if (backward) pass_over(&work, 1, 0);
  else if (bounded) pass_over(&work, 0, 1);
  else pass_over(&work, 0, 0);

  if (backward && shape->centred) {
    centre_gradients(work.out, width, queries);
    centre_gradients(work.gradient_key, width, keys);
  }
  copy_rows((Rows){pass->out + at_query, shape->query_stride}, width, work.out, width, queries, 0);
  if (backward)
    copy_rows((Rows){pass->gradient_k + at_key, shape->key_stride}, width, work.gradient_key, width, keys, 0);
  free(memory);
  return OK;
}
