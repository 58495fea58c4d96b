#include "machine.h"

#define SQUARE_SHIFT 8

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

/* One factor for `count` elements, saturated to elements; `add` points to what is added, or is null. */
static void scale_wide(int32_t *out, const int32_t *a, const int32_t *add, int32_t count, struct scalar scale,
                       struct extent *extent)
{
    struct factor factor = lane_factor(scale);
    for (int32_t at = 0; at < count; at++) {
        int32_t scaled = narrow(product(a[at], factor.multiplier), factor.shift);
        put(&out[at], add == 0 ? scaled : add[at] + scaled, extent);
    }
}

/* The same for int8. */
static void scale_narrow(int16_t *out, const int32_t *a, int32_t count, struct scalar scale, struct extent *extent)
{
    struct factor factor = lane_factor(scale);
    for (int32_t at = 0; at < count; at++) {
        int32_t scaled = narrow(product(a[at], factor.multiplier), factor.shift);
        int32_t value = clamp(scaled, -NARROW_MAX, NARROW_MAX);
        out[at] = (int16_t)value;
        widen(extent, value);
    }
}

void vector_embed(const struct op *op, int32_t token)
{
    const int8_t *row = embedding + token * EMBED_ELEMENTS;
    struct factor factor = lane_factor(scalars[op->ra]);
    struct extent extent = {0, 0};
    int32_t *out = vector + op->dst * LANES;
    for (int32_t *end = out + op->beats * LANES; out < end; out++, row++)
        put(out, narrow(product(*row, factor.multiplier), factor.shift), &extent);
    scalars[op->rd] = peak(extent);
}

static void scale(const struct op *op, int32_t position)
{
    const int32_t *a = vector + op->src * LANES;
    int32_t *wide_out = vector + op->dst * LANES, count = op->beats * LANES;
    struct scalar by = scalars[op->ra];
    struct extent extent = {0, 0};
    switch (op->target) {
    case TARGET_VECTOR:
        if (op->segmented)
            for (int32_t head = 0, at = 0; at < count; head++, at += HEAD_DIM)
                scale_wide(wide_out + at, a + at, 0, HEAD_DIM, scalars[op->ra + head], &extent);
        else
            scale_wide(wide_out, a, 0, count, by, &extent);
        break;
    case TARGET_ACTIVATION: scale_narrow(activation + op->dst * LANES, a, count, by, &extent); break;
    case TARGET_QUERY:
        scale_narrow(query + op->dst * LANES, a, count, by, &extent);
        query_exponent = block_exponent(by);
        break;
    case TARGET_KEY:
        scale_narrow(keys[op->dst][position], a, count, by, &extent);
        key_exponents[op->dst][position] = (uint8_t)block_exponent(by);
        break;
    case TARGET_VALUE:
        scale_narrow(values[op->dst][position], a, count, by, &extent);
        value_exponents[op->dst][position] = (uint8_t)block_exponent(by);
        break;
    }
    scalars[op->rd] = peak(extent);
}

static void add(const struct op *op)
{
    struct extent extent = {0, 0};
    scale_wide(vector + op->dst * LANES, vector + op->src * LANES, vector + op->src2 * LANES, op->beats * LANES,
               scalars[op->ra], &extent);
    scalars[op->rd] = peak(extent);
}

static void square(const struct op *op)
{
    struct extent extent = {0, 0};
    uint64_t total = (uint32_t)(op->dst << 8 | op->src2);
    const int32_t *a = vector + op->src * LANES;
    for (const int32_t *end = a + op->beats * LANES; a < end; a++) {
        struct wide squared = product(*a, *a);
        total += (uint32_t)((squared.high << 1) + (squared.low >> SQUARE_SHIFT));
        widen(&extent, *a);
    }
    scalars[op->rb] = normalise(total);
    scalars[op->rd] = peak(extent);
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
    scalars[op->rd] = peak(extent);
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
            struct wide squared = product(*g, *g);
            int32_t shifted = first >= 9 ? (squared.high + (squared.low >> 9)) >> (first - 9)
                                         : (squared.high << (9 - first)) + (squared.low >> first);
            value = narrow(product(*u, shifted), second);
        }
        put(out, value, &extent);
    }
    scalars[op->rc] = (struct scalar){32768, first + second - 15};
    scalars[op->rd] = peak(extent);
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
