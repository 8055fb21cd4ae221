/* Helpers that wait for work: busily for some microseconds, for the next block comes soon, then asleep. Needs POSIX
 * threads and the atomics of GCC or Clang. */
#include "causalrn_threads.h"

enum { SPINS = 20000 };

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

static uint32_t look(const uint32_t *value) { return __atomic_load_n(value, __ATOMIC_SEQ_CST); }

/* Wait until there is a call after `seen`; gives its number. */
static uint32_t next_call(causalrn_threads *pool, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (look(&pool->call) != seen)
            return look(&pool->call);
        RELAX();
    }
    pthread_mutex_lock(&pool->mutex);
    __atomic_add_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    while (look(&pool->call) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    __atomic_sub_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->mutex);
    return look(&pool->call);
}

static void announce(causalrn_threads *pool)
{
    __atomic_store_n(&pool->running, (uint32_t)pool->started, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&pool->call, 1, __ATOMIC_SEQ_CST);
    if (look(&pool->asleep) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *help(void *argument)
{
    causalrn_worker *worker = argument;
    causalrn_threads *pool = worker->pool;
    for (uint32_t seen = 0;;) {
        seen = next_call(pool, seen);
        if (pool->stopped)
            return NULL;
        if (worker->part < pool->parts)
            pool->work(pool->argument, worker->part);
        __atomic_sub_fetch(&pool->running, 1, __ATOMIC_SEQ_CST);
    }
}

static void run(void *argument, int32_t parts, void (*work)(void *argument, int32_t part), void *work_argument)
{
    causalrn_threads *pool = argument;
    pool->parts = parts;
    pool->work = work;
    pool->argument = work_argument;
    announce(pool);
    work(work_argument, 0);
    while (look(&pool->running) > 0)
        RELAX();
}

int32_t causalrn_threads_start(causalrn_threads *pool, int32_t threads, causalrn_session *session)
{
    const causalrn_threads fresh = {.started = 0};
    *pool = fresh;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (; pool->started < threads - 1 && pool->started < CAUSALRN_THREADS - 1; pool->started++) {
        causalrn_worker *worker = &pool->workers[pool->started];
        worker->pool = pool;
        worker->part = pool->started + 1;
        if (pthread_create(&worker->thread, NULL, help, worker) != 0)
            break;
    }
    session->threads = pool->started + 1;
    session->parallel = run;
    session->pool = pool;
    return session->threads;
}

void causalrn_threads_stop(causalrn_threads *pool, causalrn_session *session)
{
    session->threads = 1;
    session->parallel = NULL;
    pool->stopped = 1;
    announce(pool);
    for (int32_t i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}
