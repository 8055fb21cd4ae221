/* A CausalRN behind handles: the same for every model, so that one program, or one binding, uses any number of them.
 *
 * A library that causalrn-export wrote with the prefix NAME gives one function, declared in NAME_api.h and found by dlsym:
 *
 *     const crn_api *NAME_api(void);
 *
 * and everything else is in what it points to. Calls give CRN_OK or a code; `message` has the words. A call that fails has
 * changed nothing. A model may be used by any number of threads, a session by one at a time. */
#ifndef CRN_API_H
#define CRN_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CRN_API_VERSION 1 /* later ones add functions at the end of crn_api, and numbers at the end of crn_info */

enum {
    CRN_OK = 0,
    CRN_NOT_WEIGHTS,
    CRN_WRONG_ENDIANNESS,
    CRN_WRONG_VERSION,
    CRN_WRONG_MODEL,
    CRN_TRUNCATED,
    CRN_OVERSIZED,
    CRN_DAMAGED,
    CRN_MISALIGNED,
    CRN_TOO_SMALL,
    CRN_WRONG_TOKEN,
    CRN_FULL,
    CRN_NOT_FINITE,
    CRN_WRONG_SIZE,
    CRN_MIXED,
    CRN_NO_MEMORY = 32,
    CRN_NO_FILE,
    CRN_NOT_WRITTEN,
    CRN_NO_SLOT,
    CRN_NO_LOGITS,
    CRN_NOT_STATE,
    CRN_OTHER_CHECKPOINT,
    CRN_OTHER_ARITHMETIC,
    CRN_NOT_INLINE
};

enum { CRN_BEST = -1, CRN_PORTABLE = 0, CRN_AVX2 = 1, CRN_AVX512 = 2 };

typedef struct crn_model crn_model;     /* weights, and the kernel that reads them */
typedef struct crn_session crn_session; /* slots: sequences of one model, each at its own position */

/* What a model is. Strings live as long as the library. */
typedef struct {
    uint32_t size; /* sizeof(crn_info), set by the caller: no more is written */
    uint32_t model;                     /* number that ties source and weights together */
    int32_t vocabulary, capacity;       /* most positions; 0: no bound */
    int32_t blocks, hidden, has_pool;   /* has_pool: the state grows by a row per block and token */
    int32_t kernel;                     /* CRN_PORTABLE, CRN_AVX2 or CRN_AVX512 */
    uint64_t state_bytes, position_bytes; /* of a slot's state: at once, and for every position */
    uint64_t weights_bytes;
    const char *prefix, *checkpoint;    /* checkpoint: SHA-256 of what was exported, in hexadecimal */
    const char *arithmetic, *alphabet;  /* as state files and manifests say them: "w8+pool8"; "letters", "bytes" or "" */
    const char *kernel_name;
} crn_info;

/* Tokens for one slot. */
typedef struct {
    int32_t slot, time;    /* time: how many */
    const int32_t *tokens; /* [time] */
    float *logits;         /* [time][vocabulary]; NULL where nobody wants them */
    int32_t code;          /* what came of it */
} crn_request;

typedef struct {
    uint32_t version, size; /* CRN_API_VERSION and sizeof(crn_api) of the library */

    /* Models. Weights are read from a file, copied from memory, or taken from the library, where they are compiled in. */
    int (*open_file)(const char *path, crn_model **model);
    int (*open_memory)(const void *file, size_t size, crn_model **model);
    int (*open_inline)(crn_model **model);
    void (*close)(crn_model *model); /* after its sessions */
    int (*info)(const crn_model *model, crn_info *info);
    /* Have sessions that are opened from now on use a kernel; gives which: no more than the machine has. */
    int (*kernel)(crn_model *model, int kernel);

    /* Sessions. No slot holds more than `capacity` positions; 0: as many as the model has. */
    int (*open)(const crn_model *model, int32_t capacity, crn_session **session);
    void (*close_session)(crn_session *session);

    /* Slots: a fresh sequence, and its end. Numbers of released slots come again. */
    int (*admit)(crn_session *session, int32_t *slot);
    int (*release)(crn_session *session, int32_t slot);
    int (*reset)(crn_session *session, int32_t slot);
    int (*copy)(crn_session *session, int32_t from, int32_t *slot); /* a new slot with the state of another one */
    int (*position)(const crn_session *session, int32_t slot, int32_t *position);
    int (*logits)(const crn_session *session, int32_t slot, float *logits); /* [vocabulary], after the last token */
    size_t (*memory)(const crn_session *session);                           /* bytes that its slots take */

    /* Tokens. Weights are read once for many slots, and every slot gets what it would get alone, bit for bit. A request that
     * fails does not concern the others; given is the first code that is not CRN_OK. */
    int (*step)(crn_session *session, int32_t slot, int32_t token, float *logits);
    int (*prefill)(crn_session *session, int32_t slot, const int32_t *tokens, int32_t time, float *logits);
    int (*step_many)(crn_session *session, crn_request *requests, int32_t number);

    /* State files: safetensors, as docs/state-files.md of the toolkit has them. Loading replaces a slot's state. */
    int (*save)(const crn_session *session, int32_t slot, const char *path); /* whole or not at all */
    int (*load)(crn_session *session, int32_t slot, const char *path);
    int (*save_memory)(const crn_session *session, int32_t slot, void *file, size_t *size); /* NULL: gives the size */
    int (*load_memory)(crn_session *session, int32_t slot, const void *file, size_t size);

    const char *(*message)(int code);
} crn_api;

#ifdef __cplusplus
}
#endif
#endif
