#pragma once
#include <stdint.h>

#include "geometry.h"

/* The integer arithmetic of sim/fixed.py on a core that neither multiplies nor shifts by more than one bit per clock. */

#define HALF 32768 /* the least mantissa */
#define ELEMENT_MAX 131071
#define NARROW_MAX 127

/* mantissa * 2**exponent, mantissa in [2**15, 2**16) */
struct scalar {
    int32_t mantissa, exponent;
};

/* A product of two elements: high * 512 + low. */
struct wide {
    int32_t high, low;
};

/* What applies a scalar to elements: a multiplier and a right shift. */
struct factor {
    int32_t multiplier, shift;
};

/* squares[x] is x * x / 4 rounded down, so x * y is squares[x + y] - squares[x - y]. */
extern const int32_t square_table[];
#define SQUARES (square_table + SQUARES_ORIGIN)

static inline int32_t small_product(int32_t x, int32_t y) { return SQUARES[x + y] - SQUARES[x - y]; }

/* Of two signed numbers of 18 bits. */
static inline struct wide product(int32_t x, int32_t y)
{
    int32_t x_high = x >> 9, x_low = x & 511, y_high = y >> 9, y_low = y & 511;
    return (struct wide){(small_product(x_high, y_high) << 9) + small_product(x_high, y_low)
                             + small_product(x_low, y_high),
                         small_product(x_low, y_low)};
}

/* Of a number of 18 bits with itself. */
static inline struct wide squared(int32_t x)
{
    int32_t high = x >> 9, low = x & 511, both = small_product(high, low);
    return (struct wide){(SQUARES[high + high] << 9) + both + both, SQUARES[low + low]};
}

/* value / 2**shift rounded half up, for shift >= 0. */
static inline int32_t shift_round(int32_t value, int32_t shift)
{
    return shift == 0 ? value : (value + (1 << (shift - 1))) >> shift;
}

/* The same of a product. What exceeds 20 bits is wrong, but far outside of those of an element. */
static inline int32_t narrow(struct wide value, int32_t shift)
{
    int32_t low = shift == 0 ? value.low : value.low + (1 << (shift - 1));
    if (shift >= 9)
        return (value.high + (low >> 9)) >> (shift - 9);
    int32_t high = value.high;
    if (high > 1 << 21)
        high = 1 << 21;
    if (high < -(1 << 21))
        high = -(1 << 21);
    return (high << (9 - shift)) + (low >> shift);
}

static inline int32_t clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

struct scalar normalise(uint64_t value);
struct scalar multiply(struct scalar a, struct scalar b);
struct scalar reciprocal(struct scalar a);
struct scalar rsqrt(struct scalar a);

/* 2**-k that brings a peak to int8, and its k. */
struct scalar block(struct scalar peak);
int32_t block_exponent(struct scalar block);

struct factor lane_factor(struct scalar scale);

/* 4095 * 2**-distance rounded; distance has ten fraction bits. */
int32_t exp2_negative(int32_t distance);
