/* Random calls over slots of one model, by several threads with sessions of their own: joins, leaves, resets, copies, tokens
 * of many slots, states that are saved and loaded, sessions that open and close, kernels that change, calls that fail. What a
 * slot holds is then what its tokens give alone, bit for bit.
 *
 *     random_slots WEIGHTS STATE_FILE THREADS CALLS SECONDS SEED
 *
 * Every thread stops after so many calls, or seconds where these are not 0. All of them save to the one STATE_FILE, and change
 * the one model's kernel: compiled with -DCAUSALRN_REPRODUCIBLE all kernels give the same bits. */
#include "causalrn_api.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_SLOTS = 9, MOST_TOKENS = 100, MOST_TIME = 12, FILES = 4, MOST_THREADS = 16, V = CAUSALRN_VOCABULARY };

/* What a slot should hold. */
typedef struct {
    int32_t is_open, count, tokens[MOST_TOKENS];
} sequence;

typedef struct {
    unsigned char *content;
    size_t size;
    sequence of;
} state_file;

typedef struct {
    pthread_t thread;
    const crn_api *api;
    crn_model *model;
    const char *path, *failed;
    uint64_t random, calls, replays;
    long most_calls, seconds;
    int32_t capacity;
    crn_session *session, *alone;
    sequence slots[MOST_SLOTS];
    state_file files[FILES];
} worker;

static uint32_t draw(worker *w, uint32_t below)
{
    w->random ^= w->random << 13, w->random ^= w->random >> 7, w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 32) % below;
}

static void expect(worker *w, int holds, const char *what)
{
    if (!holds && w->failed == NULL)
        w->failed = what;
}

static void expect_code(worker *w, int code, int wanted, const char *what)
{
    w->calls++;
    expect(w, code == wanted, what);
}

/* One that is open, or -1. */
static int32_t any_slot(worker *w)
{
    const int32_t first = (int32_t)draw(w, MOST_SLOTS);
    for (int32_t i = 0; i < MOST_SLOTS; i++)
        if (w->slots[(first + i) % MOST_SLOTS].is_open)
            return (first + i) % MOST_SLOTS;
    return -1;
}

static int32_t opened(const worker *w)
{
    int32_t count = 0;
    for (int32_t i = 0; i < MOST_SLOTS; i++)
        count += w->slots[i].is_open;
    return count;
}

/* The bits of a slot are those of its tokens, one by one, in a session that does nothing else. */
static void replay(worker *w, int32_t slot)
{
    static const float nothing[V];
    const sequence *of = &w->slots[slot];
    float logits[V] = {0}, given[V] = {0};
    int32_t other = -1, position = -1;
    expect_code(w, w->api->position(w->session, slot, &position), CRN_OK, "position");
    expect(w, position == of->count, "a position differs");
    expect_code(w, w->api->logits(w->session, slot, given), of->count > 0 ? CRN_OK : CRN_NO_LOGITS, "logits");
    expect_code(w, w->api->admit(w->alone, &other), CRN_OK, "admit, alone");
    for (int32_t i = 0; i < of->count; i++)
        expect_code(w, w->api->step(w->alone, other, of->tokens[i], logits), CRN_OK, "step, alone");
    expect(w, memcmp(of->count > 0 ? logits : nothing, given, sizeof given) == 0, "logits differ from those alone");
    expect_code(w, w->api->release(w->alone, other), CRN_OK, "release, alone");
    w->replays++;
}

/* Tokens of some slots; of some of them too many, one that is none, or a slot that is not there. */
static void step_many(worker *w)
{
    static const int32_t wrong[] = {-1, V, INT32_MAX, INT32_MIN};
    crn_request requests[MOST_SLOTS + 1] = {{0}};
    int32_t tokens[MOST_SLOTS + 1][MOST_TIME], number = 0, codes[MOST_SLOTS + 1], first = CRN_OK;
    float *logits = malloc((MOST_SLOTS + 1) * MOST_TIME * V * sizeof *logits);
    for (int32_t slot = 0; slot < MOST_SLOTS; slot++) {
        if (!w->slots[slot].is_open || draw(w, 3) == 0)
            continue;
        const int32_t time = draw(w, 3) == 0 ? 1 + (int32_t)draw(w, MOST_TIME) : 1;
        for (int32_t i = 0; i < time; i++)
            tokens[number][i] = (int32_t)draw(w, V);
        codes[number] = w->slots[slot].count + time > w->capacity ? CRN_FULL : CRN_OK;
        if (codes[number] == CRN_OK && draw(w, 20) == 0) {
            tokens[number][draw(w, (uint32_t)time)] = wrong[draw(w, 4)];
            codes[number] = CRN_WRONG_TOKEN;
        }
        float *const wanted = draw(w, 4) == 0 ? NULL : logits + number * MOST_TIME * V;
        requests[number] = (crn_request){slot, time, tokens[number], wanted, 99};
        number++;
    }
    if (draw(w, 10) == 0) {
        codes[number] = CRN_NO_SLOT;
        requests[number] = (crn_request){draw(w, 2) ? -1 : MOST_SLOTS + 5, 1, tokens[0], NULL, 99};
        tokens[0][0] = number == 0 ? 0 : tokens[0][0];
        number++;
    }
    for (int32_t i = number - 1; i >= 0; i--)
        first = codes[i] != CRN_OK ? codes[i] : first;
    expect_code(w, w->api->step_many(w->session, requests, number), number > 0 ? first : CRN_WRONG_SIZE, "step_many");
    for (int32_t i = 0; i < number; i++) {
        expect(w, requests[i].code == codes[i], "the code of a request");
        if (codes[i] != CRN_OK)
            continue;
        sequence *of = &w->slots[requests[i].slot];
        memcpy(of->tokens + of->count, tokens[i], (size_t)requests[i].time * sizeof tokens[i][0]);
        of->count += requests[i].time;
    }
    free(logits);
}

static void join(worker *w)
{
    int32_t slot = -1;
    if (opened(w) == MOST_SLOTS)
        return;
    expect_code(w, w->api->admit(w->session, &slot), CRN_OK, "admit");
    expect(w, slot >= 0 && slot < MOST_SLOTS && !w->slots[slot].is_open, "a slot that is taken was given");
    if (w->failed == NULL)
        w->slots[slot] = (sequence){.is_open = 1};
}

static void leave(worker *w, int32_t slot)
{
    if (draw(w, 2) == 0)
        replay(w, slot);
    expect_code(w, w->api->release(w->session, slot), CRN_OK, "release");
    w->slots[slot].is_open = 0;
    expect_code(w, w->api->release(w->session, slot), CRN_NO_SLOT, "release, again");
}

static void copy(worker *w, int32_t slot)
{
    int32_t made = -1;
    if (opened(w) == MOST_SLOTS)
        return;
    expect_code(w, w->api->copy(w->session, slot, &made), CRN_OK, "copy");
    if (w->failed == NULL)
        w->slots[made] = w->slots[slot];
}

static void save(worker *w, int32_t slot)
{
    state_file *file = &w->files[draw(w, FILES)];
    size_t size = 0, less;
    free(file->content);
    expect_code(w, w->api->save_memory(w->session, slot, NULL, &size), CRN_OK, "save_memory, its size");
    file->content = malloc(size);
    less = size - 1;
    expect_code(w, w->api->save_memory(w->session, slot, file->content, &less), CRN_TOO_SMALL, "save_memory, too small");
    file->size = size;
    expect_code(w, w->api->save_memory(w->session, slot, file->content, &file->size), CRN_OK, "save_memory");
    expect(w, file->size == size, "save_memory gives another size");
    file->of = w->slots[slot];
    if (draw(w, 4) == 0)
        expect_code(w, w->api->save(w->session, slot, w->path), CRN_OK, "save");
}

/* A state of before, whole or cut short; or the file, which some thread or other has written. */
static void load(worker *w, int32_t slot)
{
    const state_file *file = &w->files[draw(w, FILES)];
    if (draw(w, 6) == 0) {
        const int code = w->api->load(w->session, slot, w->path);
        expect_code(w, code, code == CRN_NO_FILE ? CRN_NO_FILE : CRN_OK, "load: what all threads save to is not whole");
        if (code == CRN_OK) {
            expect_code(w, w->api->reset(w->session, slot), CRN_OK, "reset");
            w->slots[slot].count = 0;
        }
    } else if (file->content != NULL && draw(w, 4) == 0) {
        const size_t size = draw(w, (uint32_t)file->size);
        unsigned char *cut = malloc(size > 0 ? size : 1); /* its end is an end */
        memcpy(cut, file->content, size);
        expect_code(w, w->api->load_memory(w->session, slot, cut, size), CRN_NOT_STATE, "load_memory, cut short");
        free(cut);
    } else if (file->content != NULL) {
        expect_code(w, w->api->load_memory(w->session, slot, file->content, file->size), CRN_OK, "load_memory");
        w->slots[slot] = file->of;
    }
}

static void fail(worker *w, int32_t slot)
{
    const int32_t token = 3;
    crn_request twice[2] = {{slot, 1, &token, NULL, 99}, {slot, 1, &token, NULL, 99}};
    const int has_room = w->slots[slot].count < w->capacity;
    expect_code(w, w->api->prefill(w->session, slot, &token, 0, NULL), CRN_WRONG_SIZE, "prefill of nothing");
    expect_code(w, w->api->reset(w->session, -1), CRN_NO_SLOT, "reset, no slot");
    expect_code(w, w->api->load(w->session, slot, "/nowhere/at/all"), CRN_NO_FILE, "load, no file");
    expect_code(w, w->api->save(w->session, slot, "/nowhere/at/all"), CRN_NOT_WRITTEN, "save, no folder");
    expect_code(w, w->api->step_many(w->session, twice, 2), has_room ? CRN_MIXED : CRN_FULL, "one slot twice");
    if (has_room)
        w->slots[slot].tokens[w->slots[slot].count++] = token;
}

static void describe(worker *w)
{
    crn_info info = {.size = sizeof info};
    expect_code(w, w->api->info(w->model, &info), CRN_OK, "info");
    expect(w, info.vocabulary == V && strcmp(info.kernel_name, "") != 0, "what info says");
    expect(w, w->api->memory(w->session) > 0 || opened(w) == 0, "memory");
    expect(w, w->api->kernel(w->model, (int)draw(w, 4) + CRN_BEST) >= CRN_PORTABLE, "kernel");
    w->calls += 2;
}

/* All of it replayed, and begun anew. */
static void reopen(worker *w)
{
    for (int32_t slot = 0; slot < MOST_SLOTS; slot++)
        if (w->slots[slot].is_open)
            replay(w, slot);
    w->api->close_session(w->session);
    w->api->close_session(w->alone);
    memset(w->slots, 0, sizeof w->slots);
    expect_code(w, w->api->open(w->model, w->capacity, &w->session), CRN_OK, "open");
    expect_code(w, w->api->open(w->model, w->capacity, &w->alone), CRN_OK, "open");
}

static void call(worker *w)
{
    const uint32_t what = draw(w, 100);
    const int32_t slot = any_slot(w);
    if (slot < 0 || what < 12)
        join(w);
    else if (what < 60)
        step_many(w);
    else if (what < 66)
        leave(w, slot);
    else if (what < 70)
        copy(w, slot);
    else if (what < 78)
        save(w, slot);
    else if (what < 88)
        load(w, slot);
    else if (what < 91)
        replay(w, slot);
    else if (what < 94)
        fail(w, slot);
    else if (what < 97)
        describe(w);
    else if (what < 99) {
        expect_code(w, w->api->reset(w->session, slot), CRN_OK, "reset");
        w->slots[slot].count = 0;
    } else
        reopen(w);
}

static void *work(void *argument)
{
    worker *w = argument;
    const time_t begin = time(NULL);
    expect_code(w, w->api->open(w->model, w->capacity, &w->session), CRN_OK, "open");
    expect_code(w, w->api->open(w->model, w->capacity, &w->alone), CRN_OK, "open");
    while (w->failed == NULL && (w->seconds > 0 ? time(NULL) - begin < w->seconds : (long)w->calls < w->most_calls))
        call(w);
    if (w->failed == NULL)
        reopen(w);
    w->api->close_session(w->session);
    w->api->close_session(w->alone);
    for (int i = 0; i < FILES; i++)
        free(w->files[i].content);
    return NULL;
}

int main(int count, char **words)
{
    static worker workers[MOST_THREADS];
    const crn_api *api = causalrn_api();
    crn_model *model = NULL;
    uint64_t calls = 0, replays = 0;
    if (count != 7)
        return 2;
    const int threads = atoi(words[3]);
    if (threads < 1 || threads > MOST_THREADS || api->open_file(words[1], &model) != CRN_OK)
        return 2;
    for (int i = 0; i < threads; i++) {
        const int32_t capacity = CAUSALRN_CAPACITY > 0 && CAUSALRN_CAPACITY < MOST_TOKENS ? CAUSALRN_CAPACITY : MOST_TOKENS;
        workers[i] = (worker){.api = api, .model = model, .path = words[2], .capacity = capacity};
        workers[i].most_calls = atol(words[4]), workers[i].seconds = atol(words[5]);
        workers[i].random = 0x9e3779b97f4a7c15u * (uint64_t)(atol(words[6]) + 1 + i);
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            return 2;
    }
    int failed = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        calls += workers[i].calls, replays += workers[i].replays;
        if (workers[i].failed != NULL) {
            printf("thread %d, call %llu: %s\n", i, (unsigned long long)workers[i].calls, workers[i].failed);
            failed = 1;
        }
    }
    api->close(model);
    printf("%d threads, %llu calls, %llu replays\n", threads, (unsigned long long)calls, (unsigned long long)replays);
    return failed;
}
