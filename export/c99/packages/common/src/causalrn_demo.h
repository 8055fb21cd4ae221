/* The model as the examples use it: text in, text out, one sequence, all memory static. A program of your own needs none of
 * this: causalrn.h has the interface, and causalrn_weights.h the weights. */
#ifndef CAUSALRN_DEMO_H
#define CAUSALRN_DEMO_H

#include "causalrn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Most tokens of an answer with its question: RAM is for so many. */
#ifndef CAUSALRN_DEMO_POSITIONS
#define CAUSALRN_DEMO_POSITIONS (CAUSALRN_CAPACITY > 0 && CAUSALRN_CAPACITY < 128 ? CAUSALRN_CAPACITY : 128)
#endif

#define causalrn_demo_begin CAUSALRN_PASTE(causalrn_demo_begin, CAUSALRN_MODEL)
#define causalrn_demo_ask CAUSALRN_PASTE(causalrn_demo_ask, CAUSALRN_MODEL)
#define causalrn_demo_next CAUSALRN_PASTE(causalrn_demo_next, CAUSALRN_MODEL)

/* Open the model, and run its golden vectors. `worst`: largest error of a logit in percent of what rounding explains, on
 * this device; more than 100 is wrong. Gives CAUSALRN_OK or another code. */
int causalrn_demo_begin(float *worst);

/* Forget everything and take a text: letters a to z; any bytes; or, without an alphabet, token ids as in "3 4 5". */
int causalrn_demo_ask(const char *text);

/* The next piece of the answer, the most likely token every time. `text` becomes NULL at its end. */
int causalrn_demo_next(const char **text);

#ifdef __cplusplus
}
#endif
#endif
