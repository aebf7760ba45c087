/* The search for the hardest pair of points of every two groups, and its backward pass. Plain C, called on pointers,
   without Python or torch. Compiled for several instruction sets; which one runs is decided when it is loaded. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "instruction_sets.h"
#include "threads.h"

#define SIMD _Pragma("omp simd") /* a loop over lanes, for the compiler to keep as one */

#define LANES 16            /* groups side by side: of floats, what the widest vector holds */
#define LEAST_LANES 4       /* fewer groups do not pay */
#define MOST_LOOKED_AT 4096 /* pairs of points of two groups; of more pairs it is faster to rule some out */
#define MOST_KEPT 8         /* points on a segment whose measures are stored; more points are measured when read */
#define NEVER (-1e30)       /* the value of an excluded point, below every real one; finite, so that sums stay plain */

typedef struct {
  int32_t n; /* points on a segment */
  int32_t normalize, euclidean;
  double smallest; /* the squared norm below which a point has no direction */
} Rules;

#define SET plain
#include "both_types.h"
#undef SET

#ifdef SEVERAL_SETS
#define SET avx2
#include "both_types.h"
#undef SET

#define SET avx512
#include "both_types.h"
#undef SET
#endif

EXPORT_CONSTANT(NEVER)

int32_t search_f32(void *problem, int32_t threads) { CHOOSE(search, f32, problem, threads) }
int32_t search_f64(void *problem, int32_t threads) { CHOOSE(search, f64, problem, threads) }
int32_t backward_f32(void *given) { CHOOSE(backward, f32, given) }
int32_t backward_f64(void *given) { CHOOSE(backward, f64, given) }

/* How large the structures are that are handed over, for the other side to compare; the same for all types and sets. */
void sizes(int64_t *of) {
  of[0] = sizeof(PASTE(Problem, f32, plain));
  of[1] = sizeof(PASTE(Backward, f32, plain));
}
