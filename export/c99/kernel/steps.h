/* Steps and prefill: checks, then passes of at most CAUSALRN_ROWS rows through the kernel that the sessions have chosen.
 *
 * Needs work.h and instruction_sets.h. */

static void run_pass(const pass_t *pass, int isa)
{
#ifdef CAUSALRN_DISPATCH
    if (isa == CAUSALRN_AVX512) {
        forward_avx512(pass);
        return;
    }
    if (isa == CAUSALRN_AVX2) {
        forward_avx2(pass);
        return;
    }
#else
    (void)isa;
#endif
    forward_portable(pass);
}

/* Why a request cannot be taken, whatever others there are. */
static int check_request(const causalrn_request *request)
{
    const causalrn_session *session = request->session;
    if (request->time < 1)
        return CAUSALRN_WRONG_SIZE;
    if (request->time > (HAS_POOL || CAUSALRN_POSITIONS != 0 ? session->capacity : INT32_MAX) - session->position)
        return CAUSALRN_FULL;
    for (int64_t i = 0; i < (int64_t)session->batch * request->time; i++)
        if (request->tokens[i] < 0 || request->tokens[i] >= VOCABULARY)
            return CAUSALRN_WRONG_TOKEN;
    return CAUSALRN_OK;
}

/* Check all requests, and mark their sessions: none may be there twice. */
static void check_requests(causalrn_request *requests, int32_t number)
{
    const causalrn_session *first = requests[0].session;
    for (int32_t i = 0; i < number; i++) {
        causalrn_session *session = requests[i].session;
        requests[i].code = check_request(&requests[i]);
        if (session->is_taken || session->weights != first->weights || session->isa != first->isa)
            requests[i].code = CAUSALRN_MIXED;
        else
            session->is_taken = 1;
    }
    for (int32_t i = 0; i < number; i++)
        requests[i].session->is_taken = 0;
}

/* How far requests have come. Only one of them is ever half done: the one at `index`. */
typedef struct {
    causalrn_request *requests;
    int32_t number, index;
    int32_t taken;                  /* tokens of requests[index] */
    void *before[CAUSALRN_TENSORS]; /* its state before the first of them */
} queue_t;

/* Fill a pass from the queue; gives how many calls that are. */
static int32_t fill_pass(pass_t *pass, queue_t *queue)
{
    int32_t taken = queue->taken;
    pass->number = 0;
    pass->rows = 0;
    for (int32_t index = queue->index; index < queue->number; index++, taken = 0) {
        const causalrn_request *request = &queue->requests[index];
        causalrn_session *session = request->session;
        const size_t batch = (size_t)session->batch, room = CAUSALRN_ROWS - pass->rows;
        call_t *call = &pass->calls[pass->number];
        int32_t time = request->time - taken;
        if (request->code != CAUSALRN_OK)
            continue;
        if (batch * (size_t)time > room)
            time = (int32_t)(room / batch);
        if (time == 0 && pass->rows > 0)
            break;
        time = time > 0 ? time : 1; /* a batch of more than CAUSALRN_ROWS sequences has room for itself */
        if (pass->number == 0)
            lay_out_work(&pass->work, session);
        *call = (call_t){session, request->tokens + taken, request->logits + (size_t)taken * VOCABULARY,
                         (size_t)request->time, pass->rows, time, 1, 0, work_from(&pass->work, pass->rows, session)};
        pass->number++;
        pass->rows += batch * (size_t)time;
        if (pass->rows >= CAUSALRN_ROWS || time < request->time - taken)
            break;
    }
    if (pass->number > 0)
        pass->calls[pass->number - 1].is_last = 1;
    return pass->number;
}

static void keep_state(queue_t *queue, const causalrn_session *session)
{
    for (int i = 0; i < CAUSALRN_TENSORS; i++)
        queue->before[i] = session->past[i];
}

/* Take over what a call has computed of requests[index], or undo all of the request. */
static void finish_call(queue_t *queue, const call_t *call)
{
    causalrn_request *request = &queue->requests[queue->index];
    causalrn_session *session = call->session;
    if (queue->taken == 0)
        keep_state(queue, session);
    if (!call->finite) {
        request->code = CAUSALRN_NOT_FINITE;
        session->position -= queue->taken;
        for (int i = 0; i < CAUSALRN_TENSORS; i++)
            session->past[i] = queue->before[i];
    } else {
        session->position += call->time;
        if (session->past[0] != session->next[0] && !HAS_POOL) /* the next rows go on from what was written */
            for (int i = 0; i < CAUSALRN_TENSORS; i++)
                session->past[i] = session->next[i];
    }
    queue->taken += call->time;
    if (request->code != CAUSALRN_OK || queue->taken == request->time) {
        queue->index++;
        queue->taken = 0;
    }
}

int causalrn_step_many(causalrn_request *requests, int32_t number)
{
    queue_t queue = {requests, number, 0, 0, {NULL}};
    call_t calls[CAUSALRN_ROWS];
    if (number < 1)
        return CAUSALRN_WRONG_SIZE;
    check_requests(requests, number);
    pass_t pass = {.weights = requests[0].session->weights, .calls = calls};
    while (fill_pass(&pass, &queue) > 0) {
        run_pass(&pass, requests[0].session->isa);
        for (int32_t i = 0; i < pass.number; i++) {
            while (requests[queue.index].code != CAUSALRN_OK) /* refused: not in the pass */
                queue.index++;
            finish_call(&queue, &calls[i]);
        }
    }
    for (int32_t i = 0; i < number; i++)
        if (requests[i].code != CAUSALRN_OK)
            return requests[i].code;
    return CAUSALRN_OK;
}

int causalrn_prefill(causalrn_session *session, const int32_t *tokens, int32_t time, float *logits)
{
    causalrn_request request = {session, tokens, logits, time, CAUSALRN_OK};
    return causalrn_step_many(&request, 1);
}

int causalrn_step(causalrn_session *session, const int32_t *tokens, float *logits)
{
    return causalrn_prefill(session, tokens, 1, logits);
}
