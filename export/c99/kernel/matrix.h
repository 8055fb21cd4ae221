/* A matrix product as the pieces after this one see it: how a matrix lies in memory, and what one product is.
 *
 * A matrix [out, in] lies in panels of 6 x 16 outputs, each [in][6][16] (int8 x int8: [in / 4][6][16][4]): weights are
 * read once from front to back, and every output is one sum over `in`, in order.
 *
 * Needs names.h. */

#define job NAME(job)

/* Where a product's input comes from and its output goes to. */
typedef struct {
    const void *in;
    const float *in_scales;
    float *out;
    size_t in_stride, out_stride; /* in values */
    int depth, accumulate; /* number of inputs; whether to add to what is in `out` */
    int begin, end;        /* the inputs that are added up now; what they come to is kept until all have been */
    float *kept;           /* [KEPT_ROWS][PANEL][LANES], where that is not all of them; else NULL */
} job;

/* For every row i, and every column c of 16 outputs, of those whose sums registers hold together. */
#define EACH_ROW CAUSALRN_UNROLL for (int i = 0; i < r; i++)
#define EACH_COLUMN CAUSALRN_UNROLL for (int c = 0; c < n; c++)
