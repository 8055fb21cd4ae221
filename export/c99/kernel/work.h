/* What a pass of a kernel works on, and where: the types that all kernels share, and the layout of working memory.
 *
 * Needs sizes.h. CAUSALRN_WORK_BYTES in causalrn.h has to agree with the layout. */

/* Places in working memory, for `rows` rows. */
typedef struct {
    float *x, *normalized, *ab, *o, *logits;
    int8_t *quantized; /* [rows][WIDEST] */
    float *scales;     /* [rows] */
    float *tiles;      /* [CAUSALRN_THREADS][TILE][HP]: pool rows that are not float32, widened */
    float *sums;       /* [rows, or segments * batch][HP]: what one segment adds up to */
} work_t;

/* One session's part of a pass: time * batch rows, time-major, from row `first` of the pass on. */
typedef struct {
    causalrn_session *session;
    const int32_t *tokens; /* [B][stride], of which `time` are taken */
    float *logits;         /* [B][stride][V] */
    size_t stride, first;
    int32_t time;
    int finite, is_last;
    work_t work; /* rows: the pass's, from `first` on; tiles and sums: the session's own */
} call_t;

/* What a kernel computes at once: rows of any number of sessions, so that weights are read once for all of them. At most
 * CAUSALRN_ROWS rows, or one position of one session. */
typedef struct {
    const causalrn_weights *weights;
    call_t *calls;
    int32_t number;
    size_t rows;
    work_t work; /* of the first session */
} pass_t;

/* Lay out working memory of CAUSALRN_WORK_BYTES. What depends on the capacity comes last. */
static void lay_out_work(work_t *work, const causalrn_session *session)
{
    const size_t rows = CAUSALRN_ROWS_OF(session->batch);
    unsigned char *next = session->work;
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
    PLACE(quantized, int8_t, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows * WIDEST : 0u);
    PLACE(scales, float, CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC ? rows : 0u);
    PLACE(tiles, float, CAUSALRN_POOL_BITS < 32 ? CAUSALRN_THREADS * TILE * HP : 0);
    work->sums = (float *)(void *)next;
#undef PLACE
}

/* The rows of a pass from `first` on, with tiles and sums of the session that they belong to. */
static work_t work_from(const work_t *pass, size_t first, const causalrn_session *session)
{
    work_t work;
    lay_out_work(&work, session);
    work.x = pass->x + first * EP;
    work.normalized = pass->normalized + first * EP;
    work.ab = pass->ab + first * 2 * HP;
    work.o = pass->o + first * HP;
    work.logits = pass->logits + first * VP;
    return work;
}
