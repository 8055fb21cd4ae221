/* One call: embeddings, blocks, logits.
 *
 * Needs all of the kernel before it. Gives forward. */

#define finish NAME(finish)
#define run_block NAME(run_block)
#define start_rows NAME(start_rows)
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

/* One block for all rows: x [rows][EP] -> x + W3 o + b3. 0 where a mean square overflows. */
static int run_block(const call_t *call, const work_t *work, int block)
{
    const causalrn_session *s = call->session;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
    int finite = 1;
    for (size_t row = 0; row < rows; row++)
        finite &= normalize(work->x + row * EP, work->normalized + row * EP, EP, EMBEDDING);
    multiply(&call->weights->w12[block], work->normalized, EP, work->ab, 2 * HP, rows, 0, work);
#if CAUSALRN_HAS_POOL
    for (size_t row = 0; row < rows; row++) {
        float *ab = work->ab + row * 2 * HP;
        if (CAUSALRN_READOUT == CAUSALRN_LINEAR)
            finite &= normalize(ab, ab, HP, HIDDEN) & normalize(ab + HP, ab + HP, HP, HIDDEN);
        finite &= append_row(s, block, (size_t)s->position * batch + row, ab + HP);
    }
    read_pool(call, work, block);
#else
    for (size_t row = 0; row < rows; row++)
        read_sums(s, block, row % batch, row / batch, work->ab + row * 2 * HP, work->o + row * HP);
#endif
    for (size_t row = 0; row < rows; row++)
        finite &= finish(work->o + row * HP, s->position + (int32_t)(row / batch));
    multiply(&call->weights->w3[block], work->o, HP, work->x, EP, rows, 1, work);
    return finite;
}

/* Embeddings of the tokens and their positions, time-major. */
CAUSALRN_INLINE void start_rows(const call_t *call, const work_t *work)
{
    const size_t batch = (size_t)call->session->batch, rows = (size_t)call->time * batch;
    for (size_t row = 0; row < rows; row++) {
        const size_t time = row / batch, token = (size_t)call->tokens[row % batch * call->stride + time];
        const float *place = call->weights->wpe + ((size_t)call->session->position + time) * EP;
        for (int i = 0; i < EP; i += LANES) {
            const lanes value = load(call->weights->wte + token * EP + i);
            store(work->x + row * EP + i, CAUSALRN_POSITIONS ? add(value, load(place + i)) : value);
        }
    }
}

static int forward(const call_t *call)
{
    causalrn_session *s = call->session;
    const size_t batch = (size_t)s->batch, rows = (size_t)call->time * batch;
    work_t work;
    int finite = 1;
    lay_out_work(&work, s->work, s->batch, s->capacity);
    start_rows(call, &work);
    for (int block = 0; block <= BLOCKS; block++) {
        if (s->streams != NULL)
            for (size_t i = 0; i < rows * EP; i++)
                s->streams[(size_t)block * rows * EP + i] = work.x[i];
        if (block < BLOCKS)
            finite &= run_block(call, &work, block);
    }
    for (size_t row = 0; row < rows; row++)
        finite &= normalize(work.x + row * EP, work.normalized + row * EP, EP, EMBEDDING);
    multiply(&call->weights->head, work.normalized, EP, work.logits, VP, rows, 0, &work);
    for (size_t row = 0; row < rows; row++) {
        float *logits = call->logits + (row % batch * call->stride + row / batch) * VOCABULARY;
        for (int i = 0; i < VOCABULARY; i++) {
            logits[i] = work.logits[row * VP + (size_t)i];
            finite &= logits[i] - logits[i] == 0.0f;
        }
    }
    return finite ? CAUSALRN_OK : CAUSALRN_NOT_FINITE;
}
