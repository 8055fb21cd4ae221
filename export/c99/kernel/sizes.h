/* Sizes of the model as constants, and of the arrays in a weights file.
 *
 * Needs the macros of causalrn.h. */

enum {
    LANES = 16,
    VOCABULARY = CAUSALRN_VOCABULARY,
    EMBEDDING = CAUSALRN_EMBEDDING,
    HIDDEN = CAUSALRN_HIDDEN,
    BLOCKS = CAUSALRN_BLOCKS,
    HEADS = CAUSALRN_HEADS,
    WIDTH = HIDDEN / HEADS,                                  /* D */
    EP = CAUSALRN_EP,
    DP = CAUSALRN_DP,
    HP = CAUSALRN_HP,
    VP = CAUSALRN_VP,
    WIDEST = EP > HP ? EP : HP,
    PANEL = 6,                                               /* columns of a packed matrix side by side, in 16 lanes */
    TILE = 16,                                               /* rows of the pool that are read together */
    SEGMENT = 512,                                           /* rows that are summed before they join the others */
    AHEAD = 2,                                               /* tiles that are fetched before they are needed */
    STORED = 0, WIDENED, SUMMED,                             /* what pairs are made of: pairs.h */
    PART = 48, KEPT_ROWS = 16,                               /* inputs and rows of a product that fit into the first cache */
    LINES = 8,                                               /* of weights, fetched with 16 exps of all rows of a tile */
    PER_BLOCK = CAUSALRN_TENSORS / BLOCKS,
    HAS_POOL = CAUSALRN_HAS_POOL
};

#define MEAN_SQUARE_FLOOR 1e-30f /* keeps the norm of a vector of zeros at zero; nothing else notices */
#define LARGEST_FLOOR 1e-28f     /* and the int8 row of one */

#ifndef CAUSALRN_NORM_EPS
#define CAUSALRN_NORM_EPS 0.0f   /* added beside the root of every mean square, where a model has it */
#endif
#define HAS_EPS (CAUSALRN_NORM_EPS > 0.0f)
#define SCALES_HEADS (CAUSALRN_HEAD_SCALE && (HEADS > 1 || !CAUSALRN_POST_NORM || HAS_EPS)) /* else it cancels */
#define COUNTS_POSITIONS (CAUSALRN_POST_NORM ? HAS_EPS : !CAUSALRN_HEAD_SCALE)
#define FORGETS_SCALE (CAUSALRN_POST_NORM && (!HAS_EPS || (CAUSALRN_HEAD_SCALE && HEADS == 1)))

/* Sizes of the arrays in a weights file, in its order. Each starts at a multiple of 64 bytes. */
#if CAUSALRN_WEIGHTS == CAUSALRN_FLOAT32
typedef float causalrn_weight;
#else
typedef int8_t causalrn_weight;
#endif
#if CAUSALRN_POOL_BITS == 8
typedef int8_t causalrn_pooled;
#elif CAUSALRN_POOL_BITS == 16
typedef uint16_t causalrn_pooled;
#else
typedef float causalrn_pooled;
#endif
#define FLOATS(count) CAUSALRN_BYTES(count, sizeof(float))
#define MATRIX(in, out)                                                                                   \
    (CAUSALRN_BYTES((size_t)(in) * (out), sizeof(causalrn_weight)) +                                        \
     FLOATS(out) * (1 + (CAUSALRN_WEIGHTS != CAUSALRN_FLOAT32) + (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC)))
#define PAYLOAD                                                                                          \
    (FLOATS((size_t)VOCABULARY * EP) + FLOATS((size_t)CAUSALRN_POSITIONS * EP) +                            \
     BLOCKS * (MATRIX(EP, 2 * HP) + MATRIX(HP, EP)) + MATRIX(EP, VP))
