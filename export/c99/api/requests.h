/* Tokens for slots.
 *
 * Needs slots.h. */

/* Have room for so many requests at once. */
static int widen_requests(crn_session *session, int32_t number)
{
    causalrn_request *requests;
    if (number <= session->room)
        return CRN_OK;
    requests = realloc(session->requests, (size_t)number * sizeof *requests);
    if (requests == NULL)
        return CRN_NO_MEMORY;
    session->requests = requests;
    session->room = number;
    return CRN_OK;
}

/* Where a slot's next state goes: beside the one that it has. */
static void place_next(slot_t *slot)
{
    if (SETS == 1)
        return;
    const size_t set = CAUSALRN_STATE_BYTES(1, slot->session.capacity);
    unsigned char *const first = slot->state, *const now = slot->session.past[0];
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        unsigned char *const place = slot->session.past[i];
        slot->session.next[i] = now < first + set ? place + set : place - set;
    }
}

/* Ready a request; its logits go to `logits`, [time][V], where the caller wants none. */
static int prepare(crn_session *session, const crn_request *given, causalrn_request *request)
{
    slot_t *slot = slot_at(session, given->slot);
    int code;
    if (slot == NULL)
        return CRN_NO_SLOT;
    if (given->time < 1)
        return CRN_WRONG_SIZE;
    if (given->time > (session->capacity != 0 ? session->capacity : INT32_MAX) - slot->session.position)
        return CRN_FULL;
    code = grow_slot(session, slot, slot->session.position + given->time);
    if (code != CRN_OK)
        return code;
    place_next(slot);
    request->session = &slot->session;
    request->tokens = given->tokens;
    request->logits = given->logits != NULL ? given->logits : malloc((size_t)given->time * sizeof slot->logits);
    request->time = given->time;
    request->code = CRN_OK;
    return request->logits != NULL ? CRN_OK : CRN_NO_MEMORY;
}

static int step_many(crn_session *session, crn_request *requests, int32_t number)
{
    int32_t ready = 0;
    int first = CRN_OK;
    if (number < 1)
        return CRN_WRONG_SIZE;
    if (widen_requests(session, number) != CRN_OK)
        return CRN_NO_MEMORY;
    for (int32_t i = 0; i < number; i++) {
        requests[i].code = prepare(session, &requests[i], &session->requests[ready]);
        ready += requests[i].code == CRN_OK;
    }
    for (int32_t i = 0; i < ready; i++) /* memory may have moved while later ones were readied */
        session->requests[i].session->work = session->work;
    if (ready > 0)
        causalrn_step_many(session->requests, ready);
    ready = 0;
    for (int32_t i = 0; i < number; i++) {
        if (requests[i].code == CRN_OK) {
            const causalrn_request *done = &session->requests[ready++];
            slot_t *slot = session->slots[requests[i].slot];
            requests[i].code = done->code;
            if (done->code == CRN_OK)
                memcpy(slot->logits, done->logits + (size_t)(done->time - 1) * CAUSALRN_VOCABULARY, sizeof slot->logits);
            if (requests[i].logits == NULL)
                free(done->logits);
        }
        first = first == CRN_OK ? requests[i].code : first;
    }
    return first;
}

static int prefill(crn_session *session, int32_t slot, const int32_t *tokens, int32_t time, float *logits)
{
    crn_request request = {slot, time, tokens, logits, CRN_OK};
    return step_many(session, &request, 1);
}

static int step(crn_session *session, int32_t slot, int32_t token, float *logits)
{
    return prefill(session, slot, &token, 1, logits);
}
