/* Steps of a model, between two calls of mark(): what lies between them is counted. Then one line: a hash of all logits,
 * and the bytes of memory and stack that it took. As a program, or in the place of the self-test in cortex_m.c. */
#include "causalrn.h"

enum { WARM = 4, STEPS = 8, PAINTED = 12288, NEAR = 256, WORDS = 4, DIGITS = 8 };

static uint64_t memory[(CAUSALRN_SESSION_BYTES(1, CAUSALRN_CAPACITY) + 7) / 8];
static causalrn_session session;
static float logits[WARM + STEPS][CAUSALRN_VOCABULARY];
static const uint32_t UNUSED = 0xdeadbeefu;

void mark(void);
__attribute__((noinline)) void mark(void) { __asm__ volatile("" ::: "memory"); }

static int step_some(int32_t first, int32_t end)
{
    int code = CAUSALRN_OK;
    for (int32_t i = first; i < end && code == CAUSALRN_OK; i++) {
        const int32_t token = i % CAUSALRN_VOCABULARY;
        code = causalrn_step(&session, &token, logits[i]);
    }
    return code;
}

/* A number that any changed bit changes (FNV-1a). */
static uint32_t hash_of_logits(void)
{
    const unsigned char *bytes = (const unsigned char *)logits;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof logits; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

/* What is below a place of the stack is written over, and afterwards looked at. */
__attribute__((noinline)) static void paint(uintptr_t top)
{
    for (uintptr_t word = top - PAINTED; word < top - NEAR; word += sizeof UNUSED)
        *(volatile uint32_t *)word = UNUSED;
}

__attribute__((noinline)) static uint32_t painted_over(uintptr_t top)
{
    uintptr_t word = top - PAINTED;
    while (word < top - NEAR && *(volatile uint32_t *)word == UNUSED)
        word += sizeof UNUSED;
    return (uint32_t)(top - word);
}

static int measure(const causalrn_weights *weights, uint32_t *found)
{
    const uintptr_t top = (uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)7;
    int code = causalrn_open(&session, weights, memory, sizeof memory, 1, CAUSALRN_CAPACITY);
    paint(top);
    if (code == CAUSALRN_OK)
        code = step_some(0, WARM);
    const uint32_t stack = painted_over(top);
    mark();
    if (code == CAUSALRN_OK)
        code = step_some(WARM, WARM + STEPS);
    mark();
    found[0] = hash_of_logits(), found[1] = (uint32_t)(sizeof memory + sizeof session + sizeof *weights), found[2] = stack;
    found[3] = stack < PAINTED ? (uint32_t)code : 0xffu;
    return code;
}

/* The four numbers in hexadecimal, and what ends a line. */
static void words_of(const uint32_t *found, char *words)
{
    for (int i = 0; i < WORDS; i++) {
        for (int k = 0; k < DIGITS; k++)
            *words++ = "0123456789abcdef"[found[i] >> (28 - 4 * k) & 15u];
        *words++ = i < WORDS - 1 ? ' ' : '\n';
    }
    *words = '\0';
}

#ifdef CAUSALRN_NO_MAIN
int causalrn_selftest(const causalrn_weights *weights, float *worst);
int causalrn_selftest(const causalrn_weights *weights, float *worst)
{
    uint32_t found[WORDS];
    char words[WORDS * (DIGITS + 1) + 1];
    *worst = 0.0f;
    const int code = measure(weights, found);
    words_of(found, words);
    register int r0 __asm__("r0") = 0x04; /* semihosting: write */
    register const void *r1 __asm__("r1") = words;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return code;
}
#else
#include "causalrn_weights.h"
#include <stdio.h>

int main(void)
{
    static causalrn_weights weights;
    uint32_t found[WORDS];
    char words[WORDS * (DIGITS + 1) + 1];
    int code = causalrn_use(&weights, causalrn_payload);
    if (code == CAUSALRN_OK)
        code = measure(&weights, found);
    if (code != CAUSALRN_OK)
        return code;
    words_of(found, words);
    return fputs(words, stdout) < 0;
}
#endif
