/* The search and its way back for float and double, for the instruction set that SET and TARGET name. */

#define TYPE f32
#define T float
#define SQRT sqrtf
#define ABS fabsf
#include "points.h"
#include "pairs.h"
#include "arcs.h"
#include "holes.h"
#include "lanes.h"
#include "arc_lanes.h"
#include "search.h"
#include "gradient.h"
#undef TYPE
#undef T
#undef SQRT
#undef ABS

#define TYPE f64
#define T double
#define SQRT sqrt
#define ABS fabs
#include "points.h"
#include "pairs.h"
#include "arcs.h"
#include "holes.h"
#include "lanes.h"
#include "arc_lanes.h"
#include "search.h"
#include "gradient.h"
#undef TYPE
#undef T
#undef SQRT
#undef ABS
