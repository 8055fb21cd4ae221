/* What the model makes of a string, the most likely token every time: a copy, if that is what it was trained for.
 *
 *     make && build/example hello        weights.bin is read from the current folder
 *     build/example                      line by line from standard input, as one types
 *
 * Models without an alphabet take token ids: build/example "3 4 5". */
#include "causalrn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if CAUSALRN_WEIGHTS_INLINE
#include "causalrn_weights.h"
#else
static uint64_t file[CAUSALRN_FILE_BYTES / 8 + 1];
#endif

enum {
    LENGTH = CAUSALRN_CAPACITY > 0 && CAUSALRN_CAPACITY < 1024 ? CAUSALRN_CAPACITY : 1024,
    BOS = 0, SEP = 1, EOS = 2, FIRST_LETTER = 3, /* of the alphabet "letters"; bytes stand for themselves */
    UNKNOWN = -1
};

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, LENGTH) + 7) / 8]; /* state and working memory of one sequence */
static causalrn_weights weights;
static causalrn_session session;
static float logits[CAUSALRN_VOCABULARY];
static int32_t tokens[LENGTH + 1];

static int load(void)
{
#if CAUSALRN_WEIGHTS_INLINE
    return causalrn_use(&weights, causalrn_payload);
#else
    FILE *stream = fopen("weights.bin", "rb");
    const size_t size = stream != NULL ? fread(file, 1, sizeof file, stream) : 0;
    if (stream != NULL)
        fclose(stream);
    return causalrn_load(&weights, file, size);
#endif
}

static int has_letters(void) { return strcmp(CAUSALRN_ALPHABET, "letters") == 0; }
static int has_bytes(void) { return strcmp(CAUSALRN_ALPHABET, "bytes") == 0; }

/* Token ids of a text; gives how many, UNKNOWN for what the alphabet does not have, and at most LENGTH + 1. */
static int32_t encode(const char *text)
{
    int32_t count = 0;
    if (has_letters())
        tokens[count++] = BOS;
    while (*text != '\0' && count <= LENGTH) {
        if (has_bytes())
            tokens[count++] = (unsigned char)*text++;
        else if (has_letters() && *text >= 'a' && *text <= 'z')
            tokens[count++] = FIRST_LETTER + (*text++ - 'a');
        else if (has_letters() && *text == ' ')
            tokens[count++] = SEP, text++;
        else if (!has_letters()) {
            char *end;
            tokens[count++] = (int32_t)strtol(text, &end, 10);
            if (end == text)
                return UNKNOWN;
            for (text = end; *text == ' ';)
                text++;
        } else
            return UNKNOWN;
    }
    if (has_letters() && count <= LENGTH)
        tokens[count++] = SEP;
    return count;
}

static void show(int32_t token)
{
    if (has_bytes())
        putchar(token);
    else if (!has_letters())
        printf("%d ", (int)token);
    else if (token >= FIRST_LETTER)
        putchar('a' + token - FIRST_LETTER);
    fflush(stdout);
}

/* Print what follows a text. */
static int answer(const char *text)
{
    const int32_t count = encode(text);
    int code;
    if (count == UNKNOWN || count > LENGTH) {
        fprintf(stderr, count > LENGTH ? "longer than %d tokens\n" : "only letters a to z, or token ids\n", LENGTH);
        return CAUSALRN_WRONG_TOKEN;
    }
    causalrn_reset(&session);
    code = count > 0 ? CAUSALRN_OK : CAUSALRN_WRONG_SIZE;
    for (int32_t i = 0; i < count && code == CAUSALRN_OK; i++) /* causalrn_prefill is faster, and gives logits of each */
        code = causalrn_step(&session, &tokens[i], logits);
    while (code == CAUSALRN_OK) {
        int32_t token = 0;
        for (int32_t other = 1; other < CAUSALRN_VOCABULARY; other++)
            token = logits[other] > logits[token] ? other : token;
        if (has_letters() && token == EOS)
            break;
        show(token);
        if (session.position == LENGTH)
            break;
        code = causalrn_step(&session, &token, logits);
    }
    putchar('\n');
    if (code != CAUSALRN_OK)
        fprintf(stderr, "%s\n", causalrn_message(code));
    return code;
}

int main(int count, char **words)
{
    static char line[8 * LENGTH];
    int code = load();
    if (code == CAUSALRN_OK)
        code = causalrn_open(&session, &weights, memory, sizeof memory, 1, LENGTH);
    if (code != CAUSALRN_OK) {
        fprintf(stderr, "%s: run this where weights.bin lies\n", causalrn_message(code));
        return code;
    }
    if (count > 1)
        return answer(words[1]);
    while (printf("> "), fflush(stdout), fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        answer(line);
    }
    return CAUSALRN_OK;
}
