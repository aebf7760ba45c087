/* Where the ends of an arc are nearly opposite its middle is no point, and the hardest pair may lie at an edge of that
   hole: the edges of the holes of either group against the members, the arcs and the edges of the other. */

/* The edges of the hole in one segment of group g, as spots; returns how many. */
TARGET static int FN(spots_beside)(const FN(Side) *s, int32_t g, const int32_t *ends, const Rules *rules,
                                   FN(Spot) *spots) {
  int32_t k = s->first[g + 1] - s->first[g];
  const T *own = s->own + s->own_at[g], *i = own + (int64_t)ends[0] * k, *j = own + (int64_t)ends[1] * k;
  T u[2];
  int count = 0;
  if (FN(barred)(s, g, ends) || !FN(edges)(i[ends[0]], i[ends[1]], j[ends[1]], rules, u)) return 0;
  for (int e = 0; e < 2; e++) {
    if (u[e] <= 0 || u[e] >= 1) continue;
    T square = FN(square)(own, k, ends[0], ends[1], u[e]); /* `smallest`, but for rounding, which must not drop it */
    square = square > (T)rules->smallest ? square : (T)rules->smallest;
    spots[count++] = (FN(Spot)){{ends[0], ends[1]}, u[e], square};
  }
  return count;
}

/* A point of one group, by its inner products with the members of group h of a side, against the members and the arcs
   of that group; `turned` where the side is the left. */
TARGET static void FN(beside_to_all)(const FN(Side) *s, const FN(Points) *p, int32_t h, const FN(Spot) *x, const T *row,
                                     int turned, const Rules *rules, FN(Best) *best) {
  int32_t first = s->first[h], members = s->first[h + 1] - first;
  const T *own = s->own + s->own_at[h];
  for (int32_t q = 0; q < members; q++) {
    FN(Spot) y = {{q, q}, 1, own[(int64_t)q * (members + 1)]};
    if (p->original_shift[first + q] > (T)NEVER)
      FN(hold)(turned ? &y : x, turned ? x : &y, row[q], rules, best);
  }
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[h]];
  int32_t count = s->list[s->kind[h] + 1] - s->list[s->kind[h]];
  for (int32_t f = 0; f < count; f++, segment += 2) {
    T m = row[segment[0]], n = row[segment[1]], v;
    FN(Segment) own_arc = FN(segment)(s, p, h, f, segment);
    if (FN(barred)(s, h, segment) || !FN(nearest)(&own_arc, m, n, rules, &v)) continue;
    FN(Spot) y = {{segment[0], segment[1]}, v, FN(square_at)(&own_arc, v)};
    FN(hold)(turned ? &y : x, turned ? x : &y, v * m + (1 - v) * n, rules, best);
  }
}

/* The edges of the left's holes against everything of the right, its edges included. */
TARGET static void FN(beside_left)(const FN(Task) *task, int32_t g, int32_t h, T *row, FN(Best) *best) {
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  const Rules *rules = &problem->rules;
  const int32_t *segment = l->segment + 2 * (int64_t)l->list[l->kind[g]];
  const int32_t *others = r->segment + 2 * (int64_t)r->list[r->kind[h]];
  int32_t count = l->list[l->kind[g] + 1] - l->list[l->kind[g]];
  int32_t other_count = r->list[r->kind[h] + 1] - r->list[r->kind[h]], members = r->first[h + 1] - r->first[h];
  const T *block = problem->product + r->row[r->first[h]];
  for (int32_t e = 0; e < count; e++, segment += 2) {
    FN(Spot) x[2], y[2];
    int edges = FN(spots_beside)(l, g, segment, rules, x);
    const T *one = block + l->row[l->first[g] + segment[0]] * problem->stride;
    const T *two = block + l->row[l->first[g] + segment[1]] * problem->stride;
    for (int i = 0; i < edges; i++) {
      for (int32_t q = 0; q < members; q++) row[q] = x[i].weight * one[q] + (1 - x[i].weight) * two[q];
      FN(beside_to_all)(r, &task->right, h, x + i, row, 0, rules, best);
      for (int32_t f = 0; f < other_count && task->right.holed[h]; f++) {
        const int32_t *ends = others + 2 * f;
        for (int j = FN(spots_beside)(r, h, ends, rules, y); j-- > 0;)
          FN(hold)(x + i, y + j, y[j].weight * row[ends[0]] + (1 - y[j].weight) * row[ends[1]], rules, best);
      }
    }
  }
}

/* The edges of the right's holes against the members and the arcs of the left. */
TARGET static void FN(beside_right)(const FN(Task) *task, int32_t g, int32_t h, T *row, FN(Best) *best) {
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  const int32_t *segment = r->segment + 2 * (int64_t)r->list[r->kind[h]];
  int32_t count = r->list[r->kind[h] + 1] - r->list[r->kind[h]], members = l->first[g + 1] - l->first[g];
  const T *block = problem->product + r->row[r->first[h]];
  for (int32_t f = 0; f < count; f++, segment += 2) {
    FN(Spot) y[2];
    int edges = FN(spots_beside)(r, h, segment, &problem->rules, y);
    for (int j = 0; j < edges; j++) {
      for (int32_t i = 0; i < members; i++) {
        const T *entry = block + l->row[l->first[g] + i] * problem->stride;
        row[i] = y[j].weight * entry[segment[0]] + (1 - y[j].weight) * entry[segment[1]];
      }
      FN(beside_to_all)(l, &task->left, g, y + j, row, 1, &problem->rules, best);
    }
  }
}

/* Holds what lies beside the holes of two groups against the best pair so far; `row` has room for either's members. */
TARGET static void FN(beside_holes)(const FN(Task) *task, int32_t g, int32_t h, T *row, FN(Best) *best) {
  if (task->left.holed[g]) FN(beside_left)(task, g, h, row, best);
  if (task->right.holed[h]) FN(beside_right)(task, g, h, row, best);
}
