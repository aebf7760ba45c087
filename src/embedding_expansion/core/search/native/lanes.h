/* The same hardest pairs, found for one left group and many right groups side by side. Every lane of a vector is one
   right group, and all of their points are compared. If groups have few points, this is faster than ruling some out. */

/* Groups of the right that follow one another and have the same members, segments and points. */
struct FN(Block) {
  int32_t first, count, members, originals, segments, points;
  const int32_t *segment;
  T *scale, *shift; /* of each point in each lane; 0 and NEVER in lanes without a group */
  T *weight;        /* of the first end of each point on a segment */
};

/* How many points a group has: its originals, then n on each segment. */
TARGET static int32_t FN(count_points)(const FN(Side) *s, int32_t g, const Rules *rules) {
  return s->originals[g] + rules->n * (s->list[s->kind[g] + 1] - s->list[s->kind[g]]);
}

/* Whether lanes pay for a block and a left group with this number of points. */
TARGET static int FN(worth_lanes)(int32_t points, const FN(Block) *block) {
  return block->count >= LEAST_LANES && (int64_t)points * block->points <= MOST_LOOKED_AT;
}

/* Lays out the measures of a block's points, lane by lane. */
TARGET static void FN(lay_out)(const FN(Task) *task, FN(Block) *block) {
  const FN(Side) *s = &task->problem->right;
  const Rules *rules = &task->problem->rules;
  int32_t n = rules->n;
  for (int32_t c = 0; c < n; c++) block->weight[c] = (T)(c + 1) / (T)(n + 1);
  for (int32_t p = 0; p < block->points * LANES; p++) block->scale[p] = 0, block->shift[p] = NEVER;
  for (int32_t lane = 0; lane < block->count; lane++) {
    int32_t h = block->first + lane;
    for (int32_t q = 0; q < block->points; q++) {
      int32_t inner = q - block->originals, e = inner < 0 ? 0 : inner / n;
      T *scale = block->scale + q * LANES + lane, *shift = block->shift + q * LANES + lane;
      *scale = 1;
      if (inner < 0) *shift = task->right.original_shift[s->first[h] + q];
      else FN(recall_point)(s, &task->right, h, e, block->segment + 2 * e, inner % n, rules, scale, shift);
    }
  }
}

/* The best pair so far in every lane: its value and its number, which is that of the left's point x points of the right
   + that of the right's. */
typedef struct {
  T value[LANES];
  int32_t pair[LANES];
} FN(Lanes);

TARGET INLINE void FN(hold_lane)(FN(Lanes) *best, int32_t lane, T value, int32_t pair) {
  int better = value > best->value[lane]; /* not "at least": the first of equals wins */
  best->value[lane] = better ? value : best->value[lane];
  best->pair[lane] = better ? pair : best->pair[lane];
}

/* The better of two in every lane, into the first; of equals the first pair. */
TARGET static void FN(merge)(FN(Lanes) *best, const FN(Lanes) *other) {
  SIMD for (int lane = 0; lane < LANES; lane++) {
    T a = best->value[lane], b = other->value[lane];
    int better = (b > a) | ((b == a) & (other->pair[lane] < best->pair[lane]));
    best->value[lane] = better ? b : a;
    best->pair[lane] = better ? other->pair[lane] : best->pair[lane];
  }
}

/* Holds one point of the left, as its similarities to the members of every lane, against all points of the block:
   even and odd ones against two separate bests, so that the processor need not wait for the previous comparison. */
TARGET static void FN(against_block)(const T *members, T shift, int32_t pair, const FN(Block) *block, int32_t n,
                                     FN(Lanes) best[2]) {
  const T *scales = block->scale, *shifts = block->shift;
  for (int32_t q = 0; q < block->originals; q++, pair++, scales += LANES, shifts += LANES)
    SIMD for (int lane = 0; lane < LANES; lane++)
      FN(hold_lane)(best + (q & 1), lane, members[q * LANES + lane] + (shifts[lane] + shift), pair);
  for (int32_t e = 0; e < block->segments && n > 0; e++) {
    const T *a = members + block->segment[2 * e] * LANES, *b = members + block->segment[2 * e + 1] * LANES;
    for (int32_t c = 0; c < n; c++, pair++, scales += LANES, shifts += LANES) {
      T u = block->weight[c], v = 1 - u;
      SIMD for (int lane = 0; lane < LANES; lane++)
        FN(hold_lane)(best + (c & 1), lane, (u * a[lane] + v * b[lane]) * scales[lane] + (shifts[lane] + shift), pair);
    }
  }
}

/* Which two members of its group a point lies between, and how much of the first it is. */
TARGET static T FN(decode)(const FN(Side) *s, int32_t g, int32_t point, int32_t n, int32_t *ends) {
  int32_t inner = point - s->originals[g];
  const int32_t *segment = s->segment + 2 * (int64_t)s->list[s->kind[g]] + (inner < 0 ? 0 : 2 * (inner / n));
  ends[0] = inner < 0 ? point : segment[0];
  ends[1] = inner < 0 ? point : segment[1];
  return inner < 0 ? 1 : (T)(inner % n + 1) / (T)(n + 1);
}

/* The product's entries of the members of group g with those of a block, lane by lane. */
TARGET static void FN(fetch)(const FN(Problem) *problem, int32_t g, const FN(Block) *block, T *entries) {
  const FN(Side) *l = &problem->left, *r = &problem->right;
  for (int32_t i = l->first[g]; i < l->first[g + 1]; i++, entries += block->members * LANES)
    for (int32_t lane = 0; lane < LANES; lane++) {
      int32_t h = block->first + (lane < block->count ? lane : 0);
      const T *entry = problem->product + l->row[i] * problem->stride + r->row[r->first[h]];
      for (int32_t q = 0; q < block->members; q++) entries[q * LANES + lane] = entry[q];
    }
}

/* The hardest pairs of group g of the left and every group of the block; `room` holds the product's entries. */
TARGET static void FN(hardest_in_lanes)(const FN(Task) *task, int32_t g, const FN(Block) *block, T *room,
                                        FN(Best) *found) {
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  int32_t first = l->first[g], k = l->first[g + 1] - first, n = problem->rules.n, width = block->members * LANES;
  T *mixed = room + (int64_t)k * width;
  FN(fetch)(problem, g, block, room);
  FN(Lanes) best[2];
  for (int i = 0; i < 2 * LANES; i++) best[i / LANES].value[i % LANES] = 2 * NEVER, best[i / LANES].pair[i % LANES] = 0;
  for (int32_t i = 0; i < l->originals[g]; i++) {
    T shift = task->left.original_shift[first + i];
    if (shift > (T)NEVER) FN(against_block)(room + i * width, shift, i * block->points, block, n, best);
  }
  const int32_t *segment = l->segment + 2 * (int64_t)l->list[l->kind[g]];
  int32_t points = FN(count_points)(l, g, &problem->rules) - l->originals[g];
  for (int32_t p = 0; p < points; p++) {
    const int32_t *ends = segment + 2 * (p / n);
    T scale, shift, u = (T)(p % n + 1) / (T)(n + 1), v = 1 - u;
    FN(recall_point)(l, &task->left, g, p / n, ends, p % n, &problem->rules, &scale, &shift);
    if (shift <= (T)NEVER) continue;
    const T *a = room + ends[0] * width, *b = room + ends[1] * width;
    for (int32_t q = 0; q < width; q++) mixed[q] = (u * a[q] + v * b[q]) * scale;
    FN(against_block)(mixed, shift, (l->originals[g] + p) * block->points, block, n, best);
  }
  FN(merge)(best, best + 1);
  for (int32_t lane = 0; lane < block->count; lane++) {
    FN(Best) *one = found + lane;
    one->value = best->value[lane];
    one->left_weight = FN(decode)(l, g, best->pair[lane] / block->points, n, one->left);
    one->right_weight = FN(decode)(r, block->first + lane, best->pair[lane] % block->points, n, one->right);
  }
}
