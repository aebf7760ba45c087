/* The backward pass for any n: the gradient of the value of every hardest pair, winners held fixed, with respect to the
   inner products that it was computed from. Included once for every type and instruction set, after points.h. */

typedef struct {
  Rules rules;
  FN(Side) left, right;
  int64_t stride;
  int32_t symmetric;
  const int32_t *ends;
  const T *weights, *value, *gradient; /* for every group of the left and of the right */
  T *product;              /* gradient of the product, added to */
  T *left_gram, *right_gram; /* gradients of `gram`, added to */
} FN(Backward);

/* A point of a winning pair: its squared norm, its scale and its shift. */
typedef struct {
  T square, scale, shift;
} FN(Point);

TARGET static inline FN(Point) FN(point)(const Rules *rules, const T *gram, int32_t k, const int32_t *ends, T u) {
  T square = FN(square)(gram, k, ends[0], ends[1], u);
  int again = rules->normalize && ends[0] != ends[1];
  return (FN(Point)){square, again ? 1 / SQRT(square) : 1, rules->euclidean && !again ? (1 - square) / 2 : 0};
}

/* Adds the gradient that reaches a Gram matrix through the squared norm of one point. */
TARGET static inline void FN(norm_backward)(const Rules *rules, T *gram, int32_t k, const int32_t *ends, T u,
                                           const FN(Point) *point, T inner, T gradient) {
  int again = rules->normalize && ends[0] != ends[1];
  if (!again && !rules->euclidean) return;
  T g = again ? -gradient * inner / (2 * point->square) : -gradient / 2, v = 1 - u;
  gram[(int64_t)ends[0] * k + ends[0]] += g * u * u;
  if (ends[0] == ends[1]) return;
  gram[(int64_t)ends[0] * k + ends[1]] += 2 * g * u * v;
  gram[(int64_t)ends[1] * k + ends[1]] += g * v * v;
}

TARGET static void FN(pair_backward)(const FN(Backward) *p, int32_t g, int32_t h) {
  const FN(Side) *l = &p->left, *r = &p->right;
  int64_t at = (int64_t)g * r->groups + h;
  T gradient = p->gradient[at] + (p->symmetric ? p->gradient[(int64_t)h * r->groups + g] : 0);
  if (gradient == 0 || l->label[g] == r->label[h]) return;
  int32_t left_first = l->first[g], right_first = r->first[h];
  int32_t left_size = l->first[g + 1] - left_first, right_size = r->first[h + 1] - right_first;
  const int32_t *a = p->ends + 4 * at, *b = a + 2;
  T u = p->weights[2 * at], v = p->weights[2 * at + 1];
  FN(Point) x = FN(point)(&p->rules, l->gram + l->gram_at[g], left_size, a, u);
  FN(Point) y = FN(point)(&p->rules, r->gram + r->gram_at[h], right_size, b, v);
  T inner = p->value[at] - x.shift - y.shift;
  FN(norm_backward)(&p->rules, p->left_gram + l->gram_at[g], left_size, a, u, &x, inner, gradient);
  FN(norm_backward)(&p->rules, p->right_gram + r->gram_at[h], right_size, b, v, &y, inner, gradient);
  T scaled = gradient * x.scale * y.scale;
  for (int i = 0; i < 2; i++) {
    T *row = p->product + l->row[left_first + a[i]] * p->stride;
    T weight = scaled * (i ? 1 - u : u);
    row[r->row[right_first + b[0]]] += weight * v;
    row[r->row[right_first + b[1]]] += weight * (1 - v);
  }
}

/* On one thread: it writes to few places of large tables, and others would write to the same. */
TARGET static int FN(backward)(const FN(Backward) *p) {
  for (int32_t g = 0; g < p->left.groups; g++)
    for (int32_t h = p->symmetric ? g + 1 : 0; h < p->right.groups; h++) FN(pair_backward)(p, g, h);
  return 1;
}
