#include <stdbool.h>

#include "machine.h"

#define SQUARE_SHIFT 8

/* A call per element would cost as much as its arithmetic. */
#define ALWAYS_INLINE __attribute__((always_inline)) inline

/* Smallest and largest value: a magnitude by shifts and exclusive or takes this core 31 clocks. */
struct extent {
    int32_t low, high;
};

static inline void widen(struct extent *extent, int32_t value)
{
    if (value < extent->low)
        extent->low = value;
    if (value > extent->high)
        extent->high = value;
}

static struct scalar peak(struct extent extent)
{
    return normalise((uint64_t)(extent.high > -extent.low ? extent.high : -extent.low));
}

static inline int32_t saturate(int32_t value) { return clamp(value, -ELEMENT_MAX - 1, ELEMENT_MAX); }

static inline void put(int32_t *out, int32_t value, struct extent *extent)
{
    value = saturate(value);
    *out = value;
    widen(extent, value);
}

/* A scalar's factor and the products of its multiplier with -32 to 63: an element is put together from its high six
   bits, which have the sign, and twice six bits without. */
struct scaler {
    struct factor factor;
    int32_t half;
    int32_t multiples[96];
};

#define LEAST_MULTIPLE (-32)

static void prepare(struct scaler *scaler, struct scalar scale)
{
    scaler->factor = lane_factor(scale);
    scaler->half = scaler->factor.shift == 0 ? 0 : 1 << (scaler->factor.shift - 1);
    int32_t multiple = -(scaler->factor.multiplier << 5);
    for (int32_t at = 0; at < 96; at++, multiple += scaler->factor.multiplier)
        scaler->multiples[at] = multiple;
}

/* An element times the scalar, exact where it fits 20 bits; `little` if its shift is below twelve. */
ALWAYS_INLINE static int32_t scaled(const struct scaler *scaler, int32_t element, bool little)
{
    if (little)
        return narrow(product(element, scaler->factor.multiplier), scaler->factor.shift);
    const int32_t *multiples = scaler->multiples - LEAST_MULTIPLE;
    int32_t low = (multiples[element & 63] + scaler->half) >> 6;
    int32_t middle = (multiples[element >> 6 & 63] + low) >> 6;
    return (multiples[element >> 12] + middle) >> (scaler->factor.shift - 12);
}

ALWAYS_INLINE static struct extent wide_loop(int32_t *out, const int32_t *a, const int32_t *add, int32_t count,
                                             const struct scaler *scaler, bool little)
{
    struct extent extent = {0, 0};
    for (int32_t at = 0; at < count; at++) {
        int32_t value = scaled(scaler, a[at], little);
        put(&out[at], add == 0 ? value : add[at] + value, &extent);
    }
    return extent;
}

/* One factor for `count` elements, saturated to elements; `add` points to what is added, or is null. */
ALWAYS_INLINE static struct extent scale_wide(int32_t *out, const int32_t *a, const int32_t *add, int32_t count,
                                              struct scalar scale)
{
    struct scaler scaler;
    prepare(&scaler, scale);
    return scaler.factor.shift < 12 ? wide_loop(out, a, add, count, &scaler, true)
                                    : wide_loop(out, a, add, count, &scaler, false);
}

ALWAYS_INLINE static struct extent narrow_loop(int16_t *out, const int32_t *a, int32_t count,
                                               const struct scaler *scaler, bool little)
{
    struct extent extent = {0, 0};
    for (int32_t at = 0; at < count; at++) {
        int32_t value = clamp(scaled(scaler, a[at], little), -NARROW_MAX, NARROW_MAX);
        out[at] = (int16_t)value;
        widen(&extent, value);
    }
    return extent;
}

/* One factor for `count` elements, clamped to int8. */
static struct extent scale_narrow(int16_t *out, const int32_t *a, int32_t count, struct scalar scale)
{
    struct scaler scaler;
    prepare(&scaler, scale);
    return scaler.factor.shift < 12 ? narrow_loop(out, a, count, &scaler, true)
                                    : narrow_loop(out, a, count, &scaler, false);
}

/* The peak, if there is a register to keep it. */
static void leave(const struct op *op, struct extent extent)
{
    if (op->rd != NO_SCALAR)
        scalars[op->rd] = peak(extent);
}

void vector_embed(const struct op *op, int32_t token)
{
    const int8_t *row = embedding + token * EMBED_ELEMENTS;
    struct factor factor = lane_factor(scalars[op->ra]);
    struct extent extent = {0, 0};
    int32_t *out = vector + op->dst * LANES;
    for (int32_t *end = out + op->beats * LANES; out < end; out++, row++)
        put(out, narrow(product(*row, factor.multiplier), factor.shift), &extent);
    leave(op, extent);
}

/* Each head by its own scalar, from S(ra) on. */
static struct extent scale_heads(const struct op *op)
{
    const int32_t *a = vector + op->src * LANES;
    int32_t *out = vector + op->dst * LANES;
    struct extent extent = {0, 0};
    const struct scalar *by = &scalars[op->ra];
    for (const int32_t *end = a + op->beats * LANES; a < end; a += HEAD_DIM, out += HEAD_DIM, by++) {
        struct extent head = scale_wide(out, a, 0, HEAD_DIM, *by);
        widen(&extent, head.low);
        widen(&extent, head.high);
    }
    return extent;
}

static void scale(const struct op *op, int32_t position)
{
    const int32_t *a = vector + op->src * LANES;
    int32_t count = op->beats * LANES;
    struct scalar by = scalars[op->ra];
    struct extent extent = {0, 0};
    switch (op->target) {
    case TARGET_VECTOR:
        extent = op->segmented ? scale_heads(op) : scale_wide(vector + op->dst * LANES, a, 0, count, by);
        break;
    case TARGET_ACTIVATION: extent = scale_narrow(activation + op->dst * LANES, a, count, by); break;
    case TARGET_QUERY:
        extent = scale_narrow(query + op->dst * LANES, a, count, by);
        query_exponent = block_exponent(scalars[op->rb]);
        break;
    case TARGET_KEY:
        extent = scale_narrow(keys[op->dst][position], a, count, by);
        key_exponents[op->dst][position] = (uint8_t)block_exponent(scalars[op->rb]);
        break;
    case TARGET_VALUE:
        extent = scale_narrow(values[op->dst][position], a, count, by);
        value_exponents[op->dst][position] = (uint8_t)block_exponent(scalars[op->rb]);
        break;
    }
    leave(op, extent);
}

static void add(const struct op *op)
{
    leave(op, scale_wide(vector + op->dst * LANES, vector + op->src * LANES, vector + op->src2 * LANES,
                         op->beats * LANES, scalars[op->ra]));
}

static void square(const struct op *op)
{
    struct extent extent = {0, 0};
    uint64_t total = (uint32_t)(op->dst << 8 | op->src2);
    const int32_t *a = vector + op->src * LANES;
    for (const int32_t *end = a + op->beats * LANES; a < end; a++) {
        struct wide parts = squared(*a);
        total += (uint32_t)((parts.high << 1) + (parts.low >> SQUARE_SHIFT));
        widen(&extent, *a);
    }
    scalars[op->rb] = normalise(total);
    leave(op, extent);
}

static void rotate(const struct op *op)
{
    struct extent extent = {0, 0};
    const int32_t *a = vector + op->src * LANES;
    int32_t *out = vector + op->dst * LANES;
    for (const int32_t *end = a + op->beats * LANES; a < end;)
        for (int32_t pair = 0; pair < HEAD_PAIRS; pair++, a += 2, out += 2) {
            int32_t even = a[0], odd = a[1], cosine = factors[pair].cosine, sine = factors[pair].sine;
            struct wide first = product(even, cosine), second = product(odd, sine);
            put(out, narrow((struct wide){first.high - second.high, first.low - second.low}, ROTARY_FRACTION), &extent);
            first = product(odd, cosine);
            second = product(even, sine);
            put(out + 1, narrow((struct wide){first.high + second.high, first.low + second.low}, ROTARY_FRACTION),
                &extent);
        }
    leave(op, extent);
}

static int32_t four_up(int32_t bits) { return bits > 0 ? (bits + 3) & ~3 : 0; }

static void gate(const struct op *op)
{
    struct extent extent = {0, 0};
    int32_t gate_bits = scalars[op->ra].exponent + 16, up_bits = scalars[op->rb].exponent + 16;
    int32_t first = four_up(gate_bits + gate_bits - 17), second = four_up(up_bits);
    const int32_t *g = vector + op->src * LANES, *u = vector + op->src2 * LANES;
    int32_t *out = vector + op->dst * LANES;
    for (const int32_t *end = g + op->beats * LANES; g < end; g++, u++, out++) {
        int32_t value = 0;
        if (*g > 0) {
            struct wide parts = squared(*g);
            int32_t shifted = first >= 9 ? (parts.high + (parts.low >> 9)) >> (first - 9)
                                         : (parts.high << (9 - first)) + (parts.low >> first);
            value = narrow(product(*u, shifted), second);
        }
        put(out, value, &extent);
    }
    scalars[op->rc] = (struct scalar){HALF, first + second - 15};
    leave(op, extent);
}

void vector_execute(const struct op *op, int32_t position)
{
    switch (op->fn) {
    case VECTOR_SCALE: scale(op, position); break;
    case VECTOR_ADD: add(op); break;
    case VECTOR_SQUARE: square(op); break;
    case VECTOR_ROTATE: rotate(op); break;
    case VECTOR_GATE: gate(op); break;
    }
}
