/* The handles of crn_api.h for one model: memory, slots, files. Needs a C library with malloc and files, which causalrn.c
 * does not.
 *
 * A shared library is these two files: cc -std=c99 -O3 -shared -fPIC -fvisibility=hidden causalrn.c causalrn_api.c -lm
 */
#ifdef __cplusplus

#error "causalrn_api.c is C99: compile it as C; C++ includes causalrn.h"

#else

#include "causalrn_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#endif

#include "memory.h"
#include "models.h"
#include "slots.h"
#include "requests.h"
#include "headers.h"
#include "state_files.h"
#include "table.h"

#endif
