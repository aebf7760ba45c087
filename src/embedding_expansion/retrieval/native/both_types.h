/* What is done for float and double, for the instruction set that SET and TARGET name. */

#define TYPE f32
#define T float
#define I int32_t
#include "product.h"
#include "count.h"
#include "choose.h"
#undef TYPE
#undef T
#undef I

#define TYPE f64
#define T double
#define I int64_t
#include "product.h"
#include "count.h"
#include "walk.h"
#undef TYPE
#undef T
#undef I
