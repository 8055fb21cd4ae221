/* Runs the golden vectors of golden.h: the logits have to be those of the float64 model to within rounding, and prefill
 * has to give the bits of single steps. Build and run: make test
 *
 * On a device without a C library, compile with -DCAUSALRN_NO_MAIN and call causalrn_selftest. */
#include "causalrn.h"
#include "golden.h"

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#endif

enum { PAIR = 2, LENGTH = CAUSALRN_CAPACITY > 0 ? CAUSALRN_CAPACITY : GOLDEN_STEPS };

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, LENGTH) + 7) / 8];
static causalrn_session session;

int causalrn_selftest(const causalrn_weights *weights, float *worst);

/* A number that any changed bit changes (FNV-1a). */
static uint32_t hash_of(uint32_t hash, const float *values)
{
    const unsigned char *bytes = (const unsigned char *)values;
    for (size_t i = 0; i < CAUSALRN_VOCABULARY * sizeof(float); i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

/* Largest |error| of a step's logits, in units of what rounding explains. NaN fails. */
static float error_of(const float *logits, int step)
{
    float worst = 0.0f;
    for (int i = 0; i < CAUSALRN_VOCABULARY; i++) {
        const float difference = logits[i] - golden_logits[step * CAUSALRN_VOCABULARY + i];
        const float error = (difference < 0.0f ? -difference : difference) / golden_bounds[step];
        worst = error <= worst ? worst : error;
    }
    return worst;
}

/* Gives CAUSALRN_OK, an error of the calls, or -1 for logits that are wrong and -2 for a prefill that differs;
 * `worst`: largest error, 1 is the most that is allowed. */
int causalrn_selftest(const causalrn_weights *weights, float *worst)
{
    float logits[PAIR * CAUSALRN_VOCABULARY];
    uint32_t stepped = 2166136261u, prefilled = stepped;
    int code = causalrn_open(&session, weights, memory, sizeof memory, 1, LENGTH);
    *worst = 0.0f;
    for (int step = 0; step < GOLDEN_STEPS && code == CAUSALRN_OK; step++) {
        code = causalrn_step(&session, golden_tokens + step, logits);
        const float error = error_of(logits, step);
        *worst = error <= *worst ? *worst : error;
        stepped = hash_of(stepped, logits);
    }
    causalrn_reset(&session);
    for (int step = 0; step < GOLDEN_STEPS && code == CAUSALRN_OK; step += PAIR) {
        const int count = GOLDEN_STEPS - step < PAIR ? GOLDEN_STEPS - step : PAIR;
        code = causalrn_prefill(&session, golden_tokens + step, count, logits);
        for (int i = 0; i < count; i++)
            prefilled = hash_of(prefilled, logits + i * CAUSALRN_VOCABULARY);
    }
    if (code != CAUSALRN_OK)
        return code;
    return !(*worst <= 1.0f) ? -1 : stepped != prefilled ? -2 : CAUSALRN_OK;
}

#ifndef CAUSALRN_NO_MAIN
#include <stdio.h>

#if !CAUSALRN_WEIGHTS_INLINE
static uint64_t file[CAUSALRN_FILE_BYTES / 8 + 1]; /* one more: a file that is too long is noticed */
#endif

int main(int count, char **words)
{
    causalrn_weights weights;
    float worst = 0.0f;
    int code;
#if CAUSALRN_WEIGHTS_INLINE
    (void)count, (void)words;
    code = causalrn_use(&weights, causalrn_payload);
#else
    const char *path = count > 1 ? words[1] : "weights.bin";
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        printf("%s cannot be opened: run this where it lies, or name it\n", path);
        return 2;
    }
    code = causalrn_load(&weights, file, fread(file, 1, sizeof file, stream));
    fclose(stream);
#endif
    if (code == CAUSALRN_OK)
        code = causalrn_selftest(&weights, &worst);
    if (code > CAUSALRN_OK)
        printf("failed: %s\n", causalrn_message(code));
    else
        printf("%s: %d tokens, largest error %.2f of what is allowed, prefill %s steps\n", code == 0 ? "passed" : "failed",
               GOLDEN_STEPS, (double)worst, code == -2 ? "differs from" : "bit-equal to");
    return code != CAUSALRN_OK;
}
#endif
