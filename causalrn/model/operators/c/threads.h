/* Tasks that threads take one after the other: who is held up by other work takes fewer, and nobody spins. */

#include <pthread.h>

enum { MOST_THREADS = 64, WORTH_A_THREAD = 1 << 16 }; /* elements: it takes tens of microseconds to start */

typedef int (*Task)(const void *work, int64_t index); /* returns OK or what went wrong */

typedef struct {
  Task task;
  const void *work;
  int64_t count, next;
  int status;
} Tasks;

static void *take_tasks(void *argument) {
  Tasks *tasks = argument;
  for (;;) {
    int64_t index = __atomic_fetch_add(&tasks->next, 1, __ATOMIC_RELAXED);
    if (index >= tasks->count) return NULL;
    int status = tasks->task(tasks->work, index);
    if (status != OK) __atomic_store_n(&tasks->status, status, __ATOMIC_RELAXED);
  }
}

/* The calling thread works, too. Where no thread can be started it does all there is to do. */
static int run_tasks(Task task, const void *work, int64_t count, int64_t elements, int64_t threads) {
  Tasks tasks = {task, work, count, 0, OK};
  pthread_t started[MOST_THREADS];
  int64_t wanted = threads < count ? threads : count, running = 0;
  if (wanted > elements / WORTH_A_THREAD) wanted = elements / WORTH_A_THREAD;
  if (wanted > MOST_THREADS) wanted = MOST_THREADS;
  while (running < wanted - 1 && pthread_create(&started[running], NULL, take_tasks, &tasks) == 0) running++;
  take_tasks(&tasks);
  while (running > 0) pthread_join(started[--running], NULL);
  return tasks.status;
}
