/* Weights: checked once, then pointed into, never copied. causalrn_load and causalrn_use.
 *
 * Needs sizes.h. The layout is written by packing.py. */

static uint32_t read_u32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* CRC-32 (IEEE 802.3) as in zlib, by eight lookups that do not wait for each other. */
static uint32_t crc32_of(const unsigned char *bytes, size_t size)
{
    static const uint32_t first[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    uint32_t table[8][16]; /* [k][n]: what four bits n have become k + 1 times four bits later */
    for (size_t k = 0; k < 8; k++)
        for (size_t n = 0; n < 16; n++)
            table[k][n] = k == 0 ? first[n] : first[table[k - 1][n] & 15u] ^ (table[k - 1][n] >> 4);
    uint32_t crc = 0xffffffffu;
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        const uint32_t four = crc ^ read_u32(bytes + i);
        crc = 0;
        for (size_t k = 0; k < 8; k++)
            crc ^= table[7 - k][four >> 4 * k & 15u];
    }
    for (; i < size; i++) {
        crc ^= bytes[i];
        crc = first[crc & 15u] ^ (crc >> 4);
        crc = first[crc & 15u] ^ (crc >> 4);
    }
    return ~crc;
}

static const void *take(const unsigned char **next, size_t bytes)
{
    const unsigned char *here = *next;
    *next += CAUSALRN_UP(bytes, 64u);
    return here;
}

static causalrn_matrix take_matrix(const unsigned char **next, int in, int out)
{
    causalrn_matrix matrix = {0};
    matrix.panels = take(next, (size_t)in * (size_t)out * sizeof(causalrn_weight));
    matrix.bias = take(next, (size_t)out * sizeof(float));
    if (CAUSALRN_WEIGHTS != CAUSALRN_FLOAT32)
        matrix.scale = take(next, (size_t)out * sizeof(float));
    if (CAUSALRN_WEIGHTS == CAUSALRN_INT8_DYNAMIC)
        matrix.sums = take(next, (size_t)out * sizeof(int32_t));
    return matrix;
}

int causalrn_use(causalrn_weights *weights, const void *payload)
{
    const unsigned char *next = payload;
    const uint32_t one = 1;
    if (*(const unsigned char *)&one != 1)
        return CAUSALRN_WRONG_ENDIANNESS; /* the file is little-endian, and is used as it lies in memory */
    if ((uintptr_t)payload % sizeof(float) != 0)
        return CAUSALRN_MISALIGNED;
    weights->wte = take(&next, (size_t)VOCABULARY * EP * sizeof(float));
    weights->wpe = take(&next, (size_t)CAUSALRN_POSITIONS * EP * sizeof(float));
    for (int block = 0; block < BLOCKS; block++) {
        weights->w12[block] = take_matrix(&next, EP, 2 * HP);
        weights->w3[block] = take_matrix(&next, HP, EP);
    }
    weights->head = take_matrix(&next, EP, VP);
    return CAUSALRN_OK;
}

int causalrn_load(causalrn_weights *weights, const void *file, size_t size)
{
    const unsigned char *bytes = file;
    if (size < CAUSALRN_HEADER)
        return CAUSALRN_TRUNCATED;
    if (bytes[0] != 'C' || bytes[1] != 'R' || bytes[2] != 'N' || bytes[3] != 'W')
        return CAUSALRN_NOT_WEIGHTS;
    if (read_u32(bytes + 4) == 0x04030201u)
        return CAUSALRN_WRONG_ENDIANNESS;
    if (read_u32(bytes + 4) != 0x01020304u)
        return CAUSALRN_NOT_WEIGHTS;
    if (read_u32(bytes + 8) != CAUSALRN_VERSION)
        return CAUSALRN_WRONG_VERSION;
    if (crc32_of(bytes, CAUSALRN_HEADER - 4) != read_u32(bytes + CAUSALRN_HEADER - 4))
        return CAUSALRN_DAMAGED;
    if (read_u32(bytes + 12) != CAUSALRN_MODEL)
        return CAUSALRN_WRONG_MODEL;
    if (read_u32(bytes + 16) != PAYLOAD)
        return CAUSALRN_WRONG_MODEL;
    if (size - CAUSALRN_HEADER < PAYLOAD)
        return CAUSALRN_TRUNCATED;
    if (size - CAUSALRN_HEADER > PAYLOAD)
        return CAUSALRN_OVERSIZED;
    if (crc32_of(bytes + CAUSALRN_HEADER, PAYLOAD) != read_u32(bytes + 20))
        return CAUSALRN_DAMAGED;
    return causalrn_use(weights, bytes + CAUSALRN_HEADER);
}
