#include "machine.h"

#define SUMS 81
#define SUMS_BYTES (SUMS * 2)

/* Each sum of four activations, of which each may be negated or left out: trits t of columns a to d find theirs at
   (t_a + 1) + 3 * (t_b + 1) + 9 * (t_c + 1) + 27 * (t_d + 1). */
static int16_t sums[ACTIVATION_DEPTH * LANES / 4][SUMS];

static void fill(int16_t *out, const int16_t *columns)
{
    int32_t a = columns[0], b = columns[1], c = columns[2], d = columns[3];
    int32_t first = -a - b, second = -b, third = a - b, fourth = -a, sixth = a, seventh = b - a, eighth = b,
            ninth = a + b;
    for (int32_t outer = -d - c, step = 0; step < 9; step++) {
        out[0] = (int16_t)(outer + first);
        out[1] = (int16_t)(outer + second);
        out[2] = (int16_t)(outer + third);
        out[3] = (int16_t)(outer + fourth);
        out[4] = (int16_t)outer;
        out[5] = (int16_t)(outer + sixth);
        out[6] = (int16_t)(outer + seventh);
        out[7] = (int16_t)(outer + eighth);
        out[8] = (int16_t)(outer + ninth);
        out += 9;
        outer += step == 2 || step == 5 ? d - c - c : c;
    }
}

static inline int32_t sum_at(const int16_t *group, int32_t code)
{
    return *(const int16_t *)((const char *)group + code);
}

void engine_matvec(const struct op *op)
{
    const struct matrix *matrix = &matrices[op->matrix];
    const uint8_t *code = codes + matrix->offset;
    int32_t groups = matrix->groups, low = 0, high = 0;
    if (op->fill) {
        const int16_t *columns = activation + op->src * LANES;
        for (int32_t group = 0; group < groups; group++, columns += 4)
            fill(sums[group], columns);
    }
    int32_t *out = vector + op->dst * LANES;
    for (int32_t *end = out + matrix->rows; out < end; out++) {
        int32_t total = 0;
        for (int32_t plane = op->planes; plane > 0; plane--) {
            total += total + total;
            const int16_t *group = sums[0];
            for (const uint8_t *last = code + groups; code < last; code += GROUPS_STEP, group += GROUPS_STEP * SUMS)
#pragma clang loop unroll(full)
                for (int32_t at = 0; at < GROUPS_STEP; at++)
                    total += sum_at(group + at * SUMS, code[at]);
        }
        total = clamp(shift_round(total, op->shift), -ELEMENT_MAX - 1, ELEMENT_MAX);
        *out = total;
        if (total < low)
            low = total;
        if (total > high)
            high = total;
    }
    scalars[op->rd] = normalise((uint64_t)(high > -low ? high : -low));
}
