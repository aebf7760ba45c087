/* Vectors, and sums in double precision and in a fixed order, so that equal rows give equal sums wherever they are. */

#define LANES (int64_t)(BYTES / sizeof(T))
#define WIDE 8 /* lanes of a sum */

typedef T FN(Vector) __attribute__((vector_size(BYTES), aligned(sizeof(T))));
typedef I FN(Flags) __attribute__((vector_size(BYTES), aligned(sizeof(I))));
typedef T FN(Eight) __attribute__((vector_size(WIDE * sizeof(T)), aligned(sizeof(T))));
typedef double FN(Sums) __attribute__((vector_size(WIDE * sizeof(double))));

TARGET INLINE double FN(total)(const FN(Sums) * sums) {
  double total = 0;
  for (int lane = 0; lane < WIDE; lane++) total += (*sums)[lane];
  return total;
}

TARGET static double FN(inner_product)(const T *x, const T *y, int64_t d) {
  FN(Sums) one = {0}, other = {0};
  int64_t k = 0;
  for (; k + 2 * WIDE <= d; k += 2 * WIDE) {
    one += __builtin_convertvector(*(const FN(Eight) *)(x + k), FN(Sums)) *
           __builtin_convertvector(*(const FN(Eight) *)(y + k), FN(Sums));
    other += __builtin_convertvector(*(const FN(Eight) *)(x + k + WIDE), FN(Sums)) *
             __builtin_convertvector(*(const FN(Eight) *)(y + k + WIDE), FN(Sums));
  }
  one += other;
  double sum = FN(total)(&one);
  for (; k < d; k++) sum += (double)x[k] * y[k];
  return sum;
}
