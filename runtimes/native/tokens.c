/* Takes tokens and writes the logits of all of them: what a build of causalrn.c computes, on a processor that may be
 * emulated. Arguments: the weights file, a file of int32 tokens, the file to write, and how many tokens at once. */
#include "causalrn.h"

#include <stdio.h>
#include <stdlib.h>

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#else
static uint64_t file[CAUSALRN_FILE_BYTES / 8 + 1];
#endif

static int load(causalrn_weights *weights, const char *path)
{
#if CAUSALRN_WEIGHTS_INLINE
    (void)path;
    return causalrn_use(weights, causalrn_payload);
#else
    FILE *stream = fopen(path, "rb");
    const size_t size = stream != NULL ? fread(file, 1, sizeof file, stream) : 0;
    if (stream != NULL)
        fclose(stream);
    return causalrn_load(weights, file, size);
#endif
}

int main(int count, char **words)
{
    causalrn_weights weights;
    causalrn_session session;
    const int32_t at_once = count == 5 ? (int32_t)atoi(words[4]) : 1;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)at_once);
    float *logits = malloc(sizeof *logits * (size_t)at_once * CAUSALRN_VOCABULARY);
    FILE *in = count == 5 ? fopen(words[2], "rb") : NULL, *out = count == 5 ? fopen(words[3], "wb") : NULL;
    const int32_t capacity = CAUSALRN_CAPACITY > 0 ? CAUSALRN_CAPACITY : 4096;
    const size_t size = causalrn_session_size(1, capacity);
    void *memory = malloc(size);
    int code;
    size_t taken;
    if (in == NULL || out == NULL || tokens == NULL || logits == NULL || memory == NULL)
        return 100;
    code = load(&weights, words[1]);
    if (code == CAUSALRN_OK)
        code = causalrn_open(&session, &weights, memory, size, 1, capacity);
    while (code == CAUSALRN_OK && (taken = fread(tokens, sizeof *tokens, (size_t)at_once, in)) > 0) {
        code = taken == 1 ? causalrn_step(&session, tokens, logits)
                          : causalrn_prefill(&session, tokens, (int32_t)taken, logits);
        if (code == CAUSALRN_OK && fwrite(logits, sizeof *logits * CAUSALRN_VOCABULARY, taken, out) != taken)
            return 100;
    }
    if (code != CAUSALRN_OK)
        fprintf(stderr, "%s\n", causalrn_message(code));
    return fclose(out) != 0 ? 100 : code;
}
