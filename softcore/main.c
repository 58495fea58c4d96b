#include "machine.h"

/* Every write is one line of the simulator's output, with its clock. */
#define REPORT (*(volatile uint32_t *)0x40000000u)

int32_t vector[VECTOR_DEPTH * LANES];
int16_t activation[ACTIVATION_DEPTH * LANES];
int16_t query[QUERY_GROUPS * WORD_LANES];
int32_t query_exponent;
int16_t keys[KV_SLOTS][CONTEXT][WORD_LANES], values[KV_SLOTS][CONTEXT][WORD_LANES];
uint8_t key_exponents[KV_SLOTS][CONTEXT], value_exponents[KV_SLOTS][CONTEXT];
struct scalar scalars[SCALARS];
struct cosine_sine factors[HEAD_PAIRS];

static void scalar_execute(const struct op *op)
{
    struct scalar value = scalars[op->ra];
    switch (op->fn) {
    case SCALAR_RECIPROCAL: value = reciprocal(value); break;
    case SCALAR_RSQRT: value = rsqrt(value); break;
    case SCALAR_BLOCK: value = block(value); break;
    }
    if (op->rb != NO_SCALAR)
        value = multiply(value, scalars[op->rb]);
    scalars[op->rd] = multiply(value, (struct scalar){op->mantissa, op->exponent});
}

/* The largest of the logits, the first of them if there are several. */
static int32_t sample(const struct op *op)
{
    const int32_t *logits = vector + op->src * LANES;
    int32_t best = 0;
    for (int32_t at = 1; at < op->count; at++)
        if (logits[at] > logits[best])
            best = at;
    return best;
}

/* The token program once; the token that follows. */
static int32_t run(int32_t token, int32_t position)
{
    int32_t sampled = 0;
    for (const struct op *op = program; op->opcode != OPCODE_END; op++)
        switch (op->opcode) {
        case OPCODE_EMBED: vector_embed(op, token); break;
        case OPCODE_MATVEC: engine_matvec(op); break;
        case OPCODE_VECTOR: vector_execute(op, position); break;
        case OPCODE_SCALAR: scalar_execute(op); break;
        case OPCODE_ATTEND: attention_attend(op, position); break;
        case OPCODE_SAMPLE: sampled = sample(op); break;
        case OPCODE_ROTARY: rotary_factors(position); break;
        }
    return sampled;
}

/* Of vector memory, activations and scalars, the same as sim/softcore/run.py computes. */
static uint32_t checksum(void)
{
    uint32_t sum = 0;
    for (int32_t at = 0; at < VECTOR_DEPTH * LANES; at++)
        sum = (sum << 2) + sum + (uint32_t)vector[at];
    for (int32_t at = 0; at < ACTIVATION_DEPTH * LANES; at++)
        sum = (sum << 2) + sum + (uint32_t)activation[at];
    for (int32_t at = 0; at < SCALARS; at++) {
        sum = (sum << 2) + sum + (uint32_t)scalars[at].mantissa;
        sum = (sum << 2) + sum + (uint32_t)scalars[at].exponent;
    }
    return sum;
}

int main(void)
{
    int32_t token = 0;
    for (int32_t at = 0; at < SCALARS; at++)
        scalars[at] = (struct scalar){HALF, -15};
    REPORT = checksum();
    for (int32_t position = 0; position < PASSES; position++) {
        token = run(position < PROMPT_TOKENS ? prompt[position] : token, position);
        REPORT = (uint32_t)token;
        REPORT = checksum();
    }
    return 0;
}
