/* The search and its backward pass for float and double, for the instruction set that SET and TARGET name. */

#define TYPE f32
#define T float
#define SQRT sqrtf
#include "points.h"
#include "pairs.h"
#include "lanes.h"
#include "search.h"
#include "backward.h"
#undef TYPE
#undef T
#undef SQRT

#define TYPE f64
#define T double
#define SQRT sqrt
#include "points.h"
#include "pairs.h"
#include "lanes.h"
#include "search.h"
#include "backward.h"
#undef TYPE
#undef T
#undef SQRT
