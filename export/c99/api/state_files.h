/* State files: one slot's state as safetensors, without the padding that it has in memory.
 *
 * Needs slots.h and headers.h. */

enum {
    WIDTH = CAUSALRN_HIDDEN / CAUSALRN_HEADS,
    MOST_NAME = 32,
    ENTRY_BYTES = 128,                                            /* of a header, at most, for a tensor */
    HEADER_BYTES = (CAUSALRN_TENSORS + 8) * ENTRY_BYTES + sizeof(CAUSALRN_CONFIGURATION),
    MOST_HEADER = 1 << 20 /* that is read */
};

/* A tensor as files have it: rows of values, or a scale for every row. */
typedef struct {
    char name[MOST_NAME];
    const char *dtype;
    size_t value_bytes, row_bytes;
    int is_scale;
} tensor_t;

static tensor_t tensor_of(int index)
{
    static const char *const pool[] = {"pool", "scale"}, *const maximum[] = {"max", "sum"}, *const carry[] = {"carry", "sum"},
                      *const alone[] = {"sum"};
    const char *const *roles = CAUSALRN_HAS_POOL                       ? pool
                               : CAUSALRN_READOUT == CAUSALRN_PLAIN ? maximum
                               : PER_BLOCK == 2                     ? carry
                                                                    : alone;
    tensor_t tensor = {.is_scale = is_scale(index)};
    snprintf(tensor.name, sizeof tensor.name, "state.%02d.%s", index / PER_BLOCK, roles[index % PER_BLOCK]);
    tensor.dtype = tensor.is_scale || CAUSALRN_POOL_BITS == 32 ? "F32" : CAUSALRN_POOL_BITS == 16 ? "F16" : "I8";
    tensor.value_bytes = tensor.is_scale ? sizeof(float) : CAUSALRN_POOL_BITS / 8u;
    tensor.row_bytes = tensor.is_scale ? tensor.value_bytes : tensor.value_bytes * CAUSALRN_HIDDEN;
    return tensor;
}

static uint64_t rows_of(int32_t position) { return CAUSALRN_HAS_POOL ? (uint64_t)position : 1u; }

/* Its shape for one sequence; gives the number of axes. */
static int shape_of(const tensor_t *tensor, int32_t position, uint64_t *shape)
{
    int axes = 0;
    if (CAUSALRN_HAS_POOL)
        shape[axes++] = (uint64_t)position;
    shape[axes++] = 1;
    if (!tensor->is_scale)
        shape[axes++] = CAUSALRN_HIDDEN;
    return axes;
}

/* Rows between memory, where every head is padded, and a file; `to_file`: which way. */
static void move_rows(const tensor_t *tensor, unsigned char *memory, unsigned char *file, uint64_t rows, int to_file)
{
    const size_t heads = tensor->is_scale ? 1 : CAUSALRN_HEADS, bytes = tensor->row_bytes / heads;
    const size_t padded = tensor->is_scale ? bytes : CAUSALRN_DP * tensor->value_bytes;
    for (uint64_t part = 0; part < rows * heads; part++, memory += padded, file += bytes) {
        memcpy(to_file ? file : memory, to_file ? memory : file, bytes);
        if (!to_file)
            memset(memory + bytes, 0, padded - bytes);
    }
}

/* Add to a header; there is always room. */
static void write_entry(char *header, size_t *used, const char *name, const char *dtype, const uint64_t *shape, int axes,
                        uint64_t begin, uint64_t end)
{
    *used += (size_t)snprintf(header + *used, HEADER_BYTES - *used, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, dtype);
    for (int i = 0; i < axes; i++)
        *used += (size_t)snprintf(header + *used, HEADER_BYTES - *used, i > 0 ? ",%llu" : "%llu", (unsigned long long)shape[i]);
    *used += (size_t)snprintf(header + *used, HEADER_BYTES - *used, "],\"data_offsets\":[%llu,%llu]}",
                              (unsigned long long)begin, (unsigned long long)end);
}

/* The header of a slot's file, without its length; gives that, and how many bytes of tensors follow. */
static size_t write_header(char *header, int32_t position, uint64_t *data_bytes)
{
    uint64_t shape[3], begin = 0;
    size_t used = (size_t)snprintf(header, HEADER_BYTES,
                                   "{\"__metadata__\":{\"format\":\"causalrn-state\",\"version\":\"1\",\"owner\":\"\","
                                   "\"checkpoint\":\"%s\",\"arithmetic\":\"%s\",\"model\":\"%s\",\"position\":\"%ld\",\"batch\":\"1\"}",
                                   CAUSALRN_CHECKPOINT, CAUSALRN_ARITHMETIC, CAUSALRN_CONFIGURATION, (long)position);
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        const tensor_t tensor = tensor_of(i);
        const uint64_t end = begin + rows_of(position) * tensor.row_bytes;
        write_entry(header, &used, tensor.name, tensor.dtype, shape, shape_of(&tensor, position, shape), begin, end);
        begin = end;
    }
    if (position > 0) {
        shape[0] = 1, shape[1] = CAUSALRN_VOCABULARY;
        write_entry(header, &used, "logits", "F32", shape, 2, begin, begin + CAUSALRN_VOCABULARY * sizeof(float));
        begin += CAUSALRN_VOCABULARY * sizeof(float);
    }
    used += (size_t)snprintf(header + used, HEADER_BYTES - used, "}");
    while (used % 8 != 0)
        header[used++] = ' ';
    *data_bytes = begin;
    return used;
}

static int save_memory(const crn_session *session, int32_t slot, void *file, size_t *size)
{
    const slot_t *taken = slot_at(session, slot);
    unsigned char *bytes = file;
    uint64_t data_bytes;
    char *header;
    size_t length, needed;
    if (taken == NULL)
        return CRN_NO_SLOT;
    header = malloc(HEADER_BYTES);
    if (header == NULL)
        return CRN_NO_MEMORY;
    length = write_header(header, taken->session.position, &data_bytes);
    needed = 8 + length + (size_t)data_bytes;
    if (bytes != NULL && *size >= needed) {
        for (int i = 0; i < 8; i++)
            bytes[i] = (unsigned char)((uint64_t)length >> 8 * i & 255u);
        memcpy(bytes + 8, header, length);
        bytes += 8 + length;
        for (int i = 0; i < CAUSALRN_TENSORS; i++) {
            const tensor_t tensor = tensor_of(i);
            const uint64_t rows = rows_of(taken->session.position);
            move_rows(&tensor, taken->session.past[i], bytes, rows, 1);
            bytes += rows * tensor.row_bytes;
        }
        if (taken->session.position > 0)
            memcpy(bytes, taken->logits, sizeof taken->logits);
    }
    free(header);
    const int is_too_small = file != NULL && *size < needed;
    *size = needed;
    return is_too_small ? CRN_TOO_SMALL : CRN_OK;
}

/* A tensor's bytes in a file, or NULL where it has no such entry of this dtype and shape. */
static const unsigned char *find_tensor(text_t header, text_t data, const char *name, const char *dtype, const uint64_t *shape,
                                        int axes, uint64_t bytes)
{
    text_t entry, offsets;
    uint64_t begin, end;
    if (!find_entry(header, name, &entry, NULL) || !has_string(entry, "dtype", dtype) ||
        !has_numbers(entry, "shape", shape, axes) || !find_entry(entry, "data_offsets", &offsets, NULL) ||
        !take_char(&offsets, '[') || !take_number(&offsets, &begin) || !take_char(&offsets, ',') ||
        !take_number(&offsets, &end) || !take_char(&offsets, ']'))
        return NULL;
    if (begin > end || end > (uint64_t)(data.end - data.at) || end - begin != bytes)
        return NULL;
    return (const unsigned char *)data.at + begin;
}

/* Whether floats are finite; as bytes, for they may lie anywhere. */
static int are_finite(const unsigned char *bytes, uint64_t count, const char *dtype)
{
    const int is_half = strcmp(dtype, "F16") == 0;
    if (strcmp(dtype, "I8") == 0)
        return 1;
    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *value = bytes + i * (is_half ? 2 : 4);
        const unsigned high = is_half ? value[1] & 0x7cu : ((unsigned)value[3] << 8 | value[2]) & 0x7f80u;
        if (high == (is_half ? 0x7cu : 0x7f80u))
            return 0;
    }
    return 1;
}

/* What a file is, by its metadata: of how many positions, and whether this model can go on from it. */
static int read_metadata(text_t header, int32_t *position, int32_t *entries)
{
    text_t metadata, value, digits;
    uint64_t number;
    if (!find_entry(header, "__metadata__", &metadata, entries) || !has_string(metadata, "format", "causalrn-state") ||
        !has_string(metadata, "version", "1") || !has_string(metadata, "batch", "1") ||
        !find_entry(metadata, "position", &value, NULL) || !take_string(&value, &digits) || !take_number(&digits, &number) ||
        digits.at != digits.end || number > INT32_MAX)
        return CRN_NOT_STATE;
    if (!has_string(metadata, "checkpoint", CAUSALRN_CHECKPOINT))
        return CRN_OTHER_CHECKPOINT;
    if (!has_string(metadata, "arithmetic", CAUSALRN_ARITHMETIC))
        return CRN_OTHER_ARITHMETIC;
    if (find_entry(metadata, "model", &value, NULL) && !has_string(metadata, "model", CAUSALRN_CONFIGURATION))
        return CRN_OTHER_CHECKPOINT;
    *position = (int32_t)number;
    return CRN_OK;
}

/* Where all tensors of a file are; the last one: logits, NULL where there are none. */
static int find_tensors(text_t header, text_t data, int32_t position, int32_t entries, const unsigned char **places)
{
    const uint64_t row[] = {1, CAUSALRN_VOCABULARY};
    uint64_t shape[3];
    text_t logits;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        const tensor_t tensor = tensor_of(i);
        const uint64_t bytes = rows_of(position) * tensor.row_bytes;
        const int axes = shape_of(&tensor, position, shape);
        places[i] = find_tensor(header, data, tensor.name, tensor.dtype, shape, axes, bytes);
        if (places[i] == NULL || !are_finite(places[i], bytes / tensor.value_bytes, tensor.dtype))
            return CRN_NOT_STATE;
    }
    places[CAUSALRN_TENSORS] = NULL;
    if (find_entry(header, "logits", &logits, NULL)) {
        places[CAUSALRN_TENSORS] = find_tensor(header, data, "logits", "F32", row, 2, CAUSALRN_VOCABULARY * sizeof(float));
        if (places[CAUSALRN_TENSORS] == NULL || !are_finite(places[CAUSALRN_TENSORS], CAUSALRN_VOCABULARY, "F32"))
            return CRN_NOT_STATE;
    }
    const int has_logits = places[CAUSALRN_TENSORS] != NULL;
    return has_logits == (position > 0) && entries == CAUSALRN_TENSORS + 1 + has_logits ? CRN_OK : CRN_NOT_STATE;
}

static int load_memory(crn_session *session, int32_t slot, const void *file, size_t size)
{
    const unsigned char *bytes = file, *places[CAUSALRN_TENSORS + 1];
    slot_t *taken = slot_at(session, slot);
    uint64_t length = 0;
    int32_t position = 0, entries = 0;
    int code;
    if (taken == NULL)
        return CRN_NO_SLOT;
    for (int i = 7; i >= 0 && size >= 8; i--)
        length = length << 8 | bytes[i];
    if (size < 8 || length > size - 8 || length > MOST_HEADER)
        return CRN_NOT_STATE;
    const text_t header = {(const char *)bytes + 8, (const char *)bytes + 8 + length};
    const text_t data = {header.end, (const char *)bytes + size};
    code = read_metadata(header, &position, &entries);
    if (code == CRN_OK && session->capacity != 0 && position > session->capacity)
        code = CRN_FULL;
    if (code == CRN_OK)
        code = find_tensors(header, data, position, entries, places);
    if (code == CRN_OK)
        code = grow_slot(session, taken, position);
    if (code != CRN_OK)
        return code;
    for (int i = 0; i < CAUSALRN_TENSORS; i++) {
        const tensor_t tensor = tensor_of(i);
        move_rows(&tensor, taken->session.past[i], (unsigned char *)places[i], rows_of(position), 0);
    }
    if (places[CAUSALRN_TENSORS] != NULL)
        memcpy(taken->logits, places[CAUSALRN_TENSORS], sizeof taken->logits);
    taken->session.position = position;
    return CRN_OK;
}

static int load_file(crn_session *session, int32_t slot, const char *path)
{
    const size_t most = !CAUSALRN_HAS_POOL || session->capacity != 0
                            ? CAUSALRN_STATE_BYTES(1, session->capacity) + MOST_HEADER + sizeof(float) * CAUSALRN_VOCABULARY
                            : SIZE_MAX / 4;
    void *file = NULL;
    size_t size = 0;
    int code;
    if (slot_at(session, slot) == NULL)
        return CRN_NO_SLOT;
    code = read_file(path, most, &file, &size);
    if (code == CRN_OK)
        code = load_memory(session, slot, file, size);
    free_memory(file);
    return code;
}

/* Write a file beside `path`, then let it take its place. Its name is that of the content's place in memory: of several
 * threads that save to one path, each writes a file of its own. */
static int replace_file(const char *path, const void *content, size_t size)
{
    static const char form[] = "%s.%llx.partial";
    const size_t room = strlen(path) + sizeof form + 2 * sizeof(unsigned long long);
    char *beside = malloc(room);
    FILE *file;
    int done;
    if (beside == NULL)
        return CRN_NO_MEMORY;
    snprintf(beside, room, form, path, (unsigned long long)(uintptr_t)content);
    file = fopen(beside, "wb");
    done = file != NULL && fwrite(content, 1, size, file) == size;
    done = (file == NULL || fclose(file) == 0) && done;
#ifdef _WIN32
    if (done)
        remove(path); /* rename does not replace there */
#endif
    done = done && rename(beside, path) == 0;
    if (!done && file != NULL)
        remove(beside);
    free(beside);
    return done ? CRN_OK : CRN_NOT_WRITTEN;
}

static int save_file(const crn_session *session, int32_t slot, const char *path)
{
    size_t size = 0;
    void *content;
    int code = save_memory(session, slot, NULL, &size);
    if (code != CRN_OK)
        return code;
    content = take_memory(size);
    if (content == NULL)
        return CRN_NO_MEMORY;
    code = save_memory(session, slot, content, &size);
    if (code == CRN_OK)
        code = path != NULL ? replace_file(path, content, size) : CRN_NOT_WRITTEN;
    free_memory(content);
    return code;
}
