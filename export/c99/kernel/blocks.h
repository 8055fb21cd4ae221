/* One pass: embeddings, blocks, logits.
 *
 * Needs all of the kernel before it. Gives forward. */

#define finish NAME(finish)
#define normalize_all NAME(normalize_all)
#define read_rows NAME(read_rows)
#define run_block NAME(run_block)
#define start_rows NAME(start_rows)
#define show_stream NAME(show_stream)
#define give_logits NAME(give_logits)
#define forward NAME(forward)

/* From the sum over positions to what W3 reads, in place; o [HP] of the query at `position`. */
CAUSALRN_INLINE int finish(float *o, int32_t position)
{
    float eps = CAUSALRN_NORM_EPS;
    zero_padding(o);
    if (SCALES_HEADS) {
        for (int head = 0; head < HEADS; head++) {
            const lanes most = set(largest_of(o + head * DP, DP, WIDTH));
            for (int i = head * DP; i < (head + 1) * DP; i += LANES)
                store(o + i, divide(load(o + i), most));
        }
        zero_padding(o);
    }
    if (COUNTS_POSITIONS) {
        const lanes count = set((float)(position + 1));
        for (int i = 0; i < HP; i += LANES)
            store(o + i, divide(load(o + i), count));
    }
    if (CAUSALRN_GUARDED && !SCALES_HEADS) {
        float largest = largest_of(o, HP, HIDDEN);
        if (HAS_EPS) { /* o / c normalized with eps / c is the same; c = 0 where every channel has underflowed */
            largest = largest > MEAN_SQUARE_FLOOR ? largest : MEAN_SQUARE_FLOOR;
            eps /= largest;
        }
        for (int i = 0; i < HP; i += LANES)
            store(o + i, divide(load(o + i), set(largest)));
        zero_padding(o);
    }
    if (!CAUSALRN_POST_NORM)
        return 1;
    if (CAUSALRN_CENTRED) {
        lanes total = set(0.0f);
        for (int i = 0; i < HP; i += LANES)
            total = add(total, load(o + i));
        const lanes mean = set(sum(total) / (float)HIDDEN);
        for (int i = 0; i < HP; i += LANES)
            store(o + i, sub(load(o + i), mean));
        zero_padding(o);
    }
    return normalize_with(o, o, HP, HIDDEN, eps);
}

/* What the next matrix reads of x. */
CAUSALRN_INLINE void normalize_all(const pass_t *pass)
{
    for (int32_t i = 0; i < pass->number; i++) {
        call_t *call = &pass->calls[i];
        const size_t rows = (size_t)call->time * (size_t)call->session->batch;
        for (size_t row = 0; row < rows; row++)
            call->finite &= normalize(call->work.x + row * EP, call->work.normalized + row * EP, EP, EMBEDDING);
    }
}

/* What the rows of one call read, ready for W3. */
CAUSALRN_INLINE void read_rows(call_t *call, int block)
{
    const causalrn_session *s = call->session;
    const work_t *work = &call->work;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
#if CAUSALRN_HAS_POOL
    for (size_t row = 0; row < rows; row++) {
        float *ab = work->ab + row * 2 * HP;
        if (CAUSALRN_READOUT == CAUSALRN_LINEAR)
            call->finite &= normalize(ab, ab, HP, HIDDEN) & normalize(ab + HP, ab + HP, HP, HIDDEN);
        call->finite &= append_row(s, block, (size_t)s->position * batch + row, ab + HP);
    }
    read_pool(call, block);
#else
    for (size_t row = 0; row < rows; row++)
        read_sums(s, block, row % batch, row / batch, work->ab + row * 2 * HP, work->o + row * HP);
#endif
    for (size_t row = 0; row < rows; row++)
        call->finite &= finish(work->o + row * HP, s->position + (int32_t)(row / batch));
}

/* One block for all rows: x [rows][EP] -> x + W3 o + b3. */
static void run_block(const pass_t *pass, int block)
{
    const work_t *work = &pass->work;
    normalize_all(pass);
    multiply(&pass->weights->w12[block], work->normalized, EP, work->ab, 2 * HP, pass->rows, 0, work);
    for (int32_t i = 0; i < pass->number; i++)
        read_rows(&pass->calls[i], block);
    multiply(&pass->weights->w3[block], work->o, HP, work->x, EP, pass->rows, 1, work);
}

/* Embeddings of the tokens and their positions, time-major. */
CAUSALRN_INLINE void start_rows(const call_t *call)
{
    const causalrn_session *s = call->session;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
    for (size_t row = 0; row < rows; row++) {
        const size_t time = row / batch, token = (size_t)call->tokens[row % batch * call->stride + time];
        const float *place = s->weights->wpe + ((size_t)s->position + time) * EP;
        for (int i = 0; i < EP; i += LANES) {
            const lanes value = load(s->weights->wte + token * EP + i);
            store(call->work.x + row * EP + i, CAUSALRN_POSITIONS ? add(value, load(place + i)) : value);
        }
    }
}

/* What a block reads, or the head, to where its caller wants to see it. */
CAUSALRN_INLINE void show_stream(const call_t *call, int block)
{
    const causalrn_session *s = call->session;
    const size_t values = (size_t)call->time * (size_t)s->batch * EP;
    if (s->streams != NULL)
        for (size_t i = 0; i < values; i++)
            s->streams[(size_t)block * values + i] = call->work.x[i];
}

CAUSALRN_INLINE void give_logits(call_t *call)
{
    const size_t batch = (size_t)call->session->batch, rows = (size_t)call->time * batch;
    for (size_t row = 0; row < rows; row++) {
        float *logits = call->logits + (row % batch * call->stride + row / batch) * VOCABULARY;
        for (int i = 0; i < VOCABULARY; i++) {
            logits[i] = call->work.logits[row * VP + (size_t)i];
            call->finite &= logits[i] - logits[i] == 0.0f;
        }
    }
}

/* Logits of all rows; in every call, whether all numbers were finite. */
static void forward(const pass_t *pass)
{
    for (int32_t i = 0; i < pass->number; i++)
        start_rows(&pass->calls[i]);
    for (int block = 0; block <= BLOCKS; block++) {
        for (int32_t i = 0; i < pass->number; i++)
            show_stream(&pass->calls[i], block);
        if (block < BLOCKS)
            run_block(pass, block);
    }
    normalize_all(pass);
    multiply(&pass->weights->head, pass->work.normalized, EP, pass->work.logits, VP, pass->rows, 0, &pass->work);
    for (int32_t i = 0; i < pass->number; i++)
        give_logits(&pass->calls[i]);
}
