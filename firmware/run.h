#pragma once
#include "link.h"

void run_prompt(const struct request *request);
void run_start(const struct request *request);
void run_stop(void);
void run_reset(void);
bool run_active(void);

/* Sends tokens that the engine produced, notices the end of a run, and ends a run that is stuck. */
void run_poll(void);
