/* What a sum over pairs is over, the parts that threads take, and rows of their own. */

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

static int64_t channels_of_pairs(const Shape *shape) {
  return shape->batch * shape->heads * shape->width * shape->queries * (shape->keys - shape->queries / 2);
}

/* Segments of the queries of one sequence and head. */
static int64_t segments_of(const Shape *shape) {
  const int64_t rows = shape->batch * shape->heads;
  return rows >= SEGMENTS ? 1 : (SEGMENTS + rows - 1) / rows;
}

/* The first query of a segment, so that segments have about as many pairs. */
static int64_t segment_start(const Shape *shape, int64_t segment, int64_t segments) {
  if (segment == segments) return shape->queries;
  const double past = (double)(shape->keys - shape->queries), queries = (double)shape->queries;
  const double pairs = (past * queries + queries * queries / 2) * (double)segment / (double)segments;
  return (int64_t)(sqrt(past * past + 2 * pairs) - past);
}

static Rows take_rows(Real **memory, int64_t count, int64_t width) {
  const Rows rows = {*memory, width};
  *memory += count * width;
  return rows;
}

/* Copies rows of `width` channels, centred if asked; those of the target are filled up with zeros. */
static void copy_rows(Rows to, int64_t to_width, Rows from, int64_t width, int64_t count, int64_t centred) {
  for (int64_t i = 0; i < count; i++) {
    if (centred) centre_row(row(from, i), row(to, i), width);
    else memcpy(row(to, i), row(from, i), (size_t)width * sizeof(Real));
    for (int64_t c = width; c < to_width; c++) row(to, i)[c] = 0;
  }
}
