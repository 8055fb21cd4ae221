/* Steps and prefill: checks, then at most CAUSALRN_ROWS rows at once through the kernel that the session has chosen.
 *
 * Needs work.h and instruction_sets.h. */

static int run_rows(const call_t *call)
{
#ifdef CAUSALRN_DISPATCH
    if (call->session->isa == CAUSALRN_AVX512)
        return forward_avx512(call);
    if (call->session->isa == CAUSALRN_AVX2)
        return forward_avx2(call);
#endif
    return forward_portable(call);
}

int causalrn_prefill(causalrn_session *session, const int32_t *tokens, int32_t time, float *logits)
{
    const int32_t batch = session->batch, at_once = batch >= CAUSALRN_ROWS ? 1 : CAUSALRN_ROWS / batch;
    const int32_t start = session->position;
    void *before[CAUSALRN_TENSORS];
    if (time < 1)
        return CAUSALRN_WRONG_SIZE;
    if ((HAS_POOL || CAUSALRN_POSITIONS != 0) && time > session->capacity - session->position)
        return CAUSALRN_FULL;
    for (int64_t i = 0; i < (int64_t)batch * time; i++)
        if (tokens[i] < 0 || tokens[i] >= VOCABULARY)
            return CAUSALRN_WRONG_TOKEN;
    for (int i = 0; i < CAUSALRN_TENSORS; i++)
        before[i] = session->past[i];
    for (int32_t taken = 0; taken < time; taken += at_once) {
        const int32_t count = time - taken < at_once ? time - taken : at_once;
        const call_t call = {session->weights, session, tokens + taken, (size_t)time,
                             count,            logits + (size_t)taken * VOCABULARY};
        const int code = run_rows(&call);
        if (code != CAUSALRN_OK) {
            session->position = start;
            for (int i = 0; i < CAUSALRN_TENSORS; i++)
                session->past[i] = before[i];
            return code;
        }
        session->position += count;
        if (session->past[0] != session->next[0] && !HAS_POOL) /* the next rows go on from what was written */
            for (int i = 0; i < CAUSALRN_TENSORS; i++)
                session->past[i] = session->next[i];
    }
    return CAUSALRN_OK;
}

int causalrn_step(causalrn_session *session, const int32_t *tokens, float *logits)
{
    return causalrn_prefill(session, tokens, 1, logits);
}
