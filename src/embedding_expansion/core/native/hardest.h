/* The hardest pair of points of two groups, read off inner products. Included once for every type and instruction set:
   T is the type, FN(name) pastes a suffix, TARGET is the attribute that chooses the instruction set.

   A group is a class or, on the anchors' side of anchor scope, an anchor with its partner. Its points are members
   themselves (originals) and, on each of its segments, n points between two members. Inner products of points are
   weighted sums of entries of the product:

       value = (sum of weights x entries) x scale(left) x scale(right) + shift(left) + shift(right)

   scale is the reciprocal norm of a point that is normalised again, shift turns an inner product into 1 - d^2/2. A
   point that takes no part has scale 0 and shift NEVER. */

typedef struct {
  int32_t groups;
  const int32_t *first;      /* of each group, and one past the last: its members in `row` */
  const int32_t *row;        /* of each member: its row (left) or column (right; consecutive) in the product */
  const int32_t *label;      /* of each group: its class; no pair is looked for within one */
  const int32_t *originals;  /* of each group: how many of its members are points themselves */
  const int32_t *kind;       /* of each group: which list of segments it has */
  const int32_t *list;       /* of each kind, and one past the last: where its segments begin */
  const int32_t *segment;    /* two members, counted from 0, for each segment */
  const int64_t *own_at;     /* of each group: where its inner products with itself begin in `own` */
  const T *own;              /* size x size for each group */
  const uint8_t *barred;     /* of each member: may not be both ends of a point; or NULL */
} FN(Side);

/* What the search needs to know of the points of a side. */
typedef struct {
  int64_t *at;                          /* of each group: its first segment among all */
  T *scale, *shift;                     /* of each segment's n points */
  T *most_scale, *least_scale, *most_shift;     /* over each segment's points */
  T *original_shift;                    /* of each member */
  T *group_most, *group_least, *group_shift;    /* over all points of a group */
  void *memory;
} FN(Points);

typedef struct {
  Rules rules;
  const T *product; /* rows of the left by rows of the right */
  int64_t stride;
  FN(Side) left, right;
  int32_t symmetric; /* both sides are the same: only pairs of a group and a later one are looked for */
  int32_t *ends;  /* found: two members of each side's group, for every group of the left and of the right */
  T *weights;     /* found: how much of each side's first end */
  T *value;       /* found: the similarity; of both halves where it is symmetric */
} FN(Problem);

typedef struct {
  FN(Problem) *problem;
  FN(Points) left, right;
} FN(Task);

TARGET static T FN(square)(const T *own, int32_t k, int32_t i, int32_t j, T u) {
  T v = 1 - u;
  return u * u * own[(int64_t)i * k + i] + 2 * u * v * own[(int64_t)i * k + j] + v * v * own[(int64_t)j * k + j];
}

/* The largest (1 - |x|^2) / 2 over a segment. */
TARGET static T FN(most_shift_of)(const T *own, int32_t k, int32_t i, int32_t j) {
  T ii = own[(int64_t)i * k + i], ij = own[(int64_t)i * k + j], jj = own[(int64_t)j * k + j];
  T length = ii - 2 * ij + jj, u = length > 0 ? (jj - ij) / length : 0;
  return (1 - FN(square)(own, k, i, j, u < 0 ? 0 : u > 1 ? 1 : u)) / 2;
}

/* Measures one group's points. */
TARGET static void FN(measure_group)(const FN(Side) *s, FN(Points) *p, int32_t g, const Rules *rules) {
  int32_t first = s->first[g], k = s->first[g + 1] - first;
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[g]];
  int32_t count = s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  const T *own = s->own + s->own_at[g];
  T most = 0, least = 1, top = NEVER;
  for (int32_t i = 0; i < s->originals[g]; i++) {
    int out = s->barred && s->barred[first + i];
    T shift = rules->euclidean ? (1 - own[(int64_t)i * k + i]) / 2 : 0;
    p->original_shift[first + i] = out ? (T)NEVER : shift;
    if (!out) { most = 1; top = top > shift ? top : shift; }
  }
  for (int32_t e = 0; e < count; e++) {
    int64_t at = p->at[g] + e;
    int32_t i = segment[2 * e], j = segment[2 * e + 1];
    int barred = s->barred && s->barred[first + i] && s->barred[first + j];
    T high = 0, low = 1, shifted = NEVER;
    for (int32_t c = 0; c < rules->n; c++) {
      T square = FN(square)(own, k, i, j, (T)(c + 1) / (T)(rules->n + 1));
      int out = barred || (rules->normalize && square < (T)rules->smallest);
      T scale = out ? 0 : rules->normalize ? 1 / SQRT(square) : 1;
      T shift = out ? (T)NEVER : rules->euclidean && !rules->normalize ? (1 - square) / 2 : 0;
      p->scale[at * rules->n + c] = scale;
      p->shift[at * rules->n + c] = shift;
      if (out) continue;
      high = high > scale ? high : scale;
      low = low < scale ? low : scale;
      shifted = shifted > shift ? shifted : shift;
    }
    if (rules->infinite) { /* the points of a segment are as near as its middle is short */
      T square = FN(square)(own, k, i, j, (T)0.5);
      square = square > (T)rules->smallest ? square : (T)rules->smallest;
      high = rules->normalize ? 1 / SQRT(square) : 1;
      low = 1;
      shifted = barred ? (T)NEVER : rules->euclidean && !rules->normalize ? FN(most_shift_of)(own, k, i, j) : 0;
    }
    p->most_scale[at] = high;
    p->least_scale[at] = low;
    p->most_shift[at] = shifted;
    most = most > high ? most : high;
    least = least < low ? least : low;
    top = top > shifted ? top : shifted;
  }
  p->group_most[g] = most;
  p->group_least[g] = least;
  p->group_shift[g] = top;
}

static int FN(measure)(const FN(Side) *s, FN(Points) *p, const Rules *rules) {
  int64_t segments = 0, members = s->first[s->groups];
  p->at = malloc(sizeof(int64_t) * (size_t)(s->groups + 1));
  if (!p->at) return 0;
  for (int32_t g = 0; g < s->groups; g++) {
    p->at[g] = segments;
    segments += s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  }
  int64_t points = segments * rules->n;
  T *m = p->memory = malloc(sizeof(T) * (size_t)(2 * points + 3 * segments + members + 3 * (int64_t)s->groups + 1));
  if (!m) return 0;
  p->scale = m; m += points;
  p->shift = m; m += points;
  p->most_scale = m; m += segments;
  p->least_scale = m; m += segments;
  p->most_shift = m; m += segments;
  p->original_shift = m; m += members;
  p->group_most = m; m += s->groups;
  p->group_least = m; m += s->groups;
  p->group_shift = m;
  for (int32_t g = 0; g < s->groups; g++) FN(measure_group)(s, p, g, rules);
  return 1;
}

typedef struct {
  T value, left_weight, right_weight;
  int32_t left[2], right[2];
} FN(Best);

/* What no value over a segment or a group exceeds: `most` is the largest inner product there is to weigh. */
TARGET static inline T FN(bound)(T most, T most_scale, T least_scale, T shift) {
  return (most > 0 ? most * most_scale : most * least_scale) + shift;
}

/* Holds one point of the left, as its row of similarities to the members of the right, against the right's points. */
TARGET static void FN(against)(const T *row, T shift, int32_t i, int32_t j, T weight, const FN(Side) *s,
                               const FN(Points) *p, int32_t h, int32_t n, FN(Best) *best) {
  int32_t first = s->first[h], k = s->originals[h], members = s->first[h + 1] - first;
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
    const T *scale = p->scale + (p->at[h] + e) * n, *point_shift = p->shift + (p->at[h] + e) * n;
    for (int32_t c = 0; c < n; c++) {
      T u = (T)(c + 1) / (T)(n + 1);
      T value = (u * a + (1 - u) * b) * scale[c] + (point_shift[c] + shift);
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
    FN(against)(block + l->row[first + i] * problem->stride, shift, i, i, 1, r, o, h, n, best);
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
      T scale = p->scale[at * n + c], shift = p->shift[at * n + c], u = (T)(c + 1) / (T)(n + 1);
      if (shift <= (T)NEVER) continue;
      for (int32_t q = 0; q < members; q++) row[q] = (u * a[q] + (1 - u) * b[q]) * scale;
      FN(against)(row, shift, segment[2 * e], segment[2 * e + 1], u, r, o, h, n, best);
    }
  }
}

TARGET static void FN(hardest_arcs)(const FN(Task) *task, int32_t g, int32_t h, FN(Best) *best) {
  (void)task, (void)g, (void)h, (void)best; 
}

TARGET static void FN(keep)(const FN(Problem) *problem, int32_t g, int32_t h, const FN(Best) *best) {
  int64_t at = (int64_t)g * problem->right.groups + h;
  int32_t *ends = problem->ends + 4 * at;
  ends[0] = best->left[0], ends[1] = best->left[1], ends[2] = best->right[0], ends[3] = best->right[1];
  problem->weights[2 * at] = best->left_weight;
  problem->weights[2 * at + 1] = best->right_weight;
  problem->value[at] = best->value;
  if (problem->symmetric) problem->value[(int64_t)h * problem->right.groups + g] = best->value;
}

/* Everything that group g of the left has to look for. Returns 0 where memory is out. */
TARGET static int FN(search_group)(void *of, int32_t g) {
  const FN(Task) *task = of;
  const FN(Problem) *problem = task->problem;
  const FN(Side) *r = &problem->right;
  int32_t widest = 1;
  for (int32_t h = 0; h < r->groups; h++) {
    int32_t members = r->first[h + 1] - r->first[h];
    widest = members > widest ? members : widest;
  }
  T *row = malloc(sizeof(T) * (size_t)widest);
  if (!row) return 0;
  for (int32_t h = problem->symmetric ? g + 1 : 0; h < r->groups; h++) {
    if (problem->left.label[g] == r->label[h]) continue;
    FN(Best) best;
    if (problem->rules.infinite) FN(hardest_arcs)(task, g, h, &best);
    else FN(hardest_pair)(task, g, h, row, &best);
    FN(keep)(problem, g, h, &best);
  }
  free(row);
  return 1;
}

static int FN(search)(FN(Problem) *problem, int32_t threads) {
  FN(Task) task = {.problem = problem};
  int done = FN(measure)(&problem->left, &task.left, &problem->rules) &&
             FN(measure)(&problem->right, &task.right, &problem->rules) &&
             share(FN(search_group), &task, problem->left.groups, threads);
  free(task.left.at), free(task.left.memory), free(task.right.at), free(task.right.memory);
  return done;
}
