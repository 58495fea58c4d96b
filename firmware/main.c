#include "link.h"
#include "loader.h"
#include "run.h"

#define LED_IMAGE 1u
#define LED_RUN 2u
#define LED_LINK_ERROR 64u
#define LED_RESTART 128u

/* Identity of the image that the bitstream holds, 0 for none. It lies in start.S, at a place that the host knows. */
extern const uint32_t bitstream_image_id;

static bool restarted;

static void hello(void)
{
    reply_begin(CODE_OK);
    reply_u8(PROTOCOL_VERSION);
    reply_u16(FIRMWARE_VERSION);
    reply_u32(CSR_GEOMETRY);
    reply_u32(CSR_FLAGS);
    reply_u32(CSR_IMAGE_ID);
    reply_u32(CSR_CLOCK_HZ);
    reply_u16(CSR_CONTEXT);
    reply_u16(CSR_VOCAB);
    reply_u8(run_active());
    load_report();
    reply_u32(link_undecodable());
    reply_u32(CSR_UART_STATUS & 0xffffu);
    reply_send();
}

static void counters(void)
{
    reply_begin(CODE_OK);
    for (uint32_t index = 0; index < COUNTER_COUNT; index++) {
        CSR_COUNTER_SELECT = index;
        reply_u32(CSR_COUNTER_VALUE);
    }
    reply_send();
}

static bool served_during_run(uint32_t type)
{
    return type == MESSAGE_HELLO || type == MESSAGE_STOP || type == MESSAGE_COUNTERS || type == MESSAGE_RESET;
}

static void serve(const struct request *request)
{
    if (run_active() && request->type <= MESSAGE_RESET && !served_during_run(request->type)) {
        reply_code(CODE_BUSY, 0);
        return;
    }
    switch (request->type) {
    case MESSAGE_HELLO: hello(); break;
    case MESSAGE_LOAD_BEGIN: load_begin(request); break;
    case MESSAGE_LOAD_DATA: load_data(request); break;
    case MESSAGE_LOAD_END: load_end(request); break;
    case MESSAGE_PROMPT: run_prompt(request); break;
    case MESSAGE_RUN: run_start(request); break;
    case MESSAGE_STOP: run_stop(); reply_code(CODE_OK, 0); break;
    case MESSAGE_COUNTERS: counters(); break;
    case MESSAGE_MEMTEST: memory_test(request); break;
    case MESSAGE_RESET: run_reset(); load_reset(); reply_code(CODE_OK, 0); break;
    default: reply_code(CODE_TYPE, request->type); break;
    }
}

static uint32_t lamps(void)
{
    return (CSR_IMAGE_ID != 0 ? LED_IMAGE : 0) | (run_active() ? LED_RUN : 0)
           | (link_undecodable() != 0 ? LED_LINK_ERROR : 0) | (restarted ? LED_RESTART : 0);
}

int main(void)
{
    struct request request;
    restarted = (CSR_WATCHDOG & 1u) != 0;
    if (restarted) {
        CSR_CONTROL = CONTROL_STOP;
        CSR_CONTROL = CONTROL_RESET;
        event_begin(MESSAGE_FAULT);
        event_u8(CODE_RESTART);
        event_u32(0);
        event_send();
    } else {
        /* After a restart the register knows better: another image may have been loaded, or half of one. */
        CSR_IMAGE_ID = bitstream_image_id;
    }
    for (;;) {
        CSR_WATCHDOG = 1;
        if (link_poll(&request))
            serve(&request);
        run_poll();
        CSR_LEDS = lamps();
    }
}
