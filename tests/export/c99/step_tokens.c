/* Reads int32 tokens from standard input and writes the logits of every step to standard output. Arguments: the weights
 * file, and as a number the instruction set (CAUSALRN_PORTABLE and so on; the best by default). */
#include "causalrn.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t file[(CAUSALRN_FILE_BYTES + 7) / 8];

int main(int count, char **words)
{
    causalrn_weights weights;
    causalrn_session session;
    const int32_t capacity = CAUSALRN_CAPACITY > 0 ? CAUSALRN_CAPACITY : 4096;
    const size_t size = causalrn_session_size(1, capacity);
    void *memory = malloc(size);
    float logits[CAUSALRN_VOCABULARY];
    FILE *stream = fopen(words[1], "rb");
    int32_t token;
    int code;
    if (stream == NULL || memory == NULL)
        return 1;
    code = causalrn_load(&weights, file, fread(file, 1, sizeof file, stream));
    fclose(stream);
    if (code == CAUSALRN_OK)
        code = causalrn_open(&session, &weights, memory, size, 1, capacity);
    if (code == CAUSALRN_OK && count > 2) {
        const int wanted = atoi(words[2]);
        if (causalrn_choose_isa(&session, wanted) != wanted)
            return 77; /* not on this machine */
    }
    while (code == CAUSALRN_OK && fread(&token, sizeof token, 1, stdin) == 1) {
        code = causalrn_step(&session, &token, logits);
        fwrite(logits, sizeof logits, 1, stdout);
    }
    free(memory);
    if (code != CAUSALRN_OK)
        fprintf(stderr, "%s\n", causalrn_message(code));
    return code;
}
