#include "machine.h"

#define SCORE_MAX 1048575

static int32_t scores[CONTEXT];

/* Scores of one head at so many positions; the largest. */
static int32_t score(const int16_t *head_query, const int16_t *head_keys, const uint8_t *exponents, int32_t count)
{
    int32_t largest = -SCORE_MAX - 1;
    const int32_t *around[HEAD_DIM]; /* the table of squares, seen from a query's element */
    for (int32_t lane = 0; lane < HEAD_DIM; lane++)
        around[lane] = SQUARES + head_query[lane];
    for (int32_t at = 0; at < count; at++, head_keys += WORD_LANES) {
        int32_t dot = 0;
#pragma clang loop unroll(full)
        for (int32_t lane = 0; lane < HEAD_DIM; lane++)
            dot += around[lane][head_keys[lane]] - around[lane][-head_keys[lane]];
        int32_t shift = SCORE_FRACTION - query_exponent - exponents[at];
        int32_t value = clamp(shift > 0 ? shift_round(dot, shift) : dot << -shift, -SCORE_MAX - 1, SCORE_MAX);
        scores[at] = value;
        if (value > largest)
            largest = value;
    }
    return largest;
}

/* The weighted sum of one head's values; the sum of its weights before they meet the values' exponents. */
static int32_t weigh(int32_t *out, const int16_t *head_values, const uint8_t *exponents, int32_t count,
                     int32_t largest, int32_t top)
{
    int32_t sum = 0;
    for (int32_t lane = 0; lane < HEAD_DIM; lane++)
        out[lane] = 0;
    for (int32_t at = 0; at < count; at++, head_values += WORD_LANES) {
        int32_t weight = exp2_negative(largest - scores[at]);
        sum += weight;
        weight = shift_round(weight, top - exponents[at]);
        if (weight == 0)
            continue;
        const int32_t *around = SQUARES + weight;
#pragma clang loop unroll(full)
        for (int32_t lane = 0; lane < HEAD_DIM; lane++)
            out[lane] += around[head_values[lane]] - around[-head_values[lane]];
    }
    for (int32_t lane = 0; lane < HEAD_DIM; lane++)
        out[lane] = shift_round(out[lane], CONTEXT_LOG2 + 2);
    return sum;
}

void attention_attend(const struct op *op, int32_t position)
{
    int32_t first = position > op->reach ? position - op->reach : 0, count = position - first + 1;
    const uint8_t *exponents = value_exponents[op->slot] + first;
    int32_t top = 0, *out = vector + ATTENTION_BEAT * LANES;
    for (int32_t at = 0; at < count; at++)
        if (exponents[at] > top)
            top = exponents[at];
    const int16_t *head_query = query;
    struct scalar *sums = scalars + op->rd;
    for (int32_t group = 0; group < QUERY_GROUPS; group++)
        for (int32_t lane = 0; lane < WORD_LANES; lane += HEAD_DIM) {
            int32_t largest = score(head_query, keys[op->slot][first] + lane, key_exponents[op->slot] + first, count);
            int32_t sum = weigh(out, values[op->slot][first] + lane, exponents, count, largest, top);
            *sums = normalise((uint64_t)sum);
            sums->exponent -= top;
            sums++;
            head_query += HEAD_DIM;
            out += HEAD_DIM;
        }
}

static int32_t combine(int32_t a, int32_t b, int32_t c, int32_t d, int32_t sign)
{
    struct wide first = product(a, b), second = product(c, d);
    return sign > 0 ? narrow((struct wide){first.high + second.high, first.low + second.low}, ROTARY_FRACTION)
                    : narrow((struct wide){first.high - second.high, first.low - second.low}, ROTARY_FRACTION);
}

void rotary_factors(int32_t position)
{
    const struct cosine_sine *coarse = rotary[0][(uint32_t)position / FINE_POSITIONS];
    const struct cosine_sine *fine = rotary[1][(uint32_t)position % FINE_POSITIONS];
    for (int32_t pair = 0; pair < HEAD_PAIRS; pair++, coarse++, fine++) {
        factors[pair].cosine = (int16_t)combine(coarse->cosine, fine->cosine, coarse->sine, fine->sine, -1);
        factors[pair].sine = (int16_t)combine(coarse->sine, fine->cosine, coarse->cosine, fine->sine, 1);
    }
}
