#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "csr.h"

#define CRC_START 0xffffffffu

/* A request as it came off the wire; the body is aligned so that its words can be used in place. */
struct request {
    uint8_t type;
    uint8_t sequence;
    uint32_t length; /* bytes of the body */
    const uint32_t *body;
};

/* Takes received bytes until a valid frame is complete; false if there is none yet. Repeats are answered here. */
bool link_poll(struct request *request);
uint32_t link_undecodable(void);

/* A reply is begun with its status, extended, and sent. */
void reply_begin(uint32_t code);
void reply_u8(uint32_t value);
void reply_u16(uint32_t value);
void reply_u32(uint32_t value);
void reply_send(void);
void reply_code(uint32_t code, uint32_t detail);

/* An unsolicited frame likewise. */
void event_begin(uint32_t type);
void event_u8(uint32_t value);
void event_u16(uint32_t value);
void event_u32(uint32_t value);
void event_send(void);
