/* The handles of crn_api.h for this model. */
#ifndef CAUSALRN_API_H
#define CAUSALRN_API_H

#include "causalrn.h"
#include "crn_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What dlsym finds by the name without a number, in a shared library. */
#define causalrn_api CAUSALRN_PASTE(causalrn_api, CAUSALRN_MODEL)
const crn_api *causalrn_api(void);

#ifdef __cplusplus
}
#endif
#endif
