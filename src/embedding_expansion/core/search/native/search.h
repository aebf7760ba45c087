/* The search over all pairs of groups, shared out to threads. */

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
    if (problem->rules.infinite) FN(hardest_on_arcs)(task, g, h, &best);
    else FN(hardest_pair)(task, g, h, row, &best);
    FN(keep)(problem, g, h, &best);
  }
  free(row);
  return 1;
}

/* Gives back 0 where memory is out, 2 where some arc has a hole, which is not for this search, else 1. */
static int FN(search)(FN(Problem) *problem, int32_t threads) {
  FN(Task) task = {.problem = problem};
  int done = FN(measure)(&problem->left, &task.left, &problem->rules) &&
             FN(measure)(&problem->right, &task.right, &problem->rules);
  if (done && (task.left.holed || task.right.holed)) done = 2;
  else if (done) done = share(FN(search_group), &task, problem->left.groups, threads);
  free(task.left.at), free(task.left.memory), free(task.right.at), free(task.right.memory);
  return done;
}
