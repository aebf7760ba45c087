/* The hardest pair of two groups where their points are all those on their segments: arcs of the sphere, or straight
   lines where points are not normalised again. The closed form of every two segments, from inner products. The optimum
   is that of Vasudeva et al., "LoOp: Looking for Optimal Hard Negative Embeddings", ICCV 2021. */

/* One segment: the inner products of its ends with themselves, and the reciprocal norms of their sum and difference. */
typedef struct {
  T first, both, second, sum, difference;
} FN(Segment);

TARGET static inline FN(Segment) FN(segment)(const FN(Side) *s, const FN(Points) *p, int32_t g, int32_t e,
                                              const int32_t *ends) {
  int32_t k = s->first[g + 1] - s->first[g];
  int64_t at = p->at[g] + e;
  const T *own = s->own + s->own_at[g], *i = own + (int64_t)ends[0] * k, *j = own + (int64_t)ends[1] * k;
  return (FN(Segment)){i[ends[0]], i[ends[1]], j[ends[1]], p->sum_scale[at], p->difference_scale[at]};
}

TARGET static inline T FN(square_at)(const FN(Segment) *s, T u) {
  T v = 1 - u;
  return u * u * s->first + 2 * u * v * s->both + v * v * s->second;
}

/* The point of a segment nearest to one whose inner products with its ends are m and n: the weight of the first end.
   Returns 0 where that is an end. */
TARGET static inline int FN(nearest)(const FN(Segment) *s, T m, T n, const Rules *rules, T *u) {
  T at = s->second * m - s->both * n, whole = at + s->first * n - s->both * m;
  if (!rules->normalize) {
    at = m - n - s->both + s->second;
    whole = s->first - 2 * s->both + s->second;
  }
  *u = at / (whole > 0 ? whole : 1);
  return (at > 0) & (at < whole);
}

/* u of tan(angle) = y / (x + |(x, y)|), half the angle of (x, y), where an end has the tangent 1 / ratio. */
TARGET static inline int FN(half_angle)(T x, T y, T ratio, T *u) {
  T length = SQRT(x * x + y * y);
  T of = (x < 0 ? length - x : y) * ratio, to = x < 0 ? y : x + length;
  of = to < 0 ? -of : of, to = ABS(to);
  *u = (1 + of / (to > 0 ? to : 1)) / 2;
  return ABS(of) < to;
}

/* The nearest points inside two arcs, from the inner products of their ends, m[2 * i + j]: the leading singular vectors
   of these inner products in bases along the ends' sums and differences. Returns 0 where one is an end. */
TARGET static inline int FN(between_arcs)(const FN(Segment) *a, const FN(Segment) *b, const T *m, T *u, T *v) {
  int arcs = (a->sum > 0) & (a->difference > 0) & (b->sum > 0) & (b->difference > 0);
  T row = m[0] + m[1], other = m[2] + m[3], gap = m[0] - m[1], next = m[2] - m[3];
  T ss = (row + other) * a->sum * b->sum, sd = (gap + next) * a->sum * b->difference;
  T ds = (row - other) * a->difference * b->sum, dd = (gap - next) * a->difference * b->difference;
  T p = ss * ss - dd * dd, q = sd * sd - ds * ds;
  T of_a = a->difference / (a->sum > 0 ? a->sum : 1), of_b = b->difference / (b->sum > 0 ? b->sum : 1);
  return arcs & FN(half_angle)(p + q, 2 * (ss * ds + sd * dd), of_a, u) &
         FN(half_angle)(p - q, 2 * (ss * sd + ds * dd), of_b, v);
}

/* The nearest points inside two straight segments. */
TARGET static inline int FN(between_lines)(const FN(Segment) *a, const FN(Segment) *b, const T *m, T *u, T *v) {
  T la = a->first - 2 * a->both + a->second, lb = b->first - 2 * b->both + b->second;
  T across = m[0] - m[1] - m[2] + m[3], d = m[1] - m[3] - a->both + a->second, e = m[2] - m[3] - b->both + b->second;
  int lines = (la > 0) & (lb > 0);
  /* Over la and lb, as their product may be too large for a float. */
  la = la > 0 ? la : 1, lb = lb > 0 ? lb : 1, d /= la, e /= lb;
  T whole = 1 - across / la * (across / lb), x = d + across / la * e, y = e + across / lb * d;
  *u = x / (whole > 0 ? whole : 1);
  *v = y / (whole > 0 ? whole : 1);
  return lines & (x > 0) & (x < whole) & (y > 0) & (y < whole);
}

/* A point on the way: a member, with weight 1, or somewhere on a segment. */
typedef struct {
  int32_t ends[2];
  T weight, square;
} FN(Spot);

/* Holds a pair of points, of which one at least lies on a segment, against the best one so far. */
TARGET static inline void FN(hold)(const FN(Spot) *x, const FN(Spot) *y, T inner, const Rules *rules, FN(Best) *best) {
  T norm = 1, shift = 0;
  const FN(Spot) *both[2] = {x, y};
  for (int i = 0; i < 2; i++) {
    int again = rules->normalize && both[i]->ends[0] != both[i]->ends[1];
    if (again && both[i]->square < (T)rules->smallest) return;
    if (again) norm *= both[i]->square;
    else if (rules->euclidean) shift += (1 - both[i]->square) / 2;
  }
  T value = (rules->normalize ? inner / SQRT(norm) : inner) + shift;
  if (value > best->value)
    *best = (FN(Best)){value, x->weight, y->weight, {x->ends[0], x->ends[1]}, {y->ends[0], y->ends[1]}};
}

/* One member of the left, as its row of similarities to the members of the right, against the members of the right. */
TARGET static void FN(member_to_member)(const T *row, T shift, int32_t i, const T *shifts, int32_t members,
                                        FN(Best) *best) {
  for (int32_t q = 0; q < members; q++) {
    T value = row[q] + (shifts[q] + shift);
    if (value > best->value) *best = (FN(Best)){value, 1, 1, {i, i}, {q, q}};
  }
}

/* The same against the segments of the right; `square` is the member's squared norm. */
TARGET static void FN(member_to_segments)(const FN(Task) *task, const T *row, T shift, T square, int32_t i, int32_t h,
                                          FN(Best) *best) {
  const FN(Side) *r = &task->problem->right;
  const FN(Points) *o = &task->right;
  const Rules *rules = &task->problem->rules;
  const int32_t *segment = r->segment + 2 * (int64_t)r->list[r->kind[h]];
  int32_t count = r->list[r->kind[h] + 1] - r->list[r->kind[h]];
  for (int32_t f = 0; f < count; f++, segment += 2) {
    T m = row[segment[0]], n = row[segment[1]], u;
    int64_t at = o->at[h] + f;
    if (FN(bound)(m > n ? m : n, o->most_scale[at], o->least_scale[at], o->most_shift[at] + shift) <= best->value)
      continue;
    FN(Segment) s = FN(segment)(r, o, h, f, segment);
    if (!FN(nearest)(&s, m, n, rules, &u)) continue;
    FN(Spot) x = {{i, i}, 1, square}, y = {{segment[0], segment[1]}, u, FN(square_at)(&s, u)};
    FN(hold)(&x, &y, u * m + (1 - u) * n, rules, best);
  }
}

/* A segment of the left, and its ends' rows of similarities to the members of the right. */
typedef struct {
  const int32_t *ends;
  const T *one, *two;
  T most_scale, least_scale, most_shift;
  FN(Segment) own;
} FN(Bow);

TARGET static void FN(segment_to_members)(const FN(Task) *task, const FN(Bow) *bow, int32_t h, FN(Best) *best) {
  const FN(Side) *r = &task->problem->right;
  const Rules *rules = &task->problem->rules;
  int32_t first = r->first[h], members = r->first[h + 1] - first;
  for (int32_t q = 0; q < members; q++) {
    T shift = task->right.original_shift[first + q], m = bow->one[q], n = bow->two[q], u;
    if (FN(bound)(m > n ? m : n, bow->most_scale, bow->least_scale, bow->most_shift + shift) <= best->value) continue;
    if (!FN(nearest)(&bow->own, m, n, rules, &u)) continue;
    FN(Spot) x = {{bow->ends[0], bow->ends[1]}, u, FN(square_at)(&bow->own, u)};
    FN(Spot) y = {{q, q}, 1, r->own[r->own_at[h] + (int64_t)q * (members + 1)]};
    FN(hold)(&x, &y, u * m + (1 - u) * n, rules, best);
  }
}

TARGET static void FN(segment_to_segments)(const FN(Task) *task, const FN(Bow) *bow, int32_t h, FN(Best) *best) {
  const FN(Side) *r = &task->problem->right;
  const FN(Points) *o = &task->right;
  const Rules *rules = &task->problem->rules;
  const int32_t *segment = r->segment + 2 * (int64_t)r->list[r->kind[h]];
  int32_t count = r->list[r->kind[h] + 1] - r->list[r->kind[h]];
  for (int32_t f = 0; f < count; f++, segment += 2) {
    int64_t at = o->at[h] + f;
    T m[4] = {bow->one[segment[0]], bow->one[segment[1]], bow->two[segment[0]], bow->two[segment[1]]}, u, v;
    T more = m[0] > m[1] ? m[0] : m[1], most = m[2] > m[3] ? m[2] : m[3];
    most = more > most ? more : most;
    if (FN(bound)(most, bow->most_scale * o->most_scale[at], bow->least_scale * o->least_scale[at],
                  bow->most_shift + o->most_shift[at]) <= best->value)
      continue;
    FN(Segment) s = FN(segment)(r, o, h, f, segment);
    if (!(rules->normalize ? FN(between_arcs) : FN(between_lines))(&bow->own, &s, m, &u, &v)) continue;
    FN(Spot) x = {{bow->ends[0], bow->ends[1]}, u, FN(square_at)(&bow->own, u)};
    FN(Spot) y = {{segment[0], segment[1]}, v, FN(square_at)(&s, v)};
    FN(hold)(&x, &y, u * (v * m[0] + (1 - v) * m[1]) + (1 - u) * (v * m[2] + (1 - v) * m[3]), rules, best);
  }
}

/* The largest of one row, or of two, of similarities. */
TARGET static inline T FN(largest)(const T *one, const T *two, int32_t members) {
  T most = NEVER;
  for (int32_t q = 0; q < members; q++) {
    T larger = one[q] > two[q] ? one[q] : two[q];
    most = larger > most ? larger : most;
  }
  return most;
}

/* The hardest pair of group g of the left and group h of the right among all points of their segments: members first,
   then what a bound cannot rule out. */
TARGET static void FN(hardest_on_arcs)(const FN(Task) *task, int32_t g, int32_t h, FN(Best) *best) {
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  const FN(Points) *p = &task->left, *o = &task->right;
  const T *shifts = p->original_shift + l->first[g], *own = l->own + l->own_at[g];
  int32_t first = l->first[g], k = l->first[g + 1] - first, members = r->first[h + 1] - r->first[h];
  const T *block = problem->product + r->row[r->first[h]];
  *best = (FN(Best)){2 * NEVER, 1, 1, {0, 0}, {0, 0}};
  for (int32_t i = 0; i < k; i++) {
    if (shifts[i] <= (T)NEVER) continue;
    const T *row = block + l->row[first + i] * problem->stride;
    FN(member_to_member)(row, shifts[i], i, o->original_shift + r->first[h], members, best);
  }
  if (!problem->rules.normalize && !problem->rules.euclidean) return; /* bilinear: largest at the ends */
  for (int32_t i = 0; i < k; i++) {
    if (shifts[i] <= (T)NEVER) continue;
    const T *row = block + l->row[first + i] * problem->stride;
    T most = FN(largest)(row, row, members);
    if (FN(bound)(most, o->group_most[h], o->group_least[h], o->group_shift[h] + shifts[i]) > best->value)
      FN(member_to_segments)(task, row, shifts[i], own[(int64_t)i * (k + 1)], i, h, best);
  }
  const int32_t *segment = l->segment + 2 * (int64_t)l->list[l->kind[g]];
  int32_t count = l->list[l->kind[g] + 1] - l->list[l->kind[g]];
  for (int32_t e = 0; e < count; e++, segment += 2) {
    const T *one = block + l->row[first + segment[0]] * problem->stride;
    const T *two = block + l->row[first + segment[1]] * problem->stride;
    int64_t at = p->at[g] + e;
    T most = FN(largest)(one, two, members);
    if (FN(bound)(most, p->most_scale[at] * o->group_most[h], p->least_scale[at] * o->group_least[h],
                  p->most_shift[at] + o->group_shift[h]) <= best->value)
      continue;
    FN(Bow) bow = {segment, one, two, p->most_scale[at], p->least_scale[at], p->most_shift[at],
                   FN(segment)(l, p, g, e, segment)};
    FN(segment_to_members)(task, &bow, h, best);
    FN(segment_to_segments)(task, &bow, h, best);
  }
}
