#include "causalrn_demo.h"
#include "causalrn_golden.h"
#include "causalrn_weights.h"

#include <stdlib.h>
#include <string.h>

enum {
    POSITIONS = CAUSALRN_DEMO_POSITIONS > GOLDEN_STEPS ? CAUSALRN_DEMO_POSITIONS : GOLDEN_STEPS,
    BOS = 0, SEP = 1, EOS = 2, FIRST_LETTER = 3 /* of the alphabet "letters"; bytes stand for themselves */
};

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, POSITIONS) + 7) / 8];
static causalrn_weights weights;
static causalrn_session session;
static float logits[CAUSALRN_VOCABULARY]; /* after the last token */
static int has_ended = 1;                 /* the answer, or none has begun */

static int has_letters(void) { return strcmp(CAUSALRN_ALPHABET, "letters") == 0; }
static int has_bytes(void) { return strcmp(CAUSALRN_ALPHABET, "bytes") == 0; }
static int take(int32_t token) { return causalrn_step(&session, &token, logits); }

int causalrn_demo_begin(float *worst)
{
    int code = causalrn_use(&weights, causalrn_payload);
    if (code == CAUSALRN_OK)
        code = causalrn_open(&session, &weights, memory, sizeof memory, 1, POSITIONS);
    *worst = 0.0f;
    for (int step = 0; step < GOLDEN_STEPS && code == CAUSALRN_OK; step++) {
        code = take(golden_tokens[step]);
        for (int i = 0; i < CAUSALRN_VOCABULARY; i++) {
            const float difference = logits[i] - golden_logits[step * CAUSALRN_VOCABULARY + i];
            const float error = 100.0f * (difference < 0.0f ? -difference : difference) / golden_bounds[step];
            *worst = error <= *worst ? *worst : error; /* NaN is kept */
        }
    }
    causalrn_reset(&session);
    return code;
}

/* The token that a text begins with, and the text after it; -1 for what the alphabet does not have. */
static int32_t next_token(const char **text)
{
    char *end;
    long number;
    if (has_bytes())
        return (unsigned char)*(*text)++;
    if (has_letters()) {
        const char letter = *(*text)++;
        return letter == ' ' ? SEP : letter >= 'a' && letter <= 'z' ? letter - 'a' + FIRST_LETTER : -1;
    }
    number = strtol(*text, &end, 10);
    if (end == *text || number < 0 || number >= CAUSALRN_VOCABULARY)
        return -1;
    for (*text = end; **text == ' ';)
        ++*text;
    return (int32_t)number;
}

int causalrn_demo_ask(const char *text)
{
    int code = *text != '\0' ? CAUSALRN_OK : CAUSALRN_WRONG_SIZE;
    causalrn_reset(&session);
    has_ended = 0;
    if (code == CAUSALRN_OK && has_letters())
        code = take(BOS);
    while (code == CAUSALRN_OK && *text != '\0')
        code = take(next_token(&text));
    if (code == CAUSALRN_OK && has_letters())
        code = take(SEP);
    return code;
}

/* What a token is for people. */
static const char *text_of(int32_t token)
{
    static char text[12];
    char *at = text + sizeof text - 1;
    if (has_letters() || has_bytes()) {
        const int is_marker = has_letters() && token < FIRST_LETTER;
        text[0] = (char)(is_marker ? '\0' : has_bytes() ? token : token - FIRST_LETTER + 'a');
        text[1] = '\0';
        return text;
    }
    *at = '\0';
    *--at = ' ';
    do {
        *--at = (char)('0' + token % 10);
        token /= 10;
    } while (token > 0);
    return at;
}

int causalrn_demo_next(const char **text)
{
    int32_t token = 0;
    for (int32_t other = 1; other < CAUSALRN_VOCABULARY; other++)
        token = logits[other] > logits[token] ? other : token;
    has_ended = has_ended || (has_letters() && token == EOS);
    *text = has_ended ? NULL : text_of(token);
    if (has_ended)
        return CAUSALRN_OK;
    has_ended = session.position == POSITIONS; /* what follows would find no room */
    return has_ended ? CAUSALRN_OK : take(token);
}
