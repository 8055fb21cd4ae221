/* Sessions: sizes, opening, resetting.
 *
 * Needs sizes.h and instruction_sets.h. */

static size_t tensor_size(int index, int32_t batch, int32_t capacity)
{
    const size_t rows = CAUSALRN_STATE_ROWS(batch, capacity);
    if (CAUSALRN_POOL_BITS == 8 && index % PER_BLOCK == 1)
        return CAUSALRN_BYTES(rows, sizeof(float));
    return CAUSALRN_BYTES(rows * HP, CAUSALRN_POOL_BITS / 8u);
}

static int sizes_are_possible(int32_t batch, int32_t capacity)
{
    return batch >= 1 && capacity >= 1 && (CAUSALRN_POSITIONS == 0 || capacity <= CAUSALRN_POSITIONS);
}

size_t causalrn_session_size(int32_t batch, int32_t capacity)
{
    return sizes_are_possible(batch, capacity) ? CAUSALRN_SESSION_BYTES(batch, capacity) : 0;
}

int causalrn_open_at(causalrn_session *session, const causalrn_weights *weights, void *state, size_t state_size, void *work,
                     size_t work_size, int32_t batch, int32_t capacity)
{
    unsigned char *next = state;
    if (!sizes_are_possible(batch, capacity))
        return CAUSALRN_WRONG_SIZE;
    if ((uintptr_t)state % sizeof(float) != 0 || (uintptr_t)work % sizeof(float) != 0)
        return CAUSALRN_MISALIGNED;
    if (state_size < CAUSALRN_STATE_BYTES(batch, capacity) || work_size < CAUSALRN_WORK_BYTES(batch, capacity))
        return CAUSALRN_TOO_SMALL;
    *session = (causalrn_session){0};
    session->weights = weights;
    session->batch = batch;
    session->capacity = capacity;
    session->threads = 1;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        session->past[i] = session->next[i] = next;
        next += tensor_size(i, batch, capacity);
    }
    session->work = work;
    causalrn_choose_isa(session, CAUSALRN_BEST);
    causalrn_reset(session);
    return CAUSALRN_OK;
}

int causalrn_open(causalrn_session *session, const causalrn_weights *weights, void *memory, size_t size, int32_t batch,
                  int32_t capacity)
{
    const size_t state_size = sizes_are_possible(batch, capacity) ? CAUSALRN_STATE_BYTES(batch, capacity) : 0;
    const size_t taken = state_size < size ? state_size : size;
    return causalrn_open_at(session, weights, memory, taken, (unsigned char *)memory + taken, size - taken, batch, capacity);
}

void causalrn_reset(causalrn_session *session)
{
    session->position = 0;
    if (!HAS_POOL) /* rows of a pool are written before they are read */
        for (int i = 0; i < CAUSALRN_TENSORS; i++) {
            float *values = session->past[i];
            for (size_t j = 0; j < (size_t)session->batch * HP; j++)
                values[j] = 0.0f;
        }
}
