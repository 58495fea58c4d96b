#include "link.h"

#define CRC_RESIDUE 0xdebb20e3u /* of a frame followed by its own CRC */
#define FRAME_BYTES (2u + BODY_BYTES + 4u)
#define OUT_BYTES 300u
#define POLL_BYTES 64u /* between two looks at a run, however much the host sends */

struct out {
    uint8_t bytes[OUT_BYTES];
    uint32_t count;
};

/* The frame starts two bytes into the buffer: its body is then word-aligned. */
static uint32_t in_words[(2u + FRAME_BYTES + 3u) / 4u];
static uint32_t in_count, in_block, in_error;
static bool in_started, in_zero_owed;
static uint32_t undecodable;

static struct out reply, event;
static uint8_t event_sequence;
static bool previous_valid;
static uint32_t previous_crc;

static void put_u8(struct out *out, uint32_t value)
{
    out->bytes[out->count++] = (uint8_t)value;
}

static void put_u16(struct out *out, uint32_t value)
{
    put_u8(out, value);
    put_u8(out, value >> 8);
}

static void put_u32(struct out *out, uint32_t value)
{
    put_u16(out, value);
    put_u16(out, value >> 16);
}

/* COBS: each block is its length + 1 and then its non-zero bytes; a block shorter than 254 implies a zero. */
static void transmit(const struct out *out)
{
    uint32_t at = 0;
    bool ended = false;
    while (!ended) {
        uint32_t end = at;
        while (end < out->count && end - at < 254u && out->bytes[end] != 0)
            end++;
        CSR_UART_TX = end - at + 1u;
        bool full = end - at == 254u;
        while (at < end)
            CSR_UART_TX = out->bytes[at++];
        ended = at == out->count;
        if (!full)
            at++;
    }
    CSR_UART_TX = 0;
}

static void finish(struct out *out)
{
    CSR_CRC = CRC_START;
    for (uint32_t at = 0; at < out->count; at++)
        CSR_CRC_BYTE = out->bytes[at];
    put_u32(out, ~CSR_CRC);
    transmit(out);
}

void reply_begin(uint32_t code)
{
    const uint8_t *frame = (const uint8_t *)in_words + 2;
    reply.count = 0;
    put_u8(&reply, frame[0] | REPLY);
    put_u8(&reply, frame[1]);
    put_u8(&reply, code);
}

void reply_u8(uint32_t value) { put_u8(&reply, value); }
void reply_u16(uint32_t value) { put_u16(&reply, value); }
void reply_u32(uint32_t value) { put_u32(&reply, value); }
void reply_send(void) { finish(&reply); }

void reply_code(uint32_t code, uint32_t detail)
{
    reply_begin(code);
    if (code != CODE_OK)
        put_u32(&reply, detail);
    finish(&reply);
}

void event_begin(uint32_t type)
{
    event.count = 0;
    put_u8(&event, type);
    put_u8(&event, event_sequence++);
}

void event_u8(uint32_t value) { put_u8(&event, value); }
void event_u16(uint32_t value) { put_u16(&event, value); }
void event_u32(uint32_t value) { put_u32(&event, value); }
void event_send(void) { finish(&event); }

uint32_t link_undecodable(void) { return undecodable; }

static void store(uint32_t byte)
{
    if (in_count == FRAME_BYTES) {
        in_error = CODE_LENGTH;
        return;
    }
    ((uint8_t *)in_words)[2u + in_count++] = (uint8_t)byte;
}

static void decode(uint32_t byte)
{
    if (in_error != CODE_OK)
        return;
    if (in_block != 0) {
        in_block--;
        store(byte);
        return;
    }
    if (in_zero_owed)
        store(0);
    in_block = byte - 1u;
    in_zero_owed = byte != 255u;
}

/* CRC of the frame, its own CRC included, in whole words as far as they go. */
static uint32_t frame_crc(void)
{
    const uint8_t *bytes = (const uint8_t *)in_words;
    uint32_t words_end = (in_count + 2u) >> 2;
    CSR_CRC = CRC_START;
    CSR_CRC_BYTE = bytes[2];
    CSR_CRC_BYTE = bytes[3];
    for (uint32_t at = 1; at < words_end; at++)
        CSR_CRC_WORD = in_words[at];
    for (uint32_t at = words_end << 2; at < in_count + 2u; at++)
        CSR_CRC_BYTE = bytes[at];
    return CSR_CRC;
}

/* At a delimiter: what was wrong with the frame before it. */
static uint32_t judge(void)
{
    if (in_error != CODE_OK)
        return in_error;
    if (in_block != 0)
        return CODE_ENCODING;
    if (in_count < 6u)
        return CODE_LENGTH;
    return frame_crc() == CRC_RESIDUE ? CODE_OK : CODE_CRC;
}

static void restart(void)
{
    in_started = in_zero_owed = false;
    in_count = in_block = 0;
    in_error = CODE_OK;
}

static bool accept(struct request *request)
{
    const uint8_t *frame = (const uint8_t *)in_words + 2;
    uint32_t code = judge();
    if (code != CODE_OK) {
        undecodable++;
        event_begin(MESSAGE_NAK);
        event_u8(code);
        event_u32(undecodable);
        event_send();
        return false;
    }
    uint32_t crc = 0;
    for (uint32_t at = in_count - 4u; at < in_count; at++)
        crc = crc << 8 | frame[at];
    request->type = frame[0];
    request->sequence = frame[1];
    request->length = in_count - 6u;
    request->body = in_words + 1;
    if (previous_valid && crc == previous_crc && request->type != MESSAGE_HELLO
        && reply.bytes[0] == (request->type | REPLY) && reply.bytes[1] == request->sequence) {
        transmit(&reply);
        return false;
    }
    previous_valid = true;
    previous_crc = crc;
    return true;
}

bool link_poll(struct request *request)
{
    if (!in_started)
        restart();
    for (uint32_t budget = POLL_BYTES; budget != 0; budget--) {
        uint32_t byte = CSR_UART_RX;
        if ((byte & UART_VALID) == 0)
            return false;
        byte &= 255u;
        if (byte != 0) {
            in_started = true;
            decode(byte);
        } else if (in_started) {
            bool accepted = accept(request);
            restart();
            if (accepted)
                return true;
        }
    }
    return false;
}
