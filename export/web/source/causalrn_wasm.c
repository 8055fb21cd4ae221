/* causalrn.c as a WebAssembly module without imports: one session, whose memory is the module's own.
 *
 * clang --target=wasm32 -std=c99 -O3 -ffreestanding -nostdlib -Wl,--no-entry [-msimd128] causalrn_wasm.c
 *
 * JavaScript (wasm_engine.js) decides where things lie, behind __heap_base, and hands over addresses. The second half of this
 * file is what a page shows: which positions an output reads.
 */
#include "causalrn.c"

#define EXPORT(name) __attribute__((export_name(#name)))

/* No C library: what a compiler may call for structs and arrays. */
void *memset(void *to, int byte, size_t size)
{
    volatile unsigned char *bytes = to; /* or this loop becomes a call of memset */
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)byte;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    volatile unsigned char *bytes = to;
    const unsigned char *source = from;
    for (size_t i = 0; i < size; i++)
        bytes[i] = source[i];
    return to;
}

static causalrn_weights weights;
static causalrn_session session;
static void *sets[2][CAUSALRN_TENSORS]; /* a state of constant size goes from one to the other: errors leave it whole */
static int current;
static float *watched; /* [BLOCKS][capacity][2 HP]: a and b of every position; or NULL */
static float *streams; /* [BLOCKS + 1][CAUSALRN_ROWS][EP], while watching */

enum { STATE_SETS = HAS_POOL ? 1 : 2 };

/* What the module is, for the check against the manifest. */
EXPORT(describe) int32_t describe(int32_t entry)
{
    const int32_t entries[] = {CAUSALRN_VERSION, CAUSALRN_TENSORS, HIDDEN, HEADS, VOCABULARY,   BLOCKS,
                               EMBEDDING,        CAUSALRN_POOL_BITS, HP,   EP,    CAUSALRN_ROWS};
    return entries[entry];
}

EXPORT(load_weights) int load_weights(const void *file, size_t size) { return causalrn_load(&weights, file, size); }

EXPORT(message) const char *message(int code) { return causalrn_message(code); }

EXPORT(session_size) size_t session_size(int32_t capacity)
{
    return CAUSALRN_SESSION_BYTES(1, capacity) + (STATE_SETS - 1) * CAUSALRN_STATE_BYTES(1, capacity);
}

/* A fresh session in memory of session_size(capacity). */
EXPORT(open_session) int open_session(unsigned char *memory, int32_t capacity)
{
    const int code = causalrn_open(&session, &weights, memory, CAUSALRN_SESSION_BYTES(1, capacity), 1, capacity);
    unsigned char *second = memory + CAUSALRN_SESSION_BYTES(1, capacity);
    current = 0;
    watched = NULL;
    for (int i = 0; code == CAUSALRN_OK && i < CAUSALRN_TENSORS; i++) {
        sets[0][i] = sets[1][i] = session.past[i];
        if (STATE_SETS == 2) {
            sets[1][i] = second;
            second += tensor_size(i, 1, capacity);
        }
    }
    return code;
}

static void use_set(int set)
{
    current = set;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        session.past[i] = sets[current][i];
        session.next[i] = sets[STATE_SETS - 1 - current][i];
    }
}

EXPORT(reset_session) void reset_session(void)
{
    use_set(current);
    causalrn_reset(&session);
}

EXPORT(position) int32_t position(void) { return session.position; }

/* For a state that JavaScript has written into the tensors. */
EXPORT(set_position) void set_position(int32_t tokens) { session.position = tokens; }

/* Tensor number i of the state, in the manifest's order: [rows][HP], or [rows] scales. */
EXPORT(state_tensor) void *state_tensor(int32_t i) { return sets[current][i]; }

static int take_rows(const int32_t *tokens, int32_t time, float *logits)
{
    int code;
    use_set(current);
    code = causalrn_prefill(&session, tokens, time, logits);
    if (code == CAUSALRN_OK && STATE_SETS == 2)
        current = 1 - current;
    use_set(current);
    return code;
}

/* ---- which positions an output reads ------------------------------------------------------------------------------ */

/* Bytes for watching up to `capacity` positions. */
EXPORT(watch_size) size_t watch_size(int32_t capacity)
{
    return CAUSALRN_BYTES((size_t)BLOCKS * (size_t)capacity * 2 * HP, 4) +
           CAUSALRN_BYTES((BLOCKS + 1) * CAUSALRN_ROWS * EP, 4) + 2 * CAUSALRN_BYTES(HP, 4) + CAUSALRN_BYTES(capacity, 4);
}

EXPORT(streams_address) const float *streams_address(void) { return streams; }

/* Keep a and b of every position from now on, or with NULL do not. */
EXPORT(watch) void watch(float *memory)
{
    watched = memory;
    if (memory != NULL)
        streams = memory + CAUSALRN_BYTES((size_t)BLOCKS * (size_t)session.capacity * 2 * HP, 4) / 4;
}

static float *watched_row(int block, int32_t position)
{
    return watched + ((size_t)block * (size_t)session.capacity + (size_t)position) * 2 * HP;
}

/* a and b of the last call's rows, from what its blocks read. */
static void watch_rows(int32_t time)
{
    work_t work;
    lay_out_work(&work, &session);
    for (int block = 0; block < BLOCKS; block++)
        for (int32_t row = 0; row < time; row++) {
            float *ab = watched_row(block, session.position - time + row);
            (void)normalize_portable(streams + (block * time + row) * EP, work.normalized, EP, EMBEDDING);
            multiply_portable(&weights.w12[block], work.normalized, EP, ab, 2 * HP, 1, 0, &work);
            if (CAUSALRN_READOUT == CAUSALRN_LINEAR) {
                (void)normalize_portable(ab, ab, HP, HIDDEN);
                (void)normalize_portable(ab + HP, ab + HP, HP, HIDDEN);
            }
        }
}

/* f(a, b) [HP]; without a pool times exp(-most), which cancels. */
static void pair(const float *a, float *b, float most, float *f)
{
    for (int i = 0; i < HP; i++)
        f[i] = 0.0f;
#if CAUSALRN_HAS_POOL
    reading_t_portable reading = {.a = a, .tile = b, .count = 1, .o = f};
    (void)most;
    read_pairs_portable(&reading, WIDENED);
#else
    for (int i = 0; i < HP; i += LANES) {
        const lanes_portable sum = add_portable(load_portable(a + i), load_portable(b + i));
        store_portable(f + i, natural_exp_portable(sub_portable(sum, set_portable(most))));
    }
#endif
    zero_padding_portable(f);
}

static float dot(const float *x, const float *y)
{
    lanes_portable total = set_portable(0.0f);
    for (int i = 0; i < HP; i += LANES)
        total = madd_portable(load_portable(x + i), load_portable(y + i), total);
    return sum_portable(total);
}

static float largest_pair(const float *a, int block, int32_t position)
{
    float most = -FLT_MAX;
    for (int32_t j = 0; j <= position; j++)
        for (int i = 0; i < HP; i++)
            if (i % DP < WIDTH && a[i] + watched_row(block, j)[HP + i] > most)
                most = a[i] + watched_row(block, j)[HP + i];
    return most;
}

/* Shares [position + 1]: of position j in what the output at `position` reads. The readout is a sum over j, of which only the
 * direction counts that is left after its norms; a share is a term's part of that direction. Shares add up to 1; a term that
 * points the other way has a negative one. */
EXPORT(shares) const float *shares(int32_t block, int32_t position)
{
    const float *a = watched_row(block, position);
    float *f = streams + (size_t)(BLOCKS + 1) * CAUSALRN_ROWS * EP, *o = f + HP, *out = o + HP;
    float scale[HEADS], mean = 0.0f, whole = 0.0f;
    const float most = HAS_POOL ? 0.0f : largest_pair(a, block, position);
    for (int i = 0; i < HP; i++)
        o[i] = 0.0f;
    for (int32_t j = 0; j <= position; j++) {
        pair(a, watched_row(block, j) + HP, most, f);
        for (int i = 0; i < HP; i++)
            o[i] += f[i];
    }
    for (int head = 0; head < HEADS; head++) {
        scale[head] = 1.0f;
        if (CAUSALRN_HEAD_SCALE && (HEADS > 1 || !CAUSALRN_POST_NORM)) {
            float top = 0.0f;
            for (int i = head * DP; i < head * DP + WIDTH; i++)
                top = o[i] > top ? o[i] : top;
            scale[head] = 1.0f / top;
        }
    }
    for (int i = 0; i < HP; i++) {
        o[i] *= scale[i / DP];
        mean += o[i] / (float)HIDDEN;
    }
    if (CAUSALRN_POST_NORM && CAUSALRN_CENTRED)
        for (int i = 0; i < HP; i++)
            o[i] = i % DP < WIDTH ? o[i] - mean : 0.0f;
    for (int i = 0; i < HP; i++)
        o[i] *= scale[i / DP];
    for (int32_t j = 0; j <= position; j++) {
        pair(a, watched_row(block, j) + HP, most, f);
        out[j] = dot(f, o);
        whole += out[j];
    }
    for (int32_t j = 0; j <= position; j++)
        out[j] = whole != 0.0f ? out[j] / whole : 0.0f;
    return out;
}

/* Take tokens[time], at most CAUSALRN_ROWS while watching; gives logits[time][VOCABULARY]. On an error nothing has been
 * taken. */
EXPORT(prefill) int prefill(const int32_t *tokens, int32_t time, float *logits)
{
    int code;
    if (watched == NULL)
        return take_rows(tokens, time, logits);
    if (time > CAUSALRN_ROWS)
        return CAUSALRN_WRONG_SIZE;
    session.streams = streams;
    code = take_rows(tokens, time, logits);
    session.streams = NULL;
    if (code == CAUSALRN_OK)
        watch_rows(time);
    return code;
}
