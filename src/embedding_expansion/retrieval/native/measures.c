/* What torch and scipy are slow at: how many gallery rows come before each relevant one and which centre is nearest,
   read off tables of inner products, and a walk on a graph. Plain C, called on pointers: it knows neither Python nor
   torch. Compiled for several instruction sets; which one runs is decided when it is called. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "../../core/search/native/instruction_sets.h"
#include "../../core/search/native/threads.h"

#define BYTES 64     /* of a vector: of floats sixteen, whatever the processor makes of it */
#define STEP 32      /* columns of a task; tables are padded to a multiple of it */
#define RUN 128      /* entries that are looked through where the table leaves one open */
#define ROWS 16      /* rows of a task */
#define MOST_RELEVANT 128 /* relevant rows of a query */
#define WALKS 8      /* side by side */

/* Some of the rows that are compared, in the order of their class. As queries they have `levels` relevant rows each,
   the k-th of column i at [k * stride + i]. */
typedef struct {
  const void *rows;      /* count x d */
  const int64_t *index;  /* count: which gallery row each is */
  int64_t count, stride;
  int32_t levels;
  int32_t first_limit, limit; /* how far is counted for the first relevant row, and for the others */
  const void *value;     /* the similarity of the relevant row, descending; infinity behind the last */
  const int32_t *column; /* which gallery row it is */
  int32_t *before;       /* counts the rows of other classes that come before it */
} Rows;

typedef struct {
  Rows left, right;
  const void *table;  /* left.count rows of `stride` entries; -infinity where a row is not to be found */
  int64_t stride, d;
  double tolerance;   /* of the table's entries */
  int32_t both;       /* whether the right rows are queries as well, the left ones their gallery */
  int64_t settled;    /* counts the products that had to be taken again */
} Tile;

/* The relevant rows of some queries, whose similarities are wanted. */
typedef struct {
  const void *queries, *gallery;
  int64_t count, stride, d;
  int32_t levels;
  const int32_t *place; /* levels x stride: in the gallery; -1 for none */
  void *value;
} Relevant;

/* Rows and the centres that they may belong to. An entry of a row is about its byte times the row's unit. */
typedef struct {
  const int32_t *table;    /* count x k: inner products of the bytes */
  const float *unit;       /* count */
  const float *center_unit, *half; /* k; half the squared norm */
  const float *rows, *centers;
  const float *allowance; /* count: how far an inner product less half the norm may be from the table's */
  int64_t count, k, d;
  int64_t *nearest;
  float *distance;   /* squared */
  int64_t looked_at; /* counts the distances that had to be taken */
} Choice;

/* Walks on a graph from several sources, in blocks of WALKS interleaved ones. */
typedef struct {
  const int64_t *starts; /* count + 1: where the edges of a row begin */
  const int32_t *column;
  const double *weight;
  const double *source; /* blocks x count x WALKS */
  double *solution;     /* the same */
  int64_t count;
  int32_t blocks, max_iterations;
  double alpha, tolerance;
} Walk;

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

EXPORT_CONSTANT(STEP)
EXPORT_CONSTANT(MOST_RELEVANT)
EXPORT_CONSTANT(WALKS)

/* Each returns 1, or 0 where there was no memory. */
int32_t count_f32(Tile *tile, int32_t threads) { CHOOSE(count, f32, tile, threads) }
int32_t count_f64(Tile *tile, int32_t threads) { CHOOSE(count, f64, tile, threads) }
int32_t similarities_f32(Relevant *relevant, int32_t threads) { CHOOSE(similarities, f32, relevant, threads) }
int32_t similarities_f64(Relevant *relevant, int32_t threads) { CHOOSE(similarities, f64, relevant, threads) }
int32_t choose_f32(Choice *choice, int32_t threads) { CHOOSE(choose, f32, choice, threads) }

int32_t solve_f64(Walk *walk, int32_t threads) { CHOOSE(solve, f64, walk, threads) }

/* Whether the processor multiplies bytes itself, and so several times faster than floats. */
int32_t multiplies_bytes(void) {
#ifdef SEVERAL_SETS
  __builtin_cpu_init();
  return instruction_set() == 2 && __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

/* How large the structures are that are handed over, for the other side to compare. */
void sizes(int64_t *of) {
  of[0] = sizeof(Tile);
  of[1] = sizeof(Relevant);
  of[2] = sizeof(Choice);
  of[3] = sizeof(Walk);
}
