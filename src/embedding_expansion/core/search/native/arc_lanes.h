/* The hardest pairs on whole segments, as in arcs.h, for one group of the left and a block of the right side by side. A
   group's points are its members and its segments; one that takes no part has the shift NEVER. */

/* The best pair so far in every lane. */
typedef struct {
  T value[LANES], left_weight[LANES], right_weight[LANES];
  int32_t pair[LANES];
} FN(ArcLanes);

TARGET static void FN(lay_out_arcs)(const FN(Task) *task, FN(Block) *block) {
  const FN(Side) *s = &task->problem->right;
  const FN(Points) *p = &task->right;
  for (int32_t q = 0; q < block->points; q++) {
    FN(Arcs) *arcs = block->arcs + q;
    int32_t e = q - block->members; /* below 0 for a member */
    for (int32_t lane = 0; lane < LANES; lane++) {
      int32_t h = block->first + (lane < block->count ? lane : 0);
      const T *own = s->own + s->own_at[h];
      if (e < 0) {
        arcs->first[lane] = own[(int64_t)q * (block->members + 1)];
        arcs->shift[lane] = p->original_shift[s->first[h] + q];
        continue;
      }
      FN(Segment) segment = FN(segment)(s, p, h, e, block->segment + 2 * (int64_t)e);
      arcs->first[lane] = segment.first, arcs->both[lane] = segment.both, arcs->second[lane] = segment.second;
      arcs->sum[lane] = segment.sum, arcs->difference[lane] = segment.difference;
      arcs->shift[lane] = p->most_shift[p->at[h] + e];
    }
  }
}

/* Holds a pair of points, told by their weights, squared norms and inner product, against the best one of its lane. */
TARGET INLINE void FN(hold_arc)(FN(ArcLanes) *best, int32_t lane, int takes_part, T u, T v, T value, int32_t pair) {
  int better = takes_part & (value > best->value[lane]);
  best->value[lane] = better ? value : best->value[lane];
  best->left_weight[lane] = better ? u : best->left_weight[lane];
  best->right_weight[lane] = better ? v : best->right_weight[lane];
  best->pair[lane] = better ? pair : best->pair[lane];
}

/* Whether a point on a segment has a direction, where it needs one. */
TARGET INLINE int FN(may_be)(const Rules *rules, T square) {
  return !rules->normalize | (square >= (T)rules->smallest);
}

/* The similarity of two points, of which those on segments have the squared norm `square` together. */
TARGET INLINE T FN(similarity)(const Rules *rules, T inner, T square, T shift) {
  T least = (T)rules->smallest * (T)rules->smallest; /* of two points; what has less is not held */
  return shift + (rules->normalize ? inner / SQRT(square > least ? square : 1) : inner + (1 - square) / 2);
}

/* A member of the left against a segment in one lane, by its entries a and b with the segment's ends. */
TARGET INLINE void FN(member_to_arc)(const T *a, const T *b, T shift, const FN(Arcs) *arc, int32_t lane, int32_t pair,
                                     const Rules *rules, FN(ArcLanes) *best) {
  FN(Segment) s = {arc->first[lane], arc->both[lane], arc->second[lane], arc->sum[lane], arc->difference[lane]};
  T v, inner;
  int inside = FN(nearest)(&s, a[lane], b[lane], rules, &v);
  T square = FN(square_at)(&s, v);
  inner = v * a[lane] + (1 - v) * b[lane];
  inside &= FN(may_be)(rules, square) & (arc->shift[lane] > (T)NEVER);
  FN(hold_arc)(best, lane, inside, 1, v, FN(similarity)(rules, inner, square, shift), pair);
}

/* A segment of the left against a member in one lane, by its ends' entries. */
TARGET INLINE void FN(arc_to_member)(const FN(Segment) *own, const T *one, const T *two, T shift, int32_t lane,
                                     int32_t pair, const Rules *rules, FN(ArcLanes) *best) {
  T u;
  int inside = FN(nearest)(own, one[lane], two[lane], rules, &u);
  T square = FN(square_at)(own, u), inner = u * one[lane] + (1 - u) * two[lane];
  inside &= FN(may_be)(rules, square) & (shift > (T)NEVER);
  FN(hold_arc)(best, lane, inside, u, 1, FN(similarity)(rules, inner, square, shift), pair);
}

/* A segment of the left against one in one lane: m and n are its first end's entries, o and p its second's. */
TARGET INLINE void FN(arc_to_arc)(const FN(Segment) *own, const T *m, const T *n, const T *o, const T *p,
                                  const FN(Arcs) *arc, int32_t lane, int32_t pair, const Rules *rules,
                                  FN(ArcLanes) *best) {
  FN(Segment) s = {arc->first[lane], arc->both[lane], arc->second[lane], arc->sum[lane], arc->difference[lane]};
  T entry[4] = {m[lane], n[lane], o[lane], p[lane]}, u, v;
  int inside = rules->normalize ? FN(between_arcs)(own, &s, entry, &u, &v) : FN(between_lines)(own, &s, entry, &u, &v);
  T x = FN(square_at)(own, u), y = FN(square_at)(&s, v);
  T inner = u * (v * entry[0] + (1 - v) * entry[1]) + (1 - u) * (v * entry[2] + (1 - v) * entry[3]);
  inside &= FN(may_be)(rules, x) & FN(may_be)(rules, y) & (arc->shift[lane] > (T)NEVER);
  T value = rules->normalize ? FN(similarity)(rules, inner, x * y, 0) : inner + (1 - x) / 2 + (1 - y) / 2;
  FN(hold_arc)(best, lane, inside, u, v, value, pair);
}

/* A member of the left, by its entries, against the members of a block, or against its segments. */
TARGET static void FN(member_against_block)(const T *entries, T shift, int32_t pair, const FN(Block) *block,
                                            const Rules *rules, int segments, FN(ArcLanes) *best) {
  const FN(Arcs) *arcs = block->arcs, *arc = arcs + block->members;
  for (int32_t q = 0; !segments && q < block->members; q++)
    SIMD for (int lane = 0; lane < LANES; lane++)
      FN(hold_arc)(best, lane, 1, 1, 1, entries[q * LANES + lane] + (arcs[q].shift[lane] + shift), pair + q);
  pair += block->members;
  for (int32_t e = 0; segments && e < block->segments; e++) {
    const T *a = entries + block->segment[2 * e] * LANES, *b = entries + block->segment[2 * e + 1] * LANES;
    SIMD for (int lane = 0; lane < LANES; lane++)
      FN(member_to_arc)(a, b, shift, arc + e, lane, pair + e, rules, best);
  }
}

/* A segment of the left, by its ends' entries, against all points of a block. */
TARGET static void FN(segment_against_block)(const FN(Segment) *own, const T *one, const T *two, int32_t pair,
                                             const FN(Block) *block, const Rules *rules, FN(ArcLanes) *best) {
  const FN(Arcs) *arcs = block->arcs, *arc = arcs + block->members;
  for (int32_t q = 0; q < block->members; q++, pair++)
    SIMD for (int lane = 0; lane < LANES; lane++)
      FN(arc_to_member)(own, one + q * LANES, two + q * LANES, arcs[q].shift[lane], lane, pair, rules, best);
  for (int32_t e = 0; e < block->segments; e++, pair++) {
    int32_t i = block->segment[2 * e] * LANES, j = block->segment[2 * e + 1] * LANES;
    SIMD for (int lane = 0; lane < LANES; lane++)
      FN(arc_to_arc)(own, one + i, one + j, two + i, two + j, arc + e, lane, pair, rules, best);
  }
}

/* Which two members of its group a point is or lies between. */
TARGET static void FN(tell_arc)(const FN(Side) *s, int32_t g, int32_t point, int32_t *ends) {
  int32_t k = s->first[g + 1] - s->first[g];
  const int32_t *segment = s->segment + 2 * ((int64_t)s->list[s->kind[g]] + (point < k ? 0 : point - k));
  ends[0] = point < k ? point : segment[0];
  ends[1] = point < k ? point : segment[1];
}

/* The hardest pairs of group g of the left and every group of the block; `room` holds the product's entries. */
TARGET static void FN(hardest_arcs_in_lanes)(const FN(Task) *task, int32_t g, const FN(Block) *block, T *room,
                                             FN(Best) *found) {
  const FN(Problem) *problem = task->problem;
  const Rules *rules = &problem->rules;
  const FN(Side) *l = &problem->left;
  const T *shifts = task->left.original_shift + l->first[g];
  int32_t k = l->first[g + 1] - l->first[g], width = block->members * LANES;
  FN(fetch)(problem, g, block, room);
  FN(ArcLanes) best;
  for (int lane = 0; lane < LANES; lane++) best.value[lane] = 2 * NEVER, best.pair[lane] = 0;
  for (int lane = 0; lane < LANES; lane++) best.left_weight[lane] = best.right_weight[lane] = 1;
  int bilinear = !rules->normalize && !rules->euclidean; /* largest at the ends */
  for (int segments = 0; segments <= !bilinear; segments++)
    for (int32_t i = 0; i < k; i++)
      if (shifts[i] > (T)NEVER)
        FN(member_against_block)(room + i * width, shifts[i], i * block->points, block, rules, segments, &best);
  const int32_t *segment = l->segment + 2 * (int64_t)l->list[l->kind[g]];
  int32_t count = l->list[l->kind[g] + 1] - l->list[l->kind[g]];
  for (int32_t e = 0; e < count && !bilinear; e++, segment += 2) {
    if (task->left.most_shift[task->left.at[g] + e] <= (T)NEVER) continue;
    FN(Segment) own = FN(segment)(l, &task->left, g, e, segment);
    FN(segment_against_block)(&own, room + segment[0] * width, room + segment[1] * width, (k + e) * block->points,
                              block, rules, &best);
  }
  for (int32_t lane = 0; lane < block->count; lane++) {
    FN(Best) *one = found + lane;
    *one = (FN(Best)){best.value[lane], best.left_weight[lane], best.right_weight[lane], {0, 0}, {0, 0}};
    FN(tell_arc)(l, g, best.pair[lane] / block->points, one->left);
    FN(tell_arc)(&problem->right, block->first + lane, best.pair[lane] % block->points, one->right);
  }
}
