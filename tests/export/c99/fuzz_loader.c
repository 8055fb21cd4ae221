/* libFuzzer's target for causalrn_load, with sessions over what it accepts. In a C bundle's folder:
 *
 *     clang -std=c99 -g -O1 -fsanitize=fuzzer,address,undefined -I. fuzz_loader.c causalrn.c -lm -o fuzz
 *     mkdir corpus && cp weights.bin corpus && ./fuzz -max_total_time=300 -max_len=1000000 corpus
 */
#include "causalrn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    causalrn_weights weights;
    causalrn_session session;
    float logits[CAUSALRN_VOCABULARY];
    const int32_t token = 0;
    void *file = malloc(size > 0 ? size : 1), *memory;
    if (file == NULL)
        return 0;
    memcpy(file, data, size);
    if (causalrn_load(&weights, file, size) == CAUSALRN_OK) {
        const size_t bytes = causalrn_session_size(1, 4);
        memory = malloc(bytes);
        if (memory != NULL && causalrn_open(&session, &weights, memory, bytes, 1, 4) == CAUSALRN_OK)
            (void)causalrn_step(&session, &token, logits);
        free(memory);
    }
    free(file);
    return 0;
}
