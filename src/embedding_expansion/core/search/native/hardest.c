/* The search for the hardest pair of points of every two groups, and its way back. Plain C, called on pointers: it
   knows neither Python nor torch. Compiled for several instruction sets; which one runs is decided when it is loaded. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "threads.h"

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define SIMD _Pragma("omp simd") /* a loop over lanes, for the compiler to keep as one */

#define LANES 16            /* groups side by side: of floats, what the widest vector holds */
#define LEAST_LANES 4       /* groups that make it worth while */
#define MOST_LOOKED_AT 4096 /* pairs of points of two groups, of more it is better to rule out */
#define MOST_KEPT 8         /* points on a segment whose measures are kept, of more each is measured when looked at */
#define MOST_ARCS 1024      /* the same, where points are segments */
#define NEVER (-1e30f) /* no value is smaller; finite, so that arithmetic on it stays plain */

typedef struct {
  int32_t n; /* points on a segment */
  int32_t infinite, normalize, euclidean;
  double smallest;     /* squared norm under which a point has no direction */
  double least_length; /* squared norm under which two ends are one, or opposite */
} Rules;

#define PASTE_(name, type, set) name##_##type##_##set
#define PASTE(name, type, set) PASTE_(name, type, set)
#define FN(name) PASTE(name, TYPE, SET)

#define SET plain
#define TARGET
#include "both_types.h"
#undef SET
#undef TARGET

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SEVERAL_SETS

#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "both_types.h"
#undef SET
#undef TARGET

#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#include "both_types.h"
#undef SET
#undef TARGET
#endif

static int32_t highest_set = 2;

/* Use no higher instruction set than this one; once, before anything is searched. */
void use_at_most(int32_t set) { highest_set = set; }

/* 0: plain, 1: AVX2 and FMA, 2: AVX-512. */
int32_t instruction_set(void) {
#ifdef SEVERAL_SETS
  __builtin_cpu_init();
  if (highest_set >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return 2;
  if (highest_set >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

#ifdef SEVERAL_SETS
#define CHOOSE(name, type, ...)                                                    \
  switch (instruction_set()) {                                                     \
    case 2: return PASTE(name, type, avx512)(__VA_ARGS__);                         \
    case 1: return PASTE(name, type, avx2)(__VA_ARGS__);                           \
    default: return PASTE(name, type, plain)(__VA_ARGS__);                         \
  }
#else
#define CHOOSE(name, type, ...) return PASTE(name, type, plain)(__VA_ARGS__);
#endif

int32_t search_f32(void *problem, int32_t threads) { CHOOSE(search, f32, problem, threads) }
int32_t search_f64(void *problem, int32_t threads) { CHOOSE(search, f64, problem, threads) }
int32_t pass_back_f32(void *passing) { CHOOSE(pass_back, f32, passing) }
int32_t pass_back_f64(void *passing) { CHOOSE(pass_back, f64, passing) }

/* How large the structures are that are handed over, for the other side to compare; the same for all types and sets. */
void sizes(int64_t *of) {
  of[0] = sizeof(PASTE(Problem, f32, plain));
  of[1] = sizeof(PASTE(Passing, f32, plain));
}
