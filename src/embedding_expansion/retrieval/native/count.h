/* How many gallery rows come before each relevant one. What the table's rounding leaves open, because a similarity is
   within the tolerance of the relevant row's, is settled by the product in double precision, rounded to the type. */

/* Whether what comes before the k-th relevant row of a query is known as far as it matters. */
TARGET INLINE int FN(counted)(const Rows *queries, int32_t k, int64_t q) {
  return queries->before[k * queries->stride + q] >= (k ? queries->limit : queries->first_limit);
}

/* Settles up to RUN entries of a query, first those that are near any of the levels that are still counted. */
TARGET static int64_t FN(settle)(const Tile *t, const Rows *queries, int64_t q, const Rows *gallery, int64_t from,
                                 int64_t to, const T *entries, int64_t step) {
  const T *value = (const T *)queries->value + q, tolerance = (T)t->tolerance;
  int32_t going[MOST_RELEVANT], levels = 0, near[RUN], found = 0;
  for (int32_t k = 0; k < queries->levels && value[k * queries->stride] != (T)INFINITY; k++)
    if (!FN(counted)(queries, k, q)) going[levels++] = k;
  if (!levels) return 0;
  T most = value[going[0] * queries->stride] + tolerance, least = value[going[levels - 1] * queries->stride] - tolerance;
  for (int64_t g = from; g < to; g++) {
    T entry = entries[g * step];
    near[found] = (int32_t)(g - from);
    found += (entry <= most) & (entry >= least);
  }
  int64_t settled = 0;
  for (int32_t n = 0; n < found; n++) {
    int64_t g = from + near[n];
    T entry = entries[g * step], similarity = 0;
    int known = 0;
    for (int32_t l = 0; l < levels; l++) {
      int64_t at = going[l] * queries->stride + q;
      T wanted = ((const T *)queries->value)[at];
      if (wanted - tolerance > entry) continue;
      if (wanted + tolerance < entry) break;
      if (!known) {
        similarity = (T)FN(inner_product)((const T *)queries->rows + q * t->d, (const T *)gallery->rows + g * t->d, t->d);
        known = 1;
        settled++;
      }
      queries->before[at] += similarity > wanted || (similarity == wanted && gallery->index[g] < queries->column[at]);
    }
  }
  return settled;
}

/* Counts what is above the tolerance in a piece of a row, and tells whether anything is within it. */
TARGET INLINE int FN(count_piece)(const T *entries, int64_t from, int64_t to, T wanted, T tolerance, int64_t *sure) {
  FN(Vector) low = (FN(Vector)){0} + (wanted - tolerance), high = (FN(Vector)){0} + (wanted + tolerance);
  FN(Flags) above = {0}, least = {0};
  for (int64_t j = from; j < to; j += LANES) {
    FN(Vector) entry = *(const FN(Vector) *)(entries + j);
    above -= (FN(Flags))(entry > high);
    least -= (FN(Flags))(entry >= low);
  }
  int64_t open = 0;
  *sure = 0;
  for (int lane = 0; lane < LANES; lane++) *sure += above[lane], open += least[lane] - above[lane];
  return open > 0;
}

TARGET static int64_t FN(count_row)(const Tile *t, int64_t i) {
  const Rows *queries = &t->left;
  const T *entries = (const T *)t->table + i * t->stride, tolerance = (T)t->tolerance;
  const T *value = (const T *)queries->value + i;
  int32_t known = 0, open[MOST_RELEVANT], opened = 0;
  int64_t sure, settled = 0;
  for (; known < queries->levels && value[known * queries->stride] != (T)INFINITY; known++) {
    int64_t at = known * queries->stride;
    if (FN(counted)(queries, known, i)) continue;
    if (FN(count_piece)(entries, 0, t->stride, value[at], tolerance, &sure)) open[opened++] = known;
    queries->before[at + i] += (int32_t)sure;
  }
  for (int64_t from = 0; opened && from < t->right.count; from += RUN) {
    int64_t to = from + RUN < t->right.count ? from + RUN : t->right.count;
    int64_t whole = from + RUN < t->stride ? from + RUN : t->stride; /* with what fills up the last vector */
    int unsettled = 0;
    for (int32_t k = 0; k < opened && !unsettled; k++)
      unsettled = FN(count_piece)(entries, from, whole, value[open[k] * queries->stride], tolerance, &sure);
    if (unsettled) settled += FN(settle)(t, queries, i, &t->right, from, to, entries, 1);
  }
  return settled;
}

/* STEP columns from j on, the rows that they are compared with going down. */
TARGET static int64_t FN(count_columns)(const Tile *t, int64_t j) {
  const Rows *queries = &t->right;
  T tolerance = (T)t->tolerance;
  int64_t settled = 0;
  for (int64_t from = 0; from < t->left.count; from += RUN) {
    int64_t to = from + RUN < t->left.count ? from + RUN : t->left.count;
    for (int64_t column = j; column < j + STEP && column < queries->count; column += LANES) {
      const T *entries = (const T *)t->table + column;
      FN(Flags) unsettled = {0};
      for (int32_t k = 0; k < queries->levels; k++) {
        int64_t at = k * queries->stride + column;
        FN(Vector) wanted = *(const FN(Vector) *)((const T *)queries->value + at);
        int open = 0;
        for (int lane = 0; lane < LANES; lane++)
          open |= wanted[lane] != (T)INFINITY && !FN(counted)(queries, k, column + lane);
        if (!open) continue;
        FN(Vector) low = wanted - tolerance, high = wanted + tolerance;
        FN(Flags) above = {0}, least = {0};
        for (int64_t i = from; i < to; i++) {
          FN(Vector) entry = *(const FN(Vector) *)(entries + i * t->stride);
          above -= (FN(Flags))(entry > high);
          least -= (FN(Flags))(entry >= low);
        }
        for (int lane = 0; lane < LANES; lane++) queries->before[at + lane] += (int32_t)above[lane];
        unsettled |= least - above;
      }
      for (int lane = 0; lane < LANES; lane++)
        if (unsettled[lane])
          settled += FN(settle)(t, queries, column + lane, &t->left, from, to, entries + lane, t->stride);
    }
  }
  return settled;
}

TARGET static int FN(count_task)(void *given, int32_t number) {
  Tile *t = given;
  int64_t row_tasks = t->left.levels ? (t->left.count + ROWS - 1) / ROWS : 0, settled = 0;
  if (number >= row_tasks) settled = FN(count_columns)(t, (number - row_tasks) * STEP);
  for (int64_t i = number * ROWS; number < row_tasks && i < (number + 1) * ROWS && i < t->left.count; i++)
    settled += FN(count_row)(t, i);
  __atomic_fetch_add(&t->settled, settled, __ATOMIC_RELAXED);
  return 1;
}

TARGET static int FN(count)(Tile *t, int32_t threads) {
  int64_t row_tasks = t->left.levels ? (t->left.count + ROWS - 1) / ROWS : 0;
  int64_t column_tasks = t->both && t->right.levels ? (t->right.count + STEP - 1) / STEP : 0;
  return share(FN(count_task), t, (int32_t)(row_tasks + column_tasks), threads);
}

TARGET static int FN(similarities_task)(void *given, int32_t number) {
  const Relevant *r = given;
  for (int64_t i = number * ROWS; i < (number + 1) * ROWS && i < r->count; i++)
    for (int32_t k = 0; k < r->levels; k++) {
      int64_t at = k * r->stride + i, place = r->place[at];
      ((T *)r->value)[at] = place < 0 ? -(T)INFINITY
                                      : (T)FN(inner_product)((const T *)r->queries + i * r->d,
                                                             (const T *)r->gallery + place * r->d, r->d);
    }
  return 1;
}

TARGET static int FN(similarities)(Relevant *r, int32_t threads) {
  return share(FN(similarities_task), r, (int32_t)((r->count + ROWS - 1) / ROWS), threads);
}
