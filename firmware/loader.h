#pragma once
#include "link.h"

void load_begin(const struct request *request);
void load_data(const struct request *request);
void load_end(const struct request *request);
void memory_test(const struct request *request);
void load_reset(void);

/* Image id, total words and words loaded of the unfinished transfer, for HELLO. */
void load_report(void);
