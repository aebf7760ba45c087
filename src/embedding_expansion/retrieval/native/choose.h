/* Which centre is nearest to a row: the products of bytes rule out nearly all, the distance of the others is taken. */

#define SPAN 256        /* centres that are ruled out at once */
#define MOST_SPANS 1024 /* runs whose maxima are kept; of more centres a run is wider */

typedef int32_t FN(Whole) __attribute__((vector_size(BYTES), aligned(4)));

TARGET INLINE float FN(score)(const Choice *c, int64_t i, int64_t j) {
  return c->unit[i] * ((float)c->table[i * c->k + j] * c->center_unit[j]) - c->half[j];
}

TARGET INLINE float FN(best_score)(const Choice *c, int64_t i, int64_t from, int64_t to) {
  FN(Vector) best = (FN(Vector)){0} - INFINITY;
  int64_t j = from;
  for (; j + LANES <= to; j += LANES) {
    FN(Vector) product = __builtin_convertvector(*(const FN(Whole) *)(c->table + i * c->k + j), FN(Vector));
    FN(Vector) score = c->unit[i] * (product * *(const FN(Vector) *)(c->center_unit + j)) -
                       *(const FN(Vector) *)(c->half + j);
    FN(Flags) better = (FN(Flags))(score > best);
    best = (FN(Vector))((better & (FN(Flags))score) | (~better & (FN(Flags))best));
  }
  float most = -INFINITY;
  for (int lane = 0; lane < LANES; lane++) most = best[lane] > most ? best[lane] : most;
  for (; j < to; j++) most = FN(score)(c, i, j) > most ? FN(score)(c, i, j) : most;
  return most;
}

TARGET static double FN(squared_distance)(const float *x, const float *y, int64_t d) {
  FN(Sums) sums = {0};
  int64_t k = 0;
  for (; k + WIDE <= d; k += WIDE) {
    FN(Sums) gap = __builtin_convertvector(*(const FN(Eight) *)(x + k), FN(Sums)) -
                   __builtin_convertvector(*(const FN(Eight) *)(y + k), FN(Sums));
    sums += gap * gap;
  }
  double sum = FN(total)(&sums);
  for (; k < d; k++) sum += ((double)x[k] - y[k]) * ((double)x[k] - y[k]);
  return sum;
}

TARGET static int64_t FN(choose_row)(const Choice *c, int64_t i, int64_t run) {
  float maxima[MOST_SPANS], top = -INFINITY;
  for (int64_t r = 0; r * run < c->k; r++) {
    maxima[r] = FN(best_score)(c, i, r * run, (r + 1) * run < c->k ? (r + 1) * run : c->k);
    top = maxima[r] > top ? maxima[r] : top;
  }
  float least = top - 2 * c->allowance[i];
  double nearest = INFINITY;
  int64_t looked_at = 0;
  for (int64_t r = 0; r * run < c->k; r++) {
    if (maxima[r] < least) continue;
    for (int64_t j = r * run; j < (r + 1) * run && j < c->k; j++) {
      if (FN(score)(c, i, j) < least) continue;
      looked_at++;
      double distance = FN(squared_distance)(c->rows + i * c->d, c->centers + j * c->d, c->d);
      if (distance < nearest) nearest = distance, c->nearest[i] = j;
    }
  }
  c->distance[i] = (float)nearest;
  return looked_at;
}

TARGET static int FN(choose_task)(void *given, int32_t number) {
  Choice *c = given;
  int64_t looked_at = 0, run = SPAN;
  while (run * MOST_SPANS < c->k) run *= 2;
  for (int64_t i = number * ROWS; i < (number + 1) * ROWS && i < c->count; i++)
    looked_at += FN(choose_row)(c, i, run);
  __atomic_fetch_add(&c->looked_at, looked_at, __ATOMIC_RELAXED);
  return 1;
}

TARGET static int FN(choose)(Choice *c, int32_t threads) {
  return share(FN(choose_task), c, (int32_t)((c->count + ROWS - 1) / ROWS), threads);
}
