/* Tasks shared out to threads: those of OpenMP where it is compiled in, because they wait for work at full speed for a
   while after every product of matrices, and would hold up any others; else threads of their own. */

#include <pthread.h>
#include <stdint.h>
#include <stddef.h>

#define MAX_THREADS 256

/* Gives the tasks 0..count-1 out to threads, one at a time, until none is left. */
typedef struct {
  int (*task)(void *, int32_t);
  void *of;
  int32_t next, count, failed;
} Work;

static void *work(void *given) {
  Work *w = given;
  for (int32_t i; (i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->count;)
    if (!w->task(w->of, i)) __atomic_store_n(&w->failed, 1, __ATOMIC_RELAXED);
  return NULL;
}

static int share(int (*task)(void *, int32_t), void *of, int32_t count, int32_t threads) {
  Work w = {task, of, 0, count, 0};
#ifdef _OPENMP
  int wanted = threads < count ? threads : count;
#pragma omp parallel num_threads(wanted > 1 ? wanted : 1)
  work(&w);
#else
  pthread_t others[MAX_THREADS];
  int32_t started = 0, wanted = (threads < count ? threads : count) - 1;
  while (started < wanted && started < MAX_THREADS && !pthread_create(&others[started], NULL, work, &w)) started++;
  work(&w);
  while (started > 0) pthread_join(others[--started], NULL);
#endif
  return !w.failed;
}
