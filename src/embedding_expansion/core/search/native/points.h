/* The points of a side, and what is to be known of them. Included once for every type and instruction set: T is the
   type, FN(name) pastes a suffix, TARGET is the attribute that chooses the instruction set.

   A group is a class or, on the anchors' side of anchor scope, an anchor with its partner. Its points are members
   themselves (originals) and, on each of its segments, n points between two members or, where n is infinite, all points
   between them, the members included. Inner products of points are weighted sums of entries of the product:

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
  T *of_point;                          /* of each segment's n points: scale where points are normalised again, where
                                           they are not shift; NULL for the left and for many points */
  T *most_scale, *least_scale, *most_shift;     /* over each segment's points */
  T *sum_scale, *difference_scale;      /* of each segment: reciprocal norms of its ends' sum and difference, or 0 */
  T *original_shift;                    /* of each member */
  T *group_most, *group_least, *group_shift;    /* over all points of a group */
  uint8_t *holed; /* of each group: whether some arc has ends so nearly opposite that its middle is no point */
  void *memory;
} FN(Points);

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

/* Whether no point may lie on a segment of group g. */
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
    T square = FN(square)(s->own + s->own_at[g], s->first[g + 1] - s->first[g], ends[0], ends[1],
                          (T)(c + 1) / (T)(rules->n + 1));
    FN(measure_point)(square, FN(barred)(s, g, ends), rules, scale, shift);
    return;
  }
  T kept = p->of_point[(p->at[g] + e) * rules->n + c];
  *scale = rules->normalize ? kept : 1;
  *shift = !rules->normalize ? kept : kept > 0 ? 0 : (T)NEVER;
}

/* The edges of the hole in the middle of an arc whose ends are nearly opposite: the weights of the first end of its two
   points whose squared norm, before they are normalised, is `smallest`. Returns 0 where there is no hole. */
TARGET static int FN(edges)(T first, T both, T second, const Rules *rules, T *u) {
  T difference = first - 2 * both + second, offset = second - both;
  T root = offset * offset - difference * (second - (T)rules->smallest);
  if (!rules->normalize || difference <= (T)rules->least_length || root < 0) return 0;
  root = SQRT(root);
  u[0] = (offset - root) / difference, u[1] = (offset + root) / difference;
  return u[0] < 1 && u[1] > 0;
}

/* Measures the points of one segment, given whether they take part at all. */
TARGET static void FN(measure_segment)(const T *own, int32_t k, int32_t i, int32_t j, int barred, const Rules *rules,
                                       FN(Points) *p, int32_t g, int64_t at) {
  T high = 0, low = 1, shifted = NEVER;
  for (int32_t c = 0; c < rules->n; c++) {
    T scale, shift;
    FN(measure_point)(FN(square)(own, k, i, j, (T)(c + 1) / (T)(rules->n + 1)), barred, rules, &scale, &shift);
    if (p->of_point) p->of_point[at * rules->n + c] = rules->normalize ? scale : shift;
    if (scale == 0) continue;
    high = high > scale ? high : scale;
    low = low < scale ? low : scale;
    shifted = shifted > shift ? shifted : shift;
  }
  if (rules->infinite) { /* the points of an arc are as near as its middle is short */
    T sum = 4 * FN(square)(own, k, i, j, (T)0.5), middle = sum / 4 > (T)rules->smallest ? sum / 4 : (T)rules->smallest;
    T difference = own[(int64_t)i * k + i] - 2 * own[(int64_t)i * k + j] + own[(int64_t)j * k + j];
    T ii = own[(int64_t)i * k + i], ij = own[(int64_t)i * k + j], jj = own[(int64_t)j * k + j], edge[2];
    p->holed[g] |= !barred && FN(edges)(ii, ij, jj, rules, edge);
    high = rules->normalize ? 1 / SQRT(middle) : 1;
    shifted = barred ? (T)NEVER : rules->euclidean && !rules->normalize ? FN(most_shift_of)(own, k, i, j) : 0;
    p->sum_scale[at] = sum > (T)rules->least_length ? 1 / SQRT(sum) : 0;
    p->difference_scale[at] = difference > (T)rules->least_length ? 1 / SQRT(difference) : 0;
  }
  p->most_scale[at] = high;
  p->least_scale[at] = low;
  p->most_shift[at] = shifted;
}

/* A member takes part as a point if it is an original or, where n is infinite, an end of a segment that does. */
TARGET static void FN(measure_members)(const FN(Side) *s, FN(Points) *p, int32_t g, const Rules *rules) {
  int32_t first = s->first[g], k = s->first[g + 1] - first;
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[g]];
  int32_t count = s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  const T *own = s->own + s->own_at[g];
  for (int32_t i = 0; i < k; i++) {
    int out = i >= s->originals[g] || (s->barred && s->barred[first + i]);
    p->original_shift[first + i] = out ? (T)NEVER : rules->euclidean ? (1 - own[(int64_t)i * k + i]) / 2 : 0;
  }
  for (int32_t e = 0; e < 2 * count && rules->infinite; e++) {
    int32_t i = segment[e], other = segment[e ^ 1];
    if (s->barred && s->barred[first + i] && s->barred[first + other]) continue;
    p->original_shift[first + i] = rules->euclidean ? (1 - own[(int64_t)i * k + i]) / 2 : 0;
  }
}

/* Measures one group's points. */
TARGET static void FN(measure_group)(const FN(Side) *s, FN(Points) *p, int32_t g, const Rules *rules) {
  int32_t first = s->first[g], k = s->first[g + 1] - first;
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[g]];
  int32_t count = s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  T most = 0, least = 1, top = NEVER;
  FN(measure_members)(s, p, g, rules);
  for (int32_t i = 0; i < k; i++) {
    T shift = p->original_shift[first + i];
    if (shift > (T)NEVER) { most = 1; top = top > shift ? top : shift; }
  }
  for (int32_t e = 0; e < count; e++) {
    int64_t at = p->at[g] + e;
    int32_t i = segment[2 * e], j = segment[2 * e + 1];
    FN(measure_segment)(s->own + s->own_at[g], k, i, j, FN(barred)(s, g, segment + 2 * e), rules, p, g, at);
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
  p->at = malloc((sizeof(int64_t) + 1) * (size_t)(s->groups + 1));
  if (!p->at) return 0;
  p->holed = (uint8_t *)(p->at + s->groups + 1);
  for (int32_t g = 0; g < s->groups; g++) {
    p->at[g] = segments, p->holed[g] = 0;
    segments += s->list[s->kind[g] + 1] - s->list[s->kind[g]];
  }
  int64_t points = each ? segments * rules->n : 0;
  T *m = p->memory = malloc(sizeof(T) * (size_t)(points + 5 * segments + members + 3 * (int64_t)s->groups + 1));
  if (!m) return 0;
  p->of_point = each ? m : NULL; m += points;
  p->most_scale = m; m += segments;
  p->least_scale = m; m += segments;
  p->most_shift = m; m += segments;
  p->sum_scale = m; m += segments;
  p->difference_scale = m; m += segments;
  p->original_shift = m; m += members;
  p->group_most = m; m += s->groups;
  p->group_least = m; m += s->groups;
  p->group_shift = m;
  for (int32_t g = 0; g < s->groups; g++) FN(measure_group)(s, p, g, rules);
  return 1;
}
