/* A prefill whose last token fails, where the sums have two places: past[i], and what lies there, stay as they were.
 * Arguments: the weights file, and the number of tokens. The last one is 28, which overflows. */
#include "causalrn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST CAUSALRN_CAPACITY

static uint64_t file[(CAUSALRN_FILE_BYTES + 7) / 8];

int main(int count, char **words)
{
    causalrn_weights weights;
    causalrn_session session;
    const size_t size = causalrn_session_size(1, MOST), state = CAUSALRN_STATE_BYTES(1, MOST);
    unsigned char *memory = malloc(size), *second = calloc(1, state), *kept = malloc(state);
    void *before[CAUSALRN_TENSORS];
    float logits[MOST * CAUSALRN_VOCABULARY], after[CAUSALRN_VOCABULARY];
    int32_t tokens[MOST] = {3};
    const int32_t start[4] = {3, 4, 5, 6};
    const int32_t time = count > 2 ? atoi(words[2]) : 0;
    FILE *stream = fopen(words[1], "rb");
    int code;
    if (stream == NULL || memory == NULL || second == NULL || kept == NULL || time < 1 || time > MOST)
        return 2;
    code = causalrn_load(&weights, file, fread(file, 1, sizeof file, stream));
    fclose(stream);
    if (code != CAUSALRN_OK || causalrn_open(&session, &weights, memory, size, 1, MOST) != CAUSALRN_OK)
        return 2;
    if (causalrn_prefill(&session, start, 3, logits) != CAUSALRN_OK)
        return 2;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        session.next[i] = second + ((unsigned char *)session.past[i] - memory);
        before[i] = session.past[i];
    }
    memcpy(kept, memory, state);
    tokens[time - 1] = 28;
    code = causalrn_prefill(&session, tokens, time, logits);
    if (code != CAUSALRN_NOT_FINITE || session.position != 3)
        return 3;
    if (memcmp(before, session.past, sizeof before) != 0 || memcmp(kept, memory, state) != 0)
        return 1;
    if (causalrn_step(&session, start + 3, after) != CAUSALRN_OK) /* goes on as if nothing had been asked */
        return 3;
    code = causalrn_open(&session, &weights, memory, size, 1, MOST);
    if (code == CAUSALRN_OK)
        code = causalrn_prefill(&session, start, 4, logits);
    free(memory), free(second), free(kept);
    return code != CAUSALRN_OK ? 3 : memcmp(logits + 3 * CAUSALRN_VOCABULARY, after, sizeof after) != 0;
}
