/* Slots: sequences whose memory grows with them.
 *
 * Needs memory.h and models.h. */

enum {
    SETS = CAUSALRN_HAS_POOL ? 1 : 2, /* states of constant size go from one set of tensors to the other */
    LEAST_ROWS = 64                   /* of a pool: room for so many positions at first */
};

typedef struct {
    causalrn_session session;
    void *state; /* CAUSALRN_STATE_BYTES of every set; NULL: the slot is free */
    float logits[CAUSALRN_VOCABULARY];
} slot_t;

struct crn_session {
    const crn_model *model;
    int32_t capacity; /* 0: no bound */
    int kernel;       /* of all its slots, whatever the model's becomes */
    slot_t **slots;
    int32_t number; /* of slots, free ones among them */
    void *work;     /* shared by all slots, for `work_rows` positions */
    int32_t work_rows;
    causalrn_request *requests;
    int32_t room; /* of requests */
};

/* Positions that a slot has room for at first. */
static int32_t first_rows(const crn_session *session)
{
    if (!CAUSALRN_HAS_POOL && CAUSALRN_POSITIONS == 0)
        return 1;
    if (CAUSALRN_HAS_POOL && (session->capacity == 0 || session->capacity > LEAST_ROWS))
        return LEAST_ROWS;
    return session->capacity;
}

/* Have working memory for pools of so many positions. */
static int widen_work(crn_session *session, int32_t rows)
{
    void *work;
    if (session->work != NULL && rows <= session->work_rows)
        return CRN_OK;
    work = take_memory(CAUSALRN_WORK_BYTES(1, rows));
    if (work == NULL)
        return CRN_NO_MEMORY;
    free_memory(session->work);
    session->work = work;
    session->work_rows = rows;
    return CRN_OK;
}

/* A state of so many positions, zeros where it is of constant size; `made` has its places. */
static int make_state(const crn_session *session, int32_t rows, causalrn_session *made, void **state)
{
    const size_t size = CAUSALRN_STATE_BYTES(1, rows);
    int code;
    *state = size <= SIZE_MAX / SETS ? take_memory(SETS * size) : NULL;
    if (*state == NULL)
        return CRN_NO_MEMORY;
    code = causalrn_open_at(made, &session->model->weights, *state, size, session->work, CAUSALRN_WORK_BYTES(1, rows), 1, rows);
    if (code != CRN_OK) {
        free_memory(*state);
        return code;
    }
    causalrn_choose_isa(made, session->kernel);
    return CRN_OK;
}

/* Have room for so many positions; what is there stays. */
static int grow_slot(crn_session *session, slot_t *slot, int32_t positions)
{
    const int32_t rows = slot->session.capacity, most = session->capacity != 0 ? session->capacity : INT32_MAX;
    causalrn_session grown;
    void *state;
    int32_t wanted = rows > most / 2 ? most : 2 * rows;
    int code;
    if (!CAUSALRN_HAS_POOL || positions <= rows)
        return CRN_OK;
    wanted = wanted > positions ? wanted : positions;
    code = widen_work(session, wanted);
    if (code == CRN_OK)
        code = make_state(session, wanted, &grown, &state);
    if (code != CRN_OK)
        return code;
    for (int i = 0; i < CAUSALRN_TENSORS; i++)
        memcpy(grown.past[i], slot->session.past[i], (size_t)slot->session.position * tensor_row_bytes(i));
    grown.position = slot->session.position;
    free_memory(slot->state);
    slot->state = state;
    slot->session = grown;
    return CRN_OK;
}

/* A slot in use, or NULL. */
static slot_t *slot_at(const crn_session *session, int32_t slot)
{
    const int is_there = slot >= 0 && slot < session->number && session->slots[slot]->state != NULL;
    return is_there ? session->slots[slot] : NULL;
}

/* A free slot, made if there is none. */
static int free_slot(crn_session *session, int32_t *number)
{
    slot_t **slots;
    for (*number = 0; *number < session->number; (*number)++)
        if (session->slots[*number]->state == NULL)
            return CRN_OK;
    if (session->number == INT32_MAX)
        return CRN_NO_MEMORY;
    slots = realloc(session->slots, ((size_t)session->number + 1) * sizeof *slots);
    if (slots == NULL)
        return CRN_NO_MEMORY;
    session->slots = slots;
    slots[session->number] = calloc(1, sizeof **slots);
    if (slots[session->number] == NULL)
        return CRN_NO_MEMORY;
    session->number++;
    return CRN_OK;
}

static int admit(crn_session *session, int32_t *slot)
{
    int32_t number = 0;
    slot_t *taken;
    int code = free_slot(session, &number);
    if (code != CRN_OK)
        return code;
    taken = session->slots[number];
    code = make_state(session, first_rows(session), &taken->session, &taken->state);
    if (code != CRN_OK) {
        taken->state = NULL;
        return code;
    }
    *slot = number;
    return CRN_OK;
}

static int release(crn_session *session, int32_t slot)
{
    slot_t *taken = slot_at(session, slot);
    if (taken == NULL)
        return CRN_NO_SLOT;
    free_memory(taken->state);
    taken->state = NULL;
    return CRN_OK;
}

static int reset(crn_session *session, int32_t slot)
{
    slot_t *taken = slot_at(session, slot);
    if (taken == NULL)
        return CRN_NO_SLOT;
    causalrn_reset(&taken->session);
    return CRN_OK;
}

static int copy(crn_session *session, int32_t from, int32_t *slot)
{
    const slot_t *source = slot_at(session, from);
    const causalrn_session *old;
    int32_t number;
    slot_t *made;
    int code;
    if (source == NULL)
        return CRN_NO_SLOT;
    code = admit(session, &number);
    if (code != CRN_OK)
        return code;
    old = &source->session;
    made = session->slots[number];
    code = grow_slot(session, made, old->position);
    if (code != CRN_OK) {
        release(session, number);
        return code;
    }
    for (int i = 0; i < CAUSALRN_TENSORS; i++)
        memcpy(made->session.past[i], old->past[i], (CAUSALRN_HAS_POOL ? (size_t)old->position : 1u) * tensor_row_bytes(i));
    made->session.position = old->position;
    memcpy(made->logits, source->logits, sizeof made->logits);
    *slot = number;
    return CRN_OK;
}

static int position_of(const crn_session *session, int32_t slot, int32_t *position)
{
    const slot_t *taken = slot_at(session, slot);
    if (taken == NULL)
        return CRN_NO_SLOT;
    *position = taken->session.position;
    return CRN_OK;
}

static int logits_of(const crn_session *session, int32_t slot, float *logits)
{
    const slot_t *taken = slot_at(session, slot);
    if (taken == NULL)
        return CRN_NO_SLOT;
    if (taken->session.position == 0)
        return CRN_NO_LOGITS;
    memcpy(logits, taken->logits, sizeof taken->logits);
    return CRN_OK;
}

static size_t memory_of(const crn_session *session)
{
    size_t bytes = session->work != NULL ? CAUSALRN_WORK_BYTES(1, session->work_rows) : 0;
    for (int32_t i = 0; i < session->number; i++)
        if (session->slots[i]->state != NULL)
            bytes += SETS * CAUSALRN_STATE_BYTES(1, session->slots[i]->session.capacity) + sizeof(slot_t);
    return bytes;
}

static void close_session(crn_session *session)
{
    if (session == NULL)
        return;
    for (int32_t i = 0; i < session->number; i++) {
        free_memory(session->slots[i]->state);
        free(session->slots[i]);
    }
    free(session->slots);
    free(session->requests);
    free_memory(session->work);
    free(session);
}

static int open_session(const crn_model *model, int32_t capacity, crn_session **session)
{
    crn_session *made;
    if (capacity < 0 || (CAUSALRN_CAPACITY != 0 && capacity > CAUSALRN_CAPACITY))
        return CRN_WRONG_SIZE;
    made = calloc(1, sizeof *made);
    if (made == NULL)
        return CRN_NO_MEMORY;
    made->model = model;
    made->kernel = kernel_of(model);
    made->capacity = capacity != 0 ? capacity : CAUSALRN_CAPACITY;
    if (widen_work(made, first_rows(made)) != CRN_OK) {
        close_session(made);
        return CRN_NO_MEMORY;
    }
    *session = made;
    return CRN_OK;
}
