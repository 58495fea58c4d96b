#pragma once
#include <stdint.h>

#include "geometry.h"
#include "arithmetic.h"

/* Architectural state as sim/golden.py holds it, and the parts of an image. Int8 values are stored in 16 bits: a table
   is indexed with them without conversion, and one function writes them all. */

/* A base value and the drop to the next. */
struct segment {
    int32_t base, drop;
};

/* The weights of one engine operation: rows of codes, for each row its planes, most significant first. A code stands
   for four trits: the offset in bytes of their sum among the 81 of its column group. */
struct matrix {
    int32_t rows, groups, offset;
};

struct cosine_sine {
    int16_t cosine, sine;
};

extern const struct op program[];
extern const struct matrix matrices[];
extern const uint8_t codes[];
extern const int8_t embedding[];
extern const struct cosine_sine rotary[2][FINE_POSITIONS][HEAD_PAIRS];
extern const uint16_t prompt[];
extern const struct segment reciprocal_table[], rsqrt_table[], exp2_table[];

extern int32_t vector[VECTOR_DEPTH * LANES];
extern int16_t activation[ACTIVATION_DEPTH * LANES];
extern int16_t query[QUERY_GROUPS * WORD_LANES];
extern int32_t query_exponent;
extern int16_t keys[KV_SLOTS][CONTEXT][WORD_LANES], values[KV_SLOTS][CONTEXT][WORD_LANES];
extern uint8_t key_exponents[KV_SLOTS][CONTEXT], value_exponents[KV_SLOTS][CONTEXT];
extern struct scalar scalars[SCALARS];
extern struct cosine_sine factors[HEAD_PAIRS];

void engine_matvec(const struct op *op);
void vector_embed(const struct op *op, int32_t token);
void vector_execute(const struct op *op, int32_t position);
void attention_attend(const struct op *op, int32_t position);
void rotary_factors(int32_t position);
