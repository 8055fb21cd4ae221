/* What Python calls: the bundle's source with its structures kept on this side, so that their layout is nobody's
 * business. Arguments are addresses and numbers. */
#if defined(__unix__) || defined(__APPLE__)
#define CAUSALRN_THREADS 64
#define HAS_THREADS 1
#endif
#include "causalrn.c"
#if HAS_THREADS
#include "causalrn_threads.c"
#endif

#include <stdlib.h>

#ifndef CAUSALRN_POOL_BITS /* source that was written before there were pools of float16 */
#define CAUSALRN_POOL_BITS (CAUSALRN_POOL8 ? 8 : 32)
#endif

#ifndef CAUSALRN_INTERFACE /* source that was written before there was causalrn_step_many */
#define CAUSALRN_INTERFACE 1
#endif

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

typedef struct {
    causalrn_weights weights;
    causalrn_session session, opened; /* the second one by causalrn_open, as programs have theirs */
    const int32_t *tokens; /* [B] and [B][V]: where steps find their tokens and leave their logits */
    float *logits;
#if HAS_THREADS
    causalrn_threads threads;
#endif
} causalrn_native;

/* Sizes that the Python side checks against the manifest. */
EXPORT void native_describe(int32_t *sizes)
{
    sizes[0] = CAUSALRN_VERSION;
    sizes[1] = CAUSALRN_TENSORS;
    sizes[2] = CAUSALRN_HP;
    sizes[3] = CAUSALRN_EP;
    sizes[4] = CAUSALRN_ROWS;
    sizes[5] = VOCABULARY;
    sizes[6] = BLOCKS;
    sizes[7] = CAUSALRN_POOL_BITS;
    sizes[8] = CAUSALRN_INTERFACE;
}

EXPORT causalrn_native *native_create(void) { return calloc(1, sizeof(causalrn_native)); }

/* Have so many threads, or as many as there can be; gives how many there are. */
EXPORT int32_t native_start_threads(causalrn_native *native, int32_t threads)
{
#if HAS_THREADS
    return threads > 1 ? causalrn_threads_start(&native->threads, threads, &native->session) : 1;
#else
    (void)native, (void)threads;
    return 1;
#endif
}

EXPORT void native_free(causalrn_native *native)
{
#if HAS_THREADS
    if (native->session.parallel != NULL)
        causalrn_threads_stop(&native->threads, &native->session);
#endif
    free(native);
}

/* Check the weights that Python read, or take those that were compiled in. */
EXPORT int native_load(causalrn_native *native, const void *file, size_t size)
{
    native->session.weights = &native->weights;
    causalrn_choose_isa(&native->session, CAUSALRN_BEST);
#if CAUSALRN_WEIGHTS_INLINE
    (void)file, (void)size;
    return causalrn_use(&native->weights, causalrn_payload);
#else
    return causalrn_load(&native->weights, file, size);
#endif
}

EXPORT int native_choose_isa(causalrn_native *native, int isa) { return causalrn_choose_isa(&native->session, isa); }

EXPORT size_t native_session_size(int32_t batch, int32_t capacity) { return causalrn_session_size(batch, capacity); }

EXPORT size_t native_work_size(int32_t batch, int32_t capacity) { return CAUSALRN_WORK_BYTES(batch, capacity); }

/* Say how many sequences and positions there are from now on, where to work, and what steps read and write. */
EXPORT void native_place(causalrn_native *native, int32_t batch, int32_t capacity, void *work, const int32_t *tokens,
                         float *logits)
{
    native->session.batch = batch;
    native->session.capacity = capacity;
    native->session.work = work;
    native->tokens = tokens;
    native->logits = logits;
}

static causalrn_session *at(causalrn_native *native, int32_t position, void *const *past, void *const *next, float *streams)
{
    causalrn_session *session = &native->session;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        session->past[i] = past[i];
        session->next[i] = next[i];
    }
    session->position = position;
    session->streams = streams;
    return session;
}

/* Take a step at a position: from the tensors `past` to the tensors `next`. */
EXPORT int native_step(causalrn_native *native, int32_t position, void *const *past, void *const *next)
{
    return causalrn_step(at(native, position, past, next, NULL), native->tokens, native->logits);
}

/* The same for tokens [B][T]; `streams` may be NULL. */
EXPORT int native_prefill(causalrn_native *native, int32_t position, void *const *past, void *const *next,
                          const int32_t *tokens, int32_t time, float *logits, float *streams)
{
    return causalrn_prefill(at(native, position, past, next, streams), tokens, time, logits);
}

/* Tokens of one of several sequences, whose states Python keeps. */
typedef struct {
    int32_t position, capacity, time;
    const int32_t *tokens; /* [time] */
    float *logits;         /* [time][V] */
    void *const *past, *const *next;
} native_request;

/* Take the tokens of all requests, weights being read once for many; gives the first code that is not CAUSALRN_OK. */
EXPORT int native_step_many(causalrn_native *native, const native_request *given, int32_t number, void *work)
{
#if CAUSALRN_INTERFACE >= 2
    causalrn_session *sessions = malloc((size_t)number * sizeof *sessions);
    causalrn_request *requests = malloc((size_t)number * sizeof *requests);
    int code = CAUSALRN_TOO_SMALL;
    for (int32_t i = 0; sessions != NULL && requests != NULL && i < number; i++) {
        causalrn_session *session = &sessions[i];
        *session = native->session;
        session->batch = 1;
        session->position = given[i].position;
        session->capacity = given[i].capacity;
        session->work = work;
        session->streams = NULL;
        for (int k = 0; k < CAUSALRN_TENSORS; k++) {
            session->past[k] = given[i].past[k];
            session->next[k] = given[i].next[k];
        }
        requests[i] = (causalrn_request){session, given[i].tokens, given[i].logits, given[i].time, CAUSALRN_OK};
    }
    if (sessions != NULL && requests != NULL)
        code = causalrn_step_many(requests, number);
    free(sessions);
    free(requests);
    return code;
#else
    (void)native, (void)given, (void)number, (void)work;
    return CAUSALRN_WRONG_VERSION;
#endif
}

EXPORT const char *native_message(int code) { return causalrn_message(code); }

/* ---- the interface as programs call it: a session that causalrn_open has set up ------------------------------------ */

EXPORT int opened_open(causalrn_native *native, void *memory, size_t size, int32_t batch, int32_t capacity)
{
    return causalrn_open(&native->opened, &native->weights, memory, size, batch, capacity);
}

EXPORT int opened_reset(causalrn_native *native)
{
    causalrn_reset(&native->opened);
    return CAUSALRN_OK;
}

EXPORT int32_t opened_position(causalrn_native *native) { return native->opened.position; }

EXPORT int opened_choose_isa(causalrn_native *native, int isa) { return causalrn_choose_isa(&native->opened, isa); }

EXPORT int opened_step(causalrn_native *native, const int32_t *tokens, float *logits)
{
    return causalrn_step(&native->opened, tokens, logits);
}

EXPORT int opened_prefill(causalrn_native *native, const int32_t *tokens, int32_t time, float *logits)
{
    return causalrn_prefill(&native->opened, tokens, time, logits);
}

/* What causalrn_load says of a file, whatever the weights in use. */
EXPORT int opened_load(causalrn_native *native, const void *file, size_t size)
{
    causalrn_weights others;
    (void)native;
    return causalrn_load(&others, file, size);
}
