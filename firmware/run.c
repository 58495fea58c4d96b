#include "run.h"

#define PROMPT_MAX 1024u
#define DEFAULT_TIMEOUT_US 1000000u

static uint16_t prompt[PROMPT_MAX];
static uint32_t prompt_held;

static struct {
    bool active, stopping;
    uint32_t tokens, tokens_done, timeout_us, progress_us;
} run;

bool run_active(void) { return run.active; }

void run_prompt(const struct request *request)
{
    uint32_t first = request->body[0] & 0xffffu;
    uint32_t count = (request->length >> 1) - 1u;
    if ((request->length & 1u) != 0 || request->length < 4u || count > PROMPT_TOKENS) {
        reply_code(CODE_LENGTH, PROMPT_TOKENS);
        return;
    }
    uint32_t context = CSR_CONTEXT, vocab = CSR_VOCAB;
    uint32_t limit = context < PROMPT_MAX ? context : PROMPT_MAX;
    if (first > prompt_held) {
        reply_code(CODE_SEQUENCE, prompt_held);
        return;
    }
    if (first + count > limit) {
        reply_code(CODE_RANGE, limit);
        return;
    }
    const uint16_t *tokens = (const uint16_t *)request->body + 1;
    for (uint32_t at = 0; at < count; at++) {
        if (tokens[at] >= vocab) {
            reply_code(CODE_RANGE, vocab);
            return;
        }
        prompt[first + at] = tokens[at];
    }
    prompt_held = first + count;
    reply_begin(CODE_OK);
    reply_u16(prompt_held);
    reply_send();
}

/* The code and limit of a value of RUN that is out of range. */
static uint32_t check_run(const uint32_t *body, uint32_t *limit)
{
    uint32_t count = body[0] & 0xffffu, position = body[0] >> 16, length = body[4] & 0xffffu;
    uint32_t mantissa = body[1] & 0xffffu;
    int32_t exponent = (int32_t)body[1] >> 16;
    *limit = 0;
    if (CSR_IMAGE_ID == 0)
        return CODE_NO_IMAGE;
    *limit = prompt_held;
    if (length == 0 || length > prompt_held)
        return CODE_RANGE;
    *limit = SPECULATION_MAX;
    if (body[4] >> 16 > *limit)
        return CODE_RANGE;
    *limit = CSR_CONTEXT;
    if (count == 0 || position + length + count - 1u > *limit)
        return CODE_RANGE;
    *limit = 0x8000u;
    if (mantissa != 0 && (mantissa < 0x8000u || exponent < -256 || exponent > 255))
        return CODE_RANGE;
    return CODE_OK;
}

/* Passes that leave part of a prompt for the next one. */
static uint32_t prompt_passes(uint32_t length)
{
    uint32_t passes = 0;
    for (uint32_t slots = CSR_SLOTS; length > slots; length -= slots)
        passes++;
    return passes;
}

void run_start(const struct request *request)
{
    const uint32_t *body = request->body;
    uint32_t limit;
    if (request->length != 20u) {
        reply_code(CODE_LENGTH, 20u);
        return;
    }
    uint32_t code = check_run(body, &limit);
    if (code != CODE_OK) {
        reply_code(code, limit);
        return;
    }
    uint32_t length = body[4] & 0xffffu, mantissa = body[1] & 0xffffu;
    run.tokens = length + (body[0] & 0xffffu) - 1u;
    run.tokens_done = 0;
    run.timeout_us = body[3] != 0 ? body[3] : DEFAULT_TIMEOUT_US;
    run.stopping = false;
    CSR_CONTROL = CONTROL_RESET;
    for (uint32_t at = 0; at < length; at++)
        CSR_PROMPT = prompt[at];
    CSR_RUN_TOKENS = run.tokens;
    CSR_RUN_POSITION = body[0] >> 16;
    CSR_PROMPT_PASSES = prompt_passes(length);
    CSR_SPECULATION = body[4] >> 16;
    CSR_TEMPERATURE = mantissa == 0 ? 0 : 0x80000000u | (body[1] & 0x01ffffffu);
    CSR_SEED = body[2];
    reply_begin(CODE_OK);
    reply_u16(run.tokens);
    reply_send();
    run.progress_us = CSR_TIMER;
    run.active = true;
    CSR_CONTROL = CONTROL_START;
}

void run_stop(void)
{
    if (!run.active)
        return;
    run.stopping = true;
    CSR_CONTROL = CONTROL_STOP;
}

static void end(uint32_t code)
{
    run.active = false;
    event_begin(MESSAGE_DONE);
    event_u8(code);
    event_u16(run.tokens_done);
    event_send();
}

void run_reset(void)
{
    prompt_held = 0;
    CSR_CONTROL = CONTROL_RESET;
    if (run.active)
        end(CODE_STOPPED);
}

static void recover(uint32_t code, uint32_t detail)
{
    CSR_CONTROL = CONTROL_STOP;
    CSR_CONTROL = CONTROL_RESET;
    event_begin(MESSAGE_FAULT);
    event_u8(code);
    event_u32(detail);
    event_send();
    end(code);
}

/* Moves waiting tokens into one frame; how many there were. */
static uint32_t send_tokens(void)
{
    uint32_t count = 0;
    while (count < TOKEN_RECORDS) {
        uint32_t token = CSR_TOKEN;
        if ((token & TOKEN_VALID) == 0)
            break;
        if (count == 0)
            event_begin(MESSAGE_TOKEN);
        event_u16(token);
        event_u16(token >> 16 & 0x7fffu);
        event_u32(CSR_TOKEN_CYCLES);
        count++;
    }
    if (count != 0)
        event_send();
    return count;
}

void run_poll(void)
{
    if (!run.active)
        return;
    /* Status first: a token that arrives after it was read is then still found before the run is called done. */
    uint32_t status = CSR_STATUS;
    uint32_t sent = send_tokens();
    if (sent != 0) {
        run.tokens_done += sent;
        run.progress_us = CSR_TIMER;
        return;
    }
    uint32_t fault = status >> STATUS_FAULT_SHIFT & 255u;
    if (fault != 0)
        recover(CODE_ENGINE, fault);
    else if ((status & STATUS_DONE) != 0)
        end(run.stopping && run.tokens_done < run.tokens ? CODE_STOPPED : CODE_OK);
    else if (CSR_TIMER - run.progress_us > run.timeout_us)
        recover(CODE_WATCHDOG, run.tokens_done);
}
