/* float16 in plain C: the definition of what processors with instructions for it do.
 *
 * Needs compiler.h. Exact from float16 to float32; back, rounded to the nearest, halves to even, infinite from 65,520 on. */

typedef union {
    float number;
    uint32_t bits;
} word_t;

/* A finite half as a float. */
CAUSALRN_INLINE float from_half(uint16_t half)
{
    const uint32_t sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
    word_t value;
    if (magnitude < 0x00800000u) { /* below 2^-14: no leading one, so it is put there and taken away again */
        value.bits = magnitude + 0x38800000u;
        value.number -= 0x1p-14f;
    } else
        value.bits = magnitude + 0x38000000u;
    value.bits |= sign;
    return value.number;
}

/* What rounds to zero keeps its sign, infinity and NaN stay what they are. */
CAUSALRN_INLINE uint16_t to_half(float number)
{
    word_t value;
    uint32_t sign, rounded;
    value.number = number;
    sign = value.bits >> 16 & 0x8000u;
    value.bits &= 0x7fffffffu;
    if (value.bits >= 0x47800000u) /* from 2^16 on */
        rounded = value.bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
    else if (value.bits < 0x38800000u) { /* below 2^-14: beside 1/2, floats are as far apart as halves are here */
        value.number += 0.5f;
        rounded = value.bits - 0x3f000000u;
    } else
        rounded = (value.bits - 0x38000000u + 0xfffu + (value.bits >> 13 & 1u)) >> 13;
    return (uint16_t)(sign | rounded);
}
