/* Conjugate gradient for (I - alpha S) f = y with a sparse symmetric S, for WALKS vectors y side by side, each with its
   own step lengths. So few keep what a step reads in the cache. */

typedef double FN(Doubles) __attribute__((vector_size(WALKS * sizeof(double)), aligned(8)));
typedef int64_t FN(Masks) __attribute__((vector_size(WALKS * sizeof(int64_t))));

/* above / below where it is wanted, else 0. */
TARGET INLINE void FN(divide)(const FN(Doubles) * above, const FN(Doubles) * below, const FN(Masks) * wanted,
                              FN(Doubles) * ratio) {
  for (int lane = 0; lane < WALKS; lane++)
    (*ratio)[lane] = (*wanted)[lane] && (*below)[lane] > 0 ? (*above)[lane] / (*below)[lane] : 0;
}

/* applied = (I - alpha S) direction, and their inner products. */
TARGET static void FN(apply)(const Walk *w, const FN(Doubles) * direction, FN(Doubles) * applied, FN(Doubles) * inner) {
  FN(Doubles) total = {0};
  for (int64_t i = 0; i < w->count; i++) {
    FN(Doubles) one = {0}, other = {0};
    int64_t k = w->starts[i], end = w->starts[i + 1];
    for (; k + 1 < end; k += 2) {
      one += w->weight[k] * direction[w->column[k]];
      other += w->weight[k + 1] * direction[w->column[k + 1]];
    }
    if (k < end) one += w->weight[k] * direction[w->column[k]];
    applied[i] = direction[i] - w->alpha * (one + other);
    total += direction[i] * applied[i];
  }
  *inner = total;
}

TARGET static void FN(solve_block)(const Walk *w, const FN(Doubles) * source, FN(Doubles) * solution,
                                   FN(Doubles) * scratch) {
  FN(Doubles) *residual = scratch, *direction = scratch + w->count, *applied = scratch + 2 * w->count;
  FN(Doubles) squares = {0}, inner;
  for (int64_t i = 0; i < w->count; i++) {
    residual[i] = direction[i] = source[i];
    solution[i] = (FN(Doubles)){0};
    squares += source[i] * source[i];
  }
  FN(Doubles) enough = w->tolerance * w->tolerance * squares;
  for (int32_t step = 0; step < w->max_iterations; step++) {
    FN(Masks) going = (FN(Masks))(squares > enough);
    int any = 0;
    for (int lane = 0; lane < WALKS; lane++) any |= going[lane] != 0;
    if (!any) return;
    FN(apply)(w, direction, applied, &inner);
    FN(Doubles) along, turn, after = {0};
    FN(divide)(&squares, &inner, &going, &along);
    for (int64_t i = 0; i < w->count; i++) {
      solution[i] += along * direction[i];
      residual[i] -= along * applied[i];
      after += residual[i] * residual[i];
    }
    FN(divide)(&after, &squares, &going, &turn);
    for (int64_t i = 0; i < w->count; i++) direction[i] = residual[i] + turn * direction[i];
    for (int lane = 0; lane < WALKS; lane++)
      if (going[lane]) squares[lane] = after[lane];
  }
}

TARGET static int FN(solve_task)(void *given, int32_t number) {
  const Walk *w = given;
  int64_t at = number * w->count;
  FN(Doubles) *scratch = malloc(3 * (size_t)w->count * sizeof *scratch);
  if (!scratch) return 0;
  FN(solve_block)(w, (const FN(Doubles) *)w->source + at, (FN(Doubles) *)w->solution + at, scratch);
  free(scratch);
  return 1;
}

TARGET static int FN(solve)(Walk *w, int32_t threads) { return share(FN(solve_task), w, w->blocks, threads); }
