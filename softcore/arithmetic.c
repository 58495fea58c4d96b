#include "arithmetic.h"
#include "machine.h"

#define MANTISSA_MAX 65535
#define SCALE_SHIFT_MAX 28
#define FRACTION_BITS 7

static int32_t interpolate(const struct segment *segment, int32_t fraction, int32_t bits)
{
    int32_t value = segment->base - (small_product(segment->drop, fraction) >> bits);
    return value > MANTISSA_MAX ? MANTISSA_MAX : value;
}

struct scalar normalise(uint64_t value)
{
    struct scalar out = {0, 0};
    while (value >> 32 != 0) {
        value >>= 1;
        out.exponent++;
    }
    uint32_t word = value == 0 ? 1u : (uint32_t)value;
    while (word > MANTISSA_MAX) {
        word >>= 1;
        out.exponent++;
    }
    while (word < HALF) {
        word <<= 1;
        out.exponent--;
    }
    out.mantissa = (int32_t)word;
    return out;
}

struct scalar multiply(struct scalar a, struct scalar b)
{
    struct wide parts = product(a.mantissa, b.mantissa);
    uint32_t value = ((uint32_t)parts.high << 9) + (uint32_t)parts.low;
    int32_t bits = value >= 0x80000000u ? 16 : 15;
    return (struct scalar){(int32_t)(value >> bits), a.exponent + b.exponent + bits};
}

struct scalar reciprocal(struct scalar a)
{
    int32_t offset = a.mantissa - HALF;
    const struct segment *segment = &reciprocal_table[offset >> FRACTION_BITS];
    return (struct scalar){interpolate(segment, offset & 127, FRACTION_BITS), -a.exponent - 31};
}

struct scalar rsqrt(struct scalar a)
{
    int32_t odd = a.exponent & 1, offset = a.mantissa - HALF;
    const struct segment *segment = &rsqrt_table[(offset >> (FRACTION_BITS + 1)) + (odd ? 128 : 0)];
    int32_t mantissa = interpolate(segment, offset & 255, FRACTION_BITS + 1);
    return (struct scalar){mantissa, -((a.exponent - odd) >> 1) - 23 - odd};
}

struct scalar block(struct scalar peak)
{
    int32_t bits = peak.exponent + 9;
    return (struct scalar){HALF, -15 - (bits > 0 ? bits : 0)};
}

int32_t block_exponent(struct scalar block) { return -15 - block.exponent; }

struct factor lane_factor(struct scalar scale)
{
    int32_t mantissa = scale.mantissa >> 2, shift = -scale.exponent - 2;
    if (shift > SCALE_SHIFT_MAX) {
        int32_t excess = shift - SCALE_SHIFT_MAX;
        return (struct factor){excess > 14 ? 0 : mantissa >> excess, SCALE_SHIFT_MAX};
    }
    if (shift < -3)
        shift = -3;
    int32_t coarse = (shift + 3) & ~3;
    return (struct factor){mantissa << (coarse - shift), coarse};
}

int32_t exp2_negative(int32_t distance)
{
    int32_t whole = distance >> 10;
    if (whole > 12)
        return 0; /* EXP_ONE is below 2**16, and half of 2**17 is not reached */
    const struct segment *segment = &exp2_table[distance >> 5 & 31];
    int32_t value = segment->base - (small_product(segment->drop, distance & 31) >> 5);
    return shift_round(value, whole + 4);
}
