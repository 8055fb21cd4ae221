/* A CausalRN as a recurrent cell in C99. Written by causalrn-export: what this model is stands below as macros; the
 * code is the same for every model. How to embed it: docs/native.md of the toolkit. */
#ifndef CAUSALRN_H
#define CAUSALRN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* values of the macros below */
#define CAUSALRN_EXACT 0
#define CAUSALRN_LINEAR 1
#define CAUSALRN_PLAIN 2
#define CAUSALRN_EXP 0
#define CAUSALRN_ELU 1
#define CAUSALRN_RELU 2
#define CAUSALRN_GELU 3
#define CAUSALRN_FLOAT32 0
#define CAUSALRN_INT8 1         /* w8: int8 weights, float32 activations */
#define CAUSALRN_INT8_DYNAMIC 2 /* w8a8-dynamic: int8 x int8, activations scaled row by row */

/* ---- this model -------------------------------------------------------------------------------------------------- */

/* A small model, so that editors and compilers can open these files as they are; export writes another one here. */
#define CAUSALRN_VOCABULARY 29 /* V */
#define CAUSALRN_EMBEDDING 32 /* E */
#define CAUSALRN_HIDDEN 32 /* H */
#define CAUSALRN_BLOCKS 2 /* N */
#define CAUSALRN_HEADS 1 /* G */
#define CAUSALRN_CAPACITY 40 /* C, most positions; 0: no bound */
#define CAUSALRN_POSITIONS 40 /* learned positions */
#define CAUSALRN_READOUT CAUSALRN_EXACT
#define CAUSALRN_ACTIVATION CAUSALRN_EXP
#define CAUSALRN_POST_NORM 1 /* a norm after the readout */
#define CAUSALRN_CENTRED 1 /* which takes the mean away: layer norm, not RMS */
#define CAUSALRN_HEAD_SCALE 1 /* the largest channel of every head becomes 1 */
#define CAUSALRN_GUARDED 0 /* squares could overflow: divided by the largest first */
#define CAUSALRN_WEIGHTS CAUSALRN_FLOAT32
#define CAUSALRN_POOL_BITS 32 /* of a value in the pool; 16: float16, 8: int8 and a scale per row */
#define CAUSALRN_MODEL 0x00000000u /* the weights say the same */
#define CAUSALRN_WEIGHTS_INLINE 0 /* in causalrn_weights.h, not in weights.bin */
#define CAUSALRN_FILE_BYTES 38464 /* size of weights.bin */
#ifndef CAUSALRN_ROWS
#define CAUSALRN_ROWS 32 /* of a prefill, computed together */
#endif
/* ---- what follows from it ---------------------------------------------------------------------------------------- */

#define CAUSALRN_HAS_POOL (CAUSALRN_READOUT == CAUSALRN_EXACT || CAUSALRN_ACTIVATION != CAUSALRN_EXP)
#define CAUSALRN_COMPENSATED (!CAUSALRN_HAS_POOL && CAUSALRN_READOUT == CAUSALRN_LINEAR && CAUSALRN_POSITIONS == 0)
#define CAUSALRN_TENSORS                                                                                          \
    (CAUSALRN_BLOCKS * (1 + (CAUSALRN_POOL_BITS == 8 || CAUSALRN_COMPENSATED ||                                    \
                             (!CAUSALRN_HAS_POOL && CAUSALRN_READOUT == CAUSALRN_PLAIN))))

#define CAUSALRN_VERSION 1
#define CAUSALRN_HEADER 64 /* bytes before the payload of a weights file */

/* Widths with the zeros that fill them up to multiples of 16 lanes. */
#define CAUSALRN_UP(number, multiple) (((number) + (multiple) - 1) / (multiple) * (multiple))
#define CAUSALRN_EP CAUSALRN_UP(CAUSALRN_EMBEDDING, 16)
#define CAUSALRN_DP CAUSALRN_UP(CAUSALRN_HIDDEN / CAUSALRN_HEADS, 16)
#define CAUSALRN_HP (CAUSALRN_HEADS * CAUSALRN_DP)
#define CAUSALRN_VP CAUSALRN_UP(CAUSALRN_VOCABULARY, 16)

#ifndef CAUSALRN_THREADS
#define CAUSALRN_THREADS 1 /* most threads of a session */
#endif

/* ---- memory, in bytes: constants where batch and capacity are, for static arrays ------------------------------------- */

#define CAUSALRN_BYTES(count, item) CAUSALRN_UP((size_t)(count) * (item), 64u)
#define CAUSALRN_STATE_ROWS(batch, capacity) ((size_t)(batch) * (CAUSALRN_HAS_POOL ? (size_t)(capacity) : 1u))
#define CAUSALRN_STATE_BYTES(batch, capacity)                                                                     \
    (CAUSALRN_BLOCKS * (CAUSALRN_POOL_BITS == 8 ? CAUSALRN_BYTES(CAUSALRN_STATE_ROWS(batch, capacity), 4u) : 0u) +  \
     (CAUSALRN_POOL_BITS == 8 ? CAUSALRN_BLOCKS : CAUSALRN_TENSORS) *                                              \
         CAUSALRN_BYTES(CAUSALRN_STATE_ROWS(batch, capacity) * CAUSALRN_HP, CAUSALRN_POOL_BITS / 8u))
#define CAUSALRN_MOST(a, b) ((a) > (b) ? (a) : (b))
#define CAUSALRN_ROWS_OF(batch) CAUSALRN_MOST((size_t)(batch), (size_t)CAUSALRN_ROWS)
#define CAUSALRN_SUMS(batch, capacity)                                                                            \
    (CAUSALRN_HAS_POOL                                                                                            \
         ? CAUSALRN_MOST(CAUSALRN_ROWS_OF(batch), (size_t)(batch) * (CAUSALRN_UP((size_t)(capacity), 512u) / 512u)) \
         : 0u)
#define CAUSALRN_WORK_BYTES(batch, capacity)                                                                      \
    (2u * CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch) * CAUSALRN_EP, 4u) +                                              \
     CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch) * 2u * CAUSALRN_HP, 4u) +                                              \
     CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch) * CAUSALRN_HP, 4u) +                                                   \
     CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch) * CAUSALRN_VP, 4u) +                                                   \
     (CAUSALRN_POOL_BITS < 32 ? CAUSALRN_BYTES(CAUSALRN_THREADS * 16u * CAUSALRN_HP, 4u) : 0u) +                   \
     CAUSALRN_BYTES(CAUSALRN_SUMS(batch, capacity) * CAUSALRN_HP, 4u) +                                            \
     (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC                                                                    \
          ? CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch) * CAUSALRN_MOST(CAUSALRN_EP, CAUSALRN_HP), 1u) +                \
                CAUSALRN_BYTES(CAUSALRN_ROWS_OF(batch), 4u)                                                        \
          : 0u))
#define CAUSALRN_SESSION_BYTES(batch, capacity) \
    (CAUSALRN_STATE_BYTES(batch, capacity) + CAUSALRN_WORK_BYTES(batch, capacity))

enum {
    CAUSALRN_OK = 0,
    CAUSALRN_NOT_WEIGHTS,
    CAUSALRN_WRONG_ENDIANNESS,
    CAUSALRN_WRONG_VERSION,
    CAUSALRN_WRONG_MODEL,
    CAUSALRN_TRUNCATED,
    CAUSALRN_OVERSIZED,
    CAUSALRN_DAMAGED,
    CAUSALRN_MISALIGNED,
    CAUSALRN_TOO_SMALL,
    CAUSALRN_WRONG_TOKEN,
    CAUSALRN_FULL,
    CAUSALRN_NOT_FINITE,
    CAUSALRN_WRONG_SIZE
};

enum { CAUSALRN_BEST = -1, CAUSALRN_PORTABLE = 0, CAUSALRN_AVX2 = 1, CAUSALRN_AVX512 = 2 };

/* A packed matrix [out, in], its rows scaled where they are int8. */
typedef struct {
    const void *panels;
    const float *bias, *scale;
    const int32_t *sums;
} causalrn_matrix;

/* Pointers into the caller's weights. */
typedef struct {
    const float *wte, *wpe;
    causalrn_matrix w12[CAUSALRN_BLOCKS], w3[CAUSALRN_BLOCKS], head;
} causalrn_weights;

/* A running model with its state, for `batch` sequences in lockstep. All memory is the caller's.
 *
 * past[i] and next[i] are the tensors of the state, in the manifest's order. They may be the same place: then an error
 * CAUSALRN_NOT_FINITE leaves sums (not pools) void. Where sums have two places, a call that fails leaves past[i] and
 * what lies there as they were; one that succeeds leaves past[i] at next[i]: give next[i] the other place again. Pools
 * are [capacity][batch][HP]: appending is writing a row. */
typedef struct {
    const causalrn_weights *weights;
    int32_t position, batch, capacity;
    int isa;
    void *past[CAUSALRN_TENSORS], *next[CAUSALRN_TENSORS];
    void *work;
    float *streams; /* NULL, or [BLOCKS + 1][rows][EP] of one call of at most CAUSALRN_ROWS rows: for debugging */
    /* Threads, for pools of more than 512 rows; causalrn_threads.h sets all three. `parallel`: NULL, or a function that
     * calls work(argument, part) for every part in 0 .. parts - 1, parts <= threads <= CAUSALRN_THREADS. */
    int32_t threads;
    void (*parallel)(void *pool, int32_t parts, void (*work)(void *argument, int32_t part), void *argument);
    void *pool;
} causalrn_session;

/* Check a weights file that lies in memory, whole, and point into it. Gives CAUSALRN_OK or what is wrong. */
int causalrn_load(causalrn_weights *weights, const void *file, size_t size);

/* The same for the payload alone, as causalrn_weights.h holds it (--weights inline): nothing is checked. */
int causalrn_use(causalrn_weights *weights, const void *payload);

/* CAUSALRN_SESSION_BYTES for state and working memory; 0 if there is no such session. */
size_t causalrn_session_size(int32_t batch, int32_t capacity);

/* Set up a session for `batch` sequences of at most `capacity` positions. `memory`: aligned to 4 bytes, better 64. */
int causalrn_open(causalrn_session *session, const causalrn_weights *weights, void *memory, size_t size, int32_t batch,
                  int32_t capacity);

/* Forget everything. */
void causalrn_reset(causalrn_session *session);

/* Take one token per sequence, tokens[batch]; gives logits[batch][VOCABULARY]. On an error nothing has been taken. */
int causalrn_step(causalrn_session *session, const int32_t *tokens, float *logits);

/* Take tokens[batch][time]; gives logits[batch][time][VOCABULARY], bit for bit as single steps do. */
int causalrn_prefill(causalrn_session *session, const int32_t *tokens, int32_t time, float *logits);

/* Have a session use CAUSALRN_PORTABLE, _AVX2, _AVX512 or _BEST; gives what it uses: no more than the machine has. */
int causalrn_choose_isa(causalrn_session *session, int isa);

/* What a code means, in words. */
const char *causalrn_message(int code);

#ifdef __cplusplus
}
#endif
#endif
