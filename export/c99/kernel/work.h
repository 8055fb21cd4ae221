/* What a call of a kernel works on, and where: the types that all kernels share, and the layout of working memory.
 *
 * Needs sizes.h. CAUSALRN_WORK_BYTES in causalrn.h has to agree with the layout. */

/* What a call of a kernel works on: at most CAUSALRN_ROWS rows, time-major. */
typedef struct {
    const causalrn_weights *weights;
    causalrn_session *session;
    const int32_t *tokens; /* [B][stride], of which `time` are taken */
    size_t stride;
    int32_t time;
    float *logits;         /* [B][stride][V] */
} call_t;

/* Places in a session's working memory, for `rows` rows. */
typedef struct {
    float *x, *normalized, *ab, *o, *logits;
    float *tiles;      /* [CAUSALRN_THREADS][TILE][HP]: pool rows that are not float32, widened */
    float *sums;       /* [rows, or segments * batch][HP]: what one segment adds up to */
    int8_t *quantized; /* [rows][WIDEST] */
    float *scales;     /* [rows] */
} work_t;

/* Lay out working memory of CAUSALRN_WORK_BYTES. */
static void lay_out_work(work_t *work, void *memory, int32_t batch, int32_t capacity)
{
    const size_t rows = CAUSALRN_ROWS_OF(batch);
    unsigned char *next = memory;
#define PLACE(name, type, count)                                                            \
    do {                                                                                    \
        work->name = (type *)(void *)next;                                                    \
        next += CAUSALRN_BYTES(count, sizeof(type));                                          \
    } while (0)
    PLACE(x, float, rows * EP);
    PLACE(normalized, float, rows * EP);
    PLACE(ab, float, rows * 2 * HP);
    PLACE(o, float, rows * HP);
    PLACE(logits, float, rows * VP);
    PLACE(tiles, float, CAUSALRN_POOL_BITS < 32 ? CAUSALRN_THREADS * TILE * HP : 0);
    PLACE(sums, float, CAUSALRN_SUMS(batch, capacity) * HP);
    PLACE(quantized, int8_t, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows * WIDEST : 0u);
    PLACE(scales, float, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows : 0u);
#undef PLACE
}
