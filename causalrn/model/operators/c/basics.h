/* What every kernel here starts with. */

#define _POSIX_C_SOURCE 200112L

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if USE_DOUBLE
typedef double Real;
typedef uint64_t Bits;
#else
typedef float Real;
typedef uint32_t Bits;
#endif

enum { OK, NO_MEMORY };

#include "threads.h"
#include "vectors.h"
#include "rows.h"
