/* What the model says after token 0, the most likely token every time. Build and run: make example && build/example */
#include "causalrn.h"

#include <stdio.h>

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#else
static uint64_t file[(CAUSALRN_FILE_BYTES + 7) / 8];
#endif

enum { LENGTH = CAUSALRN_CAPACITY > 0 && CAUSALRN_CAPACITY < 64 ? CAUSALRN_CAPACITY : 64 };

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, LENGTH) + 7) / 8]; /* state and working memory of one sequence */

static int load(causalrn_weights *weights)
{
#if CAUSALRN_WEIGHTS_INLINE
    return causalrn_use(weights, causalrn_payload);
#else
    FILE *stream = fopen("weights.bin", "rb");
    const size_t size = stream != NULL ? fread(file, 1, sizeof file, stream) : 0;
    if (stream != NULL)
        fclose(stream);
    return causalrn_load(weights, file, size);
#endif
}

int main(void)
{
    causalrn_weights weights;
    causalrn_session session;
    float logits[CAUSALRN_VOCABULARY];
    int32_t token = 0;
    int code = load(&weights);
    if (code == CAUSALRN_OK)
        code = causalrn_open(&session, &weights, memory, sizeof memory, 1, LENGTH);
    for (int step = 0; step < LENGTH && code == CAUSALRN_OK; step++) {
        code = causalrn_step(&session, &token, logits);
        token = 0;
        for (int32_t other = 1; other < CAUSALRN_VOCABULARY; other++)
            token = logits[other] > logits[token] ? other : token;
        printf("%d ", (int)token);
    }
    puts(code == CAUSALRN_OK ? "" : causalrn_message(code));
    return code;
}
