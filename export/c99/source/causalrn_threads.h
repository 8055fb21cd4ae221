/* Optional: POSIX threads for pools of more than 512 rows. Compile everything with -DCAUSALRN_THREADS=2 (or more) and
 * causalrn_threads.c, and after causalrn_open:
 *
 *     static causalrn_threads threads;
 *     causalrn_threads_start(&threads, 2, &session);
 *
 * Results are the same, bit for bit, with any number of threads. */
#ifndef CAUSALRN_THREADS_H
#define CAUSALRN_THREADS_H

#include "causalrn.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct causalrn_threads causalrn_threads;

typedef struct {
    pthread_t thread;
    causalrn_threads *pool;
    int32_t part;
} causalrn_worker;

struct causalrn_threads {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    causalrn_worker workers[CAUSALRN_THREADS];
    int32_t started, parts, stopped;
    uint32_t call, asleep, running;
    void (*work)(void *argument, int32_t part);
    void *argument;
};

#define causalrn_threads_start CAUSALRN_PASTE(causalrn_threads_start, CAUSALRN_MODEL)
#define causalrn_threads_stop CAUSALRN_PASTE(causalrn_threads_stop, CAUSALRN_MODEL)

/* Start threads - 1 helpers and have the session use them; gives how many threads there are then, at most
 * CAUSALRN_THREADS. One set of helpers serves one session at a time. */
int32_t causalrn_threads_start(causalrn_threads *pool, int32_t threads, causalrn_session *session);

/* Stop the helpers; the session goes on alone. */
void causalrn_threads_stop(causalrn_threads *pool, causalrn_session *session);

#ifdef __cplusplus
}
#endif
#endif
