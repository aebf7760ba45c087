/* The search over all pairs of groups, shared among threads. */

/* Measures a block for the lanes. Returns 0 if memory has run out. */
TARGET static int FN(measure_block)(const FN(Task) *task, FN(Block) *block) {
  size_t n = (size_t)task->problem->rules.n;
  block->scale = malloc(sizeof(T) * ((size_t)(2 * LANES) * (size_t)block->points + n));
  if (!block->scale) return 0;
  block->shift = block->scale + LANES * block->points;
  block->weight = block->shift + LANES * block->points;
  FN(lay_out)(task, block);
  return 1;
}

/* Cuts the groups of the right into blocks, and lays out those that are searched in lanes for some group of the left.
   Returns 0 if memory has run out. */
TARGET static int FN(cut)(FN(Task) *task) {
  const FN(Side) *l = &task->problem->left, *s = &task->problem->right;
  const Rules *rules = &task->problem->rules;
  int32_t fewest = INT32_MAX; /* points of a group of the left */
  for (int32_t g = 0; g < l->groups; g++) {
    int32_t points = FN(count_points)(l, g, rules);
    fewest = points < fewest ? points : fewest;
  }
  task->blocks = malloc(sizeof(FN(Block)) * (size_t)(s->groups + 1));
  if (!task->blocks) return 0;
  for (int32_t h = 0; h < s->groups;) {
    int32_t kind = s->kind[h], count = 1;
    while (count < LANES && h + count < s->groups && s->kind[h + count] == kind) count++;
    FN(Block) block = {.first = h,
                       .count = count,
                       .members = s->first[h + 1] - s->first[h],
                       .originals = s->originals[h],
                       .segments = s->list[kind + 1] - s->list[kind],
                       .points = FN(count_points)(s, h, rules),
                       .segment = s->segment + 2 * (int64_t)s->list[kind]};
    if (FN(worth_lanes)(fewest, &block) && !FN(measure_block)(task, &block)) return 0;
    task->blocks[task->block_count++] = block;
    task->widest = block.members > task->widest ? block.members : task->widest;
    h += count;
  }
  return 1;
}

/* The squared norm of a winning point, and its shift where it is an original. */
TARGET static T FN(square_of)(const FN(Side) *s, int32_t g, const int32_t *ends, const Rules *rules, T *shift) {
  if (ends[0] != ends[1]) return 1; /* it is normalised again */
  T square = s->gram[s->gram_at[g] + (int64_t)ends[0] * (s->first[g + 1] - s->first[g] + 1)];
  if (rules->euclidean) *shift += (1 - square) / 2;
  return square;
}

/* An inner product with a point that is normalised again, clamped to the product of the norms: cancellation rounds. */
TARGET static T FN(within_norms)(const FN(Problem) *problem, int32_t g, int32_t h, const FN(Best) *best) {
  if (!problem->rules.normalize || (best->left[0] == best->left[1] && best->right[0] == best->right[1]))
    return best->value;
  T shift = 0, square = FN(square_of)(&problem->left, g, best->left, &problem->rules, &shift);
  T limit = SQRT(square * FN(square_of)(&problem->right, h, best->right, &problem->rules, &shift));
  T inner = best->value - shift;
  return (inner > limit ? limit : inner < -limit ? -limit : inner) + shift;
}

TARGET static void FN(keep)(const FN(Problem) *problem, int32_t g, int32_t h, const FN(Best) *best) {
  int64_t at = (int64_t)g * problem->right.groups + h;
  int32_t *ends = problem->ends + 4 * at;
  ends[0] = best->left[0], ends[1] = best->left[1], ends[2] = best->right[0], ends[3] = best->right[1];
  problem->weights[2 * at] = best->left_weight;
  problem->weights[2 * at + 1] = best->right_weight;
  problem->value[at] = FN(within_norms)(problem, g, h, best);
  if (problem->symmetric) problem->value[(int64_t)h * problem->right.groups + g] = problem->value[at];
}

/* The hardest pairs of left group g with all right groups. Returns 0 if memory has run out. */
TARGET static int FN(search_group)(void *of, int32_t g) {
  const FN(Task) *task = of;
  const FN(Problem) *problem = task->problem;
  const FN(Side) *l = &problem->left, *r = &problem->right;
  const FN(Best) nothing = {0, 1, 1, {0, 0}, {0, 0}};
  FN(Best) best[LANES];
  int32_t points = FN(count_points)(l, g, &problem->rules), in_lanes_widest = 0;
  for (int32_t i = 0; i < task->block_count; i++) {
    const FN(Block) *block = task->blocks + i;
    if (FN(worth_lanes)(points, block) && block->members > in_lanes_widest) in_lanes_widest = block->members;
  }
  size_t lanes_room = (size_t)LANES * (size_t)(l->first[g + 1] - l->first[g] + 1) * (size_t)in_lanes_widest;
  size_t row_room = (size_t)task->widest;
  T *room = malloc(sizeof(T) * (lanes_room > row_room ? lanes_room : row_room));
  if (!room) return 0;
  for (int32_t i = 0; i < task->block_count; i++) {
    const FN(Block) *block = task->blocks + i;
    int32_t from = problem->symmetric && g > block->first ? g - block->first : 0;
    int in_lanes = from < block->count && FN(worth_lanes)(points, block);
    if (in_lanes) FN(hardest_in_lanes)(task, g, block, room, best);
    for (int32_t lane = from; lane < block->count; lane++) {
      int32_t h = block->first + lane;
      int same = l->label[g] == r->label[h];
      if (!same && !in_lanes) FN(hardest_pair)(task, g, h, room, best + lane);
      FN(keep)(problem, g, h, same ? &nothing : best + lane);
    }
  }
  free(room);
  return 1;
}

/* Returns 1, or 0 if memory has run out. */
static int FN(search)(FN(Problem) *problem, int32_t threads) {
  FN(Task) task = {.problem = problem};
  FN(Points) left = {0};
  int done = FN(measure)(&problem->right, &task.right, &problem->rules, 1) &&
             (problem->symmetric || FN(measure)(&problem->left, &left, &problem->rules, 0));
  task.left = problem->symmetric ? task.right : left;
  done = done && FN(cut)(&task) && share(FN(search_group), &task, problem->left.groups, threads);
  for (int32_t i = 0; i < task.block_count; i++) free(task.blocks[i].scale);
  free(task.blocks), free(left.at), free(left.memory), free(task.right.at), free(task.right.memory);
  return done;
}
