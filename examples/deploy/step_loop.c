/* A prompt in, its continuation out, for a microcontroller: no malloc, no file, all memory static.
 *
 * Compile it with causalrn.c of a bundle. With -DSTEP_LOOP_NO_MAIN only the loop is left, for firmware; else main()
 * runs it on a computer: step_loop FOLDER PROMPT [PAUSE]. The alphabet is `letters`; docs/native.md has the interface. */
#include "causalrn.h"

#include <string.h>

enum { BOS = 0, SEP = 1, EOS = 2, FIRST_LETTER = 3 };
enum { POSITIONS = CAUSALRN_CAPACITY > 0 ? CAUSALRN_CAPACITY : 128 }; /* without a bound: as many as RAM allows */

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, POSITIONS) + 7) / 8]; /* the state, then working memory */
static causalrn_session session;
static float logits[CAUSALRN_VOCABULARY]; /* after the last token */

/* What has to outlast a sleep: put it where RAM is retained, or write it to flash. */
static struct {
    uint64_t state[(CAUSALRN_STATE_BYTES(1, POSITIONS) + 7) / 8];
    float logits[CAUSALRN_VOCABULARY];
    int32_t position;
} saved;

static int step(int32_t token)
{
    const int code = causalrn_step(&session, &token, logits);
    if (code == CAUSALRN_NOT_FINITE)
        causalrn_reset(&session); /* a sum may be void; after other errors the state is as it was */
    return code;
}

/* A fresh state takes BOS, the prompt and SEP. Gives CAUSALRN_OK, or an error before anything is taken. */
int step_loop_begin(const causalrn_weights *weights, const char *prompt)
{
    const size_t length = strlen(prompt);
    if (length + 2 > POSITIONS)
        return CAUSALRN_FULL;
    if (length == 0)
        return CAUSALRN_WRONG_TOKEN;
    for (size_t i = 0; i < length; i++)
        if (prompt[i] < 'a' || prompt[i] > 'z')
            return CAUSALRN_WRONG_TOKEN;
    int code = causalrn_open(&session, weights, memory, sizeof memory, 1, POSITIONS);
    if (code == CAUSALRN_OK)
        code = step(BOS);
    for (size_t i = 0; i < length && code == CAUSALRN_OK; i++)
        code = step(prompt[i] - 'a' + FIRST_LETTER);
    return code == CAUSALRN_OK ? step(SEP) : code;
}

/* The most likely next token goes to *token, and into the state. *finished: it is EOS, or no position is left. */
int step_loop_next(int32_t *token, int *finished)
{
    *token = 0;
    for (int32_t other = 1; other < CAUSALRN_VOCABULARY; other++)
        *token = logits[other] > logits[*token] ? other : *token; /* ties: the lowest */
    *finished = *token == EOS || session.position == POSITIONS;
    return *finished ? CAUSALRN_OK : step(*token);
}

void step_loop_suspend(void)
{
    memcpy(saved.state, memory, CAUSALRN_STATE_BYTES(1, POSITIONS));
    memcpy(saved.logits, logits, sizeof logits);
    saved.position = session.position;
}

/* Goes on where step_loop_suspend was called, bit for bit. */
int step_loop_resume(const causalrn_weights *weights)
{
    const int code = causalrn_open(&session, weights, memory, sizeof memory, 1, POSITIONS);
    if (code == CAUSALRN_OK) {
        memcpy(memory, saved.state, CAUSALRN_STATE_BYTES(1, POSITIONS));
        memcpy(logits, saved.logits, sizeof logits);
        session.position = saved.position;
    }
    return code;
}

#ifndef STEP_LOOP_NO_MAIN

#include <stdio.h>
#include <stdlib.h>

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
static int load(causalrn_weights *weights, const char *folder)
{
    (void)folder;
    return causalrn_use(weights, causalrn_payload);
}
#else
static uint64_t file[(CAUSALRN_FILE_BYTES + 7) / 8];

static int load(causalrn_weights *weights, const char *folder)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/weights.bin", folder) >= (int)sizeof path)
        return CAUSALRN_NOT_WEIGHTS;
    FILE *stream = fopen(path, "rb");
    const size_t size = stream != NULL ? fread(file, 1, sizeof file, stream) : 0;
    if (stream != NULL)
        fclose(stream);
    return causalrn_load(weights, file, size); /* checks model, size and checksums */
}
#endif

int main(int count, char **arguments)
{
    static char text[POSITIONS + 1];
    causalrn_weights weights;
    int32_t token;
    int finished = 0, made = 0, letters = 0;
    if (count < 3) {
        fputs("step_loop: give a folder and a prompt\n", stderr);
        return 2;
    }
    const int pause = count > 3 ? atoi(arguments[3]) : 0;
    int code = load(&weights, arguments[1]);
    if (code == CAUSALRN_OK)
        code = step_loop_begin(&weights, arguments[2]);
    while (code == CAUSALRN_OK && !finished) {
        if (made == pause) { /* as if the power went */
            step_loop_suspend();
            memset(memory, 0xff, sizeof memory);
            code = step_loop_resume(&weights);
        }
        if (code == CAUSALRN_OK)
            code = step_loop_next(&token, &finished);
        if (code == CAUSALRN_OK) {
            printf(made++ > 0 ? " %d" : "%d", (int)token);
            if (token >= FIRST_LETTER)
                text[letters++] = (char)(token - FIRST_LETTER + 'a');
        }
    }
    if (code != CAUSALRN_OK) {
        fprintf(stderr, "step_loop: %s\n", causalrn_message(code));
        return 2;
    }
    printf("\n%s\n", text);
    return 0;
}

#endif
