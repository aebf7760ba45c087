/* The hardest pair of two groups among their originals and the n points on every segment. It compares, one by one, the
   pairs of points that a bound cannot rule out. */

typedef struct {
  Rules rules;
  const T *product; /* rows of the left by rows of the right */
  int64_t stride;
  FN(Side) left, right;
  int32_t symmetric; /* both sides are the same: the search looks at pairs of a group and a later one only */
  int32_t *ends;  /* found: two members of each side's group, for every group of the left and of the right */
  T *weights;     /* found: how much of each side's first end */
  T *value;       /* found: the similarity; of both halves where it is symmetric */
} FN(Problem);

typedef struct FN(Block) FN(Block); /* of groups of the right, see lanes.h */

typedef struct {
  FN(Problem) *problem;
  FN(Points) left, right;
  FN(Block) *blocks;
  int32_t block_count, widest; /* members of the largest group of the right */
} FN(Task);

typedef struct {
  T value, left_weight, right_weight;
  int32_t left[2], right[2];
} FN(Best);

/* An upper bound of the values over a segment or a group; `most` is the largest inner product of members. */
TARGET static inline T FN(bound)(T most, T most_scale, T least_scale, T shift) {
  return (most > 0 ? most * most_scale : most * least_scale) + shift;
}

/* Compares one left point, given its similarities to the members of a right group, with the points of that group. */
TARGET static void FN(against)(const T *row, T shift, int32_t i, int32_t j, T weight, const FN(Task) *task, int32_t h,
                               FN(Best) *best) {
  const FN(Side) *s = &task->problem->right;
  const FN(Points) *p = &task->right;
  const Rules *rules = &task->problem->rules;
  int32_t first = s->first[h], k = s->originals[h], members = s->first[h + 1] - first, n = rules->n;
  T most = NEVER;
  for (int32_t q = 0; q < members; q++) most = row[q] > most ? row[q] : most;
  if (FN(bound)(most, p->group_most[h], p->group_least[h], p->group_shift[h] + shift) <= best->value) return;
  const T *original_shift = p->original_shift + first;
  for (int32_t q = 0; q < k; q++) {
    T value = row[q] + (original_shift[q] + shift);
    if (value > best->value) *best = (FN(Best)){value, weight, 1, {i, j}, {q, q}};
  }
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[h]];
  int32_t count = s->list[s->kind[h] + 1] - s->list[s->kind[h]];
  const T *most_scale = p->most_scale + p->at[h], *least_scale = p->least_scale + p->at[h];
  const T *most_shift = p->most_shift + p->at[h];
  for (int32_t e = 0; e < count && n > 0; e++) {
    T a = row[segment[2 * e]], b = row[segment[2 * e + 1]];
    if (FN(bound)(a > b ? a : b, most_scale[e], least_scale[e], most_shift[e] + shift) <= best->value) continue;
    for (int32_t c = 0; c < n; c++) {
      T u = (T)(c + 1) / (T)(n + 1), scale, own_shift;
      FN(recall_point)(s, p, h, e, segment + 2 * e, c, rules, &scale, &own_shift);
      T value = (u * a + (1 - u) * b) * scale + (own_shift + shift);
      if (value > best->value)
        *best = (FN(Best)){value, weight, u, {i, j}, {segment[2 * e], segment[2 * e + 1]}};
    }
  }
}

/* The hardest pair of group g of the left and group h of the right; `row` has room for the right's members. */
TARGET static void FN(hardest_pair)(const FN(Task) *task, int32_t g, int32_t h, T *row, FN(Best) *best) {
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  const FN(Points) *p = &task->left, *o = &task->right;
  int32_t first = l->first[g], members = r->first[h + 1] - r->first[h], n = problem->rules.n;
  const T *block = problem->product + r->row[r->first[h]];
  *best = (FN(Best)){2 * NEVER, 1, 1, {0, 0}, {0, 0}};
  for (int32_t i = 0; i < l->originals[g]; i++) {
    T shift = p->original_shift[first + i];
    if (shift <= (T)NEVER) continue;
    FN(against)(block + l->row[first + i] * problem->stride, shift, i, i, 1, task, h, best);
  }
  const int32_t *segment = l->segment + 2 * (int64_t)l->list[l->kind[g]];
  int32_t count = l->list[l->kind[g] + 1] - l->list[l->kind[g]];
  for (int32_t e = 0; e < count && n > 0; e++) {
    const T *a = block + l->row[first + segment[2 * e]] * problem->stride;
    const T *b = block + l->row[first + segment[2 * e + 1]] * problem->stride;
    int64_t at = p->at[g] + e;
    T most = NEVER;
    for (int32_t q = 0; q < members; q++) {
      T larger = a[q] > b[q] ? a[q] : b[q];
      most = larger > most ? larger : most;
    }
    T reach = FN(bound)(most, p->most_scale[at] * o->group_most[h], p->least_scale[at] * o->group_least[h],
                        p->most_shift[at] + o->group_shift[h]);
    if (reach <= best->value) continue;
    for (int32_t c = 0; c < n; c++) {
      T scale, shift, u = (T)(c + 1) / (T)(n + 1);
      FN(recall_point)(l, p, g, e, segment + 2 * e, c, &problem->rules, &scale, &shift);
      if (shift <= (T)NEVER) continue;
      for (int32_t q = 0; q < members; q++) row[q] = (u * a[q] + (1 - u) * b[q]) * scale;
      FN(against)(row, shift, segment[2 * e], segment[2 * e + 1], u, task, h, best);
    }
  }
}
