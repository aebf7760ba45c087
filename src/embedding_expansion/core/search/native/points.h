/* The points of a side, and the measures that the search reads. Included once for every type and instruction set: T is
   the type, FN(name) pastes a suffix, TARGET is the attribute that chooses the instruction set.

   A group is a class or, on the anchors' side of anchor scope, an anchor with its partner. Its points are members
   themselves (originals) and, on each of its segments, n points between two members. Inner products of points are
   weighted sums of entries of the product:

       value = (sum of weights x entries) x scale(left) x scale(right) + shift(left) + shift(right)

   scale is the reciprocal norm of a point that is normalised again, shift turns an inner product into 1 - d^2/2. A
   point that is excluded has scale 0 and shift NEVER. */

typedef struct {
  int32_t groups;
  const int32_t *first;      /* of each group, and one past the last: its members in `row` */
  const int32_t *row;        /* of each member: its row (left) or column (right; consecutive) in the product */
  const int32_t *label;      /* of each group: its class; the search skips pairs within a class */
  const int32_t *originals;  /* of each group: how many of its members are points themselves */
  const int32_t *kind;       /* of each group: which list of segments it has */
  const int32_t *list;       /* of each kind, and one past the last: where its segments begin */
  const int32_t *segment;    /* two members, counted from 0, for each segment */
  const int64_t *gram_at;    /* of each group: where its Gram matrix begins in `gram` */
  const T *gram;             /* size x size for each group, one after another */
  const uint8_t *barred;     /* of each member: may not be both ends of a point; or NULL */
} FN(Side);

/* The measures of the points of a side. */
typedef struct {
  int64_t *at;                          /* of each group: its first segment among all */
  T *of_point;                          /* of each segment's n points: its scale if points are normalised again,
                                           otherwise its shift; NULL for the left and for many points */
  T *most_scale, *least_scale, *most_shift;     /* over each segment's points */
  T *original_shift;                    /* of each member */
  T *group_most, *group_least, *group_shift;    /* over all points of a group */
  void *memory;
} FN(Points);

TARGET static T FN(square)(const T *gram, int32_t k, int32_t i, int32_t j, T u) {
  T v = 1 - u;
  return u * u * gram[(int64_t)i * k + i] + 2 * u * v * gram[(int64_t)i * k + j] + v * v * gram[(int64_t)j * k + j];
}

/* Whether the points of a segment of group g are excluded. */
TARGET INLINE int FN(barred)(const FN(Side) *s, int32_t g, const int32_t *ends) {
  return s->barred && s->barred[s->first[g] + ends[0]] && s->barred[s->first[g] + ends[1]];
}

/* Scale and shift of a point on a segment, by its squared norm. */
TARGET INLINE void FN(measure_point)(T square, int barred, const Rules *rules, T *scale, T *shift) {
  int out = barred || (rules->normalize && square < (T)rules->smallest);
  *scale = out ? 0 : rules->normalize ? 1 / SQRT(square) : 1;
  *shift = out ? (T)NEVER : rules->euclidean && !rules->normalize ? (1 - square) / 2 : 0;
}

/* Scale and shift of the point number c on segment e of group g, of which `of_point` may be kept: shift is 0 or NEVER
   where points are normalised again, else scale is 1. */
TARGET INLINE void FN(recall_point)(const FN(Side) *s, const FN(Points) *p, int32_t g, int32_t e, const int32_t *ends,
                                    int32_t c, const Rules *rules, T *scale, T *shift) {
  if (!p->of_point) {
    T square = FN(square)(s->gram + s->gram_at[g], s->first[g + 1] - s->first[g], ends[0], ends[1],
                          (T)(c + 1) / (T)(rules->n + 1));
    FN(measure_point)(square, FN(barred)(s, g, ends), rules, scale, shift);
    return;
  }
  T kept = p->of_point[(p->at[g] + e) * rules->n + c];
  *scale = rules->normalize ? kept : 1;
  *shift = !rules->normalize ? kept : kept > 0 ? 0 : (T)NEVER;
}

/* Measures the points of one segment, given whether they take part at all. */
TARGET static void FN(measure_segment)(const T *gram, int32_t k, int32_t i, int32_t j, int barred, const Rules *rules,
                                       FN(Points) *p, int64_t at) {
  T high = 0, low = 1, shifted = NEVER;
  for (int32_t c = 0; c < rules->n; c++) {
    T scale, shift;
    FN(measure_point)(FN(square)(gram, k, i, j, (T)(c + 1) / (T)(rules->n + 1)), barred, rules, &scale, &shift);
    if (p->of_point) p->of_point[at * rules->n + c] = rules->normalize ? scale : shift;
    if (scale == 0) continue;
    high = high > scale ? high : scale;
    low = low < scale ? low : scale;
    shifted = shifted > shift ? shifted : shift;
  }
  p->most_scale[at] = high;
  p->least_scale[at] = low;
  p->most_shift[at] = shifted;
}

/* A member is a point if it is an original that may be both ends of a point. */
TARGET static void FN(measure_originals)(const FN(Side) *s, FN(Points) *p, int32_t g, const Rules *rules) {
  int32_t first = s->first[g], k = s->first[g + 1] - first;
  const T *gram = s->gram + s->gram_at[g];
  for (int32_t i = 0; i < k; i++) {
    int out = i >= s->originals[g] || (s->barred && s->barred[first + i]);
    p->original_shift[first + i] = out ? (T)NEVER : rules->euclidean ? (1 - gram[(int64_t)i * k + i]) / 2 : 0;
  }
}

/* Measures one group's points. */
TARGET static void FN(measure_group)(const FN(Side) *s, FN(Points) *p, int32_t g, const Rules *rules) {
  int32_t first = s->first[g], k = s->first[g + 1] - first;
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[g]];
  int32_t count = s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  T most = 0, least = 1, top = NEVER;
  FN(measure_originals)(s, p, g, rules);
  for (int32_t i = 0; i < k; i++) {
    T shift = p->original_shift[first + i];
    if (shift > (T)NEVER) { most = 1; top = top > shift ? top : shift; }
  }
  for (int32_t e = 0; e < count; e++) {
    int64_t at = p->at[g] + e;
    int32_t i = segment[2 * e], j = segment[2 * e + 1];
    FN(measure_segment)(s->gram + s->gram_at[g], k, i, j, FN(barred)(s, g, segment + 2 * e), rules, p, at);
    most = most > p->most_scale[at] ? most : p->most_scale[at];
    least = least < p->least_scale[at] ? least : p->least_scale[at];
    top = top > p->most_shift[at] ? top : p->most_shift[at];
  }
  p->group_most[g] = most;
  p->group_least[g] = least;
  p->group_shift[g] = top;
}

/* Measures all points of a side; of every single one it keeps something only where `each` asks for it and they are few,
   as that grows with n. Returns 0 where memory is out. */
static int FN(measure)(const FN(Side) *s, FN(Points) *p, const Rules *rules, int each) {
  each = each && rules->n <= MOST_KEPT;
  int64_t segments = 0, members = s->first[s->groups];
  p->at = malloc(sizeof(int64_t) * (size_t)(s->groups + 1));
  if (!p->at) return 0;
  for (int32_t g = 0; g < s->groups; g++) {
    p->at[g] = segments;
    segments += s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  }
  int64_t points = each ? segments * rules->n : 0;
  T *m = p->memory = malloc(sizeof(T) * (size_t)(points + 3 * segments + members + 3 * (int64_t)s->groups + 1));
  if (!m) return 0;
  p->of_point = each ? m : NULL; m += points;
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
