/* A CausalRN as a recurrent cell in C99. Written by causalrn-export: what this model is stands below as macros; the
 * code is the same for every model. How to embed it: docs/native.md of the toolkit. */
#if defined(CAUSALRN_H) && CAUSALRN_MODEL != 0x00000000u
#error "two models with the prefix causalrn in one file: give one of them another, with export --prefix"
#endif
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
#define CAUSALRN_POOL_BITS 32 /* of a value in the pool; 16: half, 8: int8 and a scale per row */
#define CAUSALRN_MODEL 0x00000000u /* the weights say the same */
#define CAUSALRN_CHECKPOINT "" /* SHA-256 */
#define CAUSALRN_ARITHMETIC "float32"
#define CAUSALRN_CONFIGURATION "" /* as a string in JSON, in state files */
#define CAUSALRN_ALPHABET "letters"
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

#define CAUSALRN_PREFIX "causalrn"
#define CAUSALRN_VERSION 1 /* of weights files */
#define CAUSALRN_INTERFACE 2 /* of this header: 2 has causalrn_step_many and causalrn_open_at */
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
    CAUSALRN_WRONG_SIZE,
    CAUSALRN_MIXED
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
    int is_taken; /* during a call of causalrn_step_many */
} causalrn_session;

/* Tokens for one session, of which `batch` sequences take `time` each. */
typedef struct {
    causalrn_session *session;
    const int32_t *tokens; /* [batch][time] */
    float *logits;         /* [batch][time][VOCABULARY] */
    int32_t time;
    int code; /* what came of it */
} causalrn_request;

/* What linkers see ends in the number of this model: objects that were compiled with this header fit no other model, and two
 * models are never mistaken for each other. */
#define CAUSALRN_PASTE_(name, model) name##_##model
#define CAUSALRN_PASTE(name, model) CAUSALRN_PASTE_(name, model)
#define causalrn_load CAUSALRN_PASTE(causalrn_load, CAUSALRN_MODEL)
#define causalrn_use CAUSALRN_PASTE(causalrn_use, CAUSALRN_MODEL)
#define causalrn_session_size CAUSALRN_PASTE(causalrn_session_size, CAUSALRN_MODEL)
#define causalrn_open CAUSALRN_PASTE(causalrn_open, CAUSALRN_MODEL)
#define causalrn_open_at CAUSALRN_PASTE(causalrn_open_at, CAUSALRN_MODEL)
#define causalrn_reset CAUSALRN_PASTE(causalrn_reset, CAUSALRN_MODEL)
#define causalrn_step CAUSALRN_PASTE(causalrn_step, CAUSALRN_MODEL)
#define causalrn_prefill CAUSALRN_PASTE(causalrn_prefill, CAUSALRN_MODEL)
#define causalrn_step_many CAUSALRN_PASTE(causalrn_step_many, CAUSALRN_MODEL)
#define causalrn_choose_isa CAUSALRN_PASTE(causalrn_choose_isa, CAUSALRN_MODEL)
#define causalrn_message CAUSALRN_PASTE(causalrn_message, CAUSALRN_MODEL)

/* Check a weights file that lies in memory, whole, and point into it. Gives CAUSALRN_OK or what is wrong. */
int causalrn_load(causalrn_weights *weights, const void *file, size_t size);

/* The same for the payload alone, as causalrn_weights.h holds it (--weights inline): nothing is checked. */
int causalrn_use(causalrn_weights *weights, const void *payload);

/* CAUSALRN_SESSION_BYTES for state and working memory; 0 if there is no such session. */
size_t causalrn_session_size(int32_t batch, int32_t capacity);

/* Set up a session for `batch` sequences of at most `capacity` positions. `memory`: aligned to 4 bytes, better 64. */
int causalrn_open(causalrn_session *session, const causalrn_weights *weights, void *memory, size_t size, int32_t batch,
                  int32_t capacity);

/* The same with state and working memory in different places: CAUSALRN_STATE_BYTES and CAUSALRN_WORK_BYTES, for this batch
 * and capacity or larger ones. Sessions that take turns, and those of one causalrn_step_many, may share `work`. */
int causalrn_open_at(causalrn_session *session, const causalrn_weights *weights, void *state, size_t state_size, void *work,
                     size_t work_size, int32_t batch, int32_t capacity);

/* Forget everything. */
void causalrn_reset(causalrn_session *session);

/* Take one token per sequence, tokens[batch]; gives logits[batch][VOCABULARY]. On an error nothing has been taken. */
int causalrn_step(causalrn_session *session, const int32_t *tokens, float *logits);

/* Take tokens[batch][time]; gives logits[batch][time][VOCABULARY], bit for bit as single steps do. */
int causalrn_prefill(causalrn_session *session, const int32_t *tokens, int32_t time, float *logits);

/* Take the tokens of all requests: of any number of sessions, each at its own position, with any number of tokens.
 * Weights are read once for CAUSALRN_ROWS of them; every session gets what it would get alone, bit for bit. A request that
 * fails has taken nothing and does not concern the others. Gives CAUSALRN_OK, or the first code that is not.
 *
 * The sessions share weights and instruction set, and none is there twice: CAUSALRN_MIXED. */
int causalrn_step_many(causalrn_request *requests, int32_t number);

/* Have a session use CAUSALRN_PORTABLE, _AVX2, _AVX512 or _BEST; gives what it uses: no more than the machine has. */
int causalrn_choose_isa(causalrn_session *session, int isa);

/* What a code means, in words. */
const char *causalrn_message(int code);

#ifdef __cplusplus
}
#endif
#endif
