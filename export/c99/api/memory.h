/* Memory at multiples of 64 bytes, and whole files in it.
 *
 * Needs causalrn.h and the C library. */

enum { ALIGNMENT = 64 };

/* Memory whose first bytes remember where it has to be freed; NULL where there is none. */
static void *take_memory(size_t size)
{
    unsigned char *whole = size <= SIZE_MAX - 2 * ALIGNMENT ? malloc(size + 2 * ALIGNMENT) : NULL, *aligned;
    if (whole == NULL)
        return NULL;
    aligned = whole + 2 * ALIGNMENT - (uintptr_t)whole % ALIGNMENT;
    memcpy(aligned - sizeof whole, &whole, sizeof whole);
    return aligned;
}

static void free_memory(void *aligned)
{
    void *whole;
    if (aligned == NULL)
        return;
    memcpy(&whole, (unsigned char *)aligned - sizeof whole, sizeof whole);
    free(whole);
}

/* All of a file, in memory of its own; at most `most` bytes: one more is taken for too many. */
static int read_file(const char *path, size_t most, void **content, size_t *size)
{
    FILE *file = path != NULL ? fopen(path, "rb") : NULL;
    size_t room = 1 << 16, taken = 0, got;
    unsigned char *bytes = NULL, *larger;
    if (file == NULL)
        return CRN_NO_FILE;
    do {
        if (bytes == NULL || taken == room) {
            room = bytes == NULL ? room : 2 * room;
            larger = take_memory(room);
            if (larger == NULL) {
                free_memory(bytes);
                fclose(file);
                return CRN_NO_MEMORY;
            }
            if (bytes != NULL)
                memcpy(larger, bytes, taken);
            free_memory(bytes);
            bytes = larger;
        }
        got = fread(bytes + taken, 1, room - taken, file);
        taken += got;
    } while (got > 0 && taken <= most);
    const int failed = ferror(file);
    fclose(file);
    if (failed) {
        free_memory(bytes);
        return CRN_NO_FILE;
    }
    *content = bytes;
    *size = taken;
    return CRN_OK;
}
