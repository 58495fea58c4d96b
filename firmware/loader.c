#include "loader.h"

#define ADDRESS_MASK 0x0fffffffu

static struct {
    bool open;
    uint32_t image_id, total_words, loaded_words, stream_base, stream_words, prompt_words;
    uint32_t crc;
    uint32_t sdram_first, sdram_words, sdram_crc;
} transfer;

/* True if an access since the last reset found nobody answering; the engine is then reset. */
static bool memory_silent(void)
{
    if ((CSR_STATUS & STATUS_TIMEOUT) == 0)
        return false;
    CSR_CONTROL = CONTROL_RESET;
    return true;
}

void load_reset(void) { transfer.open = false; }

void load_report(void)
{
    reply_u32(transfer.open ? transfer.image_id : 0);
    reply_u32(transfer.open ? transfer.total_words : 0);
    reply_u32(transfer.open ? transfer.loaded_words : 0);
}

void load_begin(const struct request *request)
{
    if (request->length != 25u) {
        reply_code(CODE_LENGTH, 25u);
        return;
    }
    const uint32_t *body = request->body;
    if (body[0] != CSR_GEOMETRY) {
        reply_code(CODE_GEOMETRY, CSR_GEOMETRY);
        return;
    }
    if (body[1] == 0 || body[2] == 0) {
        reply_code(CODE_RANGE, 0);
        return;
    }
    CSR_IMAGE_ID = 0;
    bool resume = (body[6] & 255u) != 0 && transfer.open && transfer.image_id == body[1]
                  && transfer.total_words == body[2];
    if (!resume) {
        transfer.open = true;
        transfer.image_id = body[1];
        transfer.total_words = body[2];
        transfer.loaded_words = transfer.sdram_words = 0;
        transfer.crc = transfer.sdram_crc = CRC_START;
    }
    transfer.stream_base = body[3];
    transfer.stream_words = body[4];
    transfer.prompt_words = body[5];
    reply_begin(CODE_OK);
    reply_u32(transfer.loaded_words);
    reply_send();
}

/* Checks a LOAD_DATA whose words all are new; the code of what is wrong, and the limit it breaks. */
static uint32_t check_address(uint32_t address, uint32_t words, uint32_t *limit)
{
    uint32_t space = address >> 28;
    *limit = SPACE_COUNT;
    if (space >= SPACE_COUNT)
        return CODE_RANGE;
    *limit = ADDRESS_MASK;
    if ((address & ADDRESS_MASK) + words > ADDRESS_MASK)
        return CODE_RANGE;
    if (space != SPACE_SDRAM)
        return CODE_OK;
    *limit = 0;
    if ((CSR_FLAGS & FLAG_STREAM) == 0)
        return CODE_UNSUPPORTED;
    if (transfer.sdram_words == 0)
        transfer.sdram_first = address;
    *limit = transfer.sdram_first + transfer.sdram_words;
    return address == *limit ? CODE_OK : CODE_RANGE;
}

static void store_words(uint32_t address, const uint32_t *words, uint32_t count)
{
    bool sdram = address >> 28 == SPACE_SDRAM;
    CSR_LOAD_ADDRESS = address;
    CSR_CRC = transfer.crc;
    for (uint32_t at = 0; at < count; at++) {
        CSR_LOAD_DATA = words[at];
        CSR_CRC_WORD = words[at];
    }
    transfer.crc = CSR_CRC;
    if (sdram) {
        CSR_CRC = transfer.sdram_crc;
        for (uint32_t at = 0; at < count; at++)
            CSR_CRC_WORD = words[at];
        transfer.sdram_crc = CSR_CRC;
        transfer.sdram_words += count;
    }
    transfer.loaded_words += count;
}

void load_data(const struct request *request)
{
    uint32_t count = (request->length >> 2) - 2u;
    if ((request->length & 3u) != 0 || request->length < 12u || count > LOAD_WORDS) {
        reply_code(CODE_LENGTH, LOAD_WORDS);
        return;
    }
    const uint32_t *words = request->body + 2;
    uint32_t offset = request->body[0], address = request->body[1];
    if (!transfer.open || offset > transfer.loaded_words) {
        reply_code(CODE_SEQUENCE, transfer.open ? transfer.loaded_words : 0);
        return;
    }
    if (count > transfer.total_words - offset) {
        reply_code(CODE_RANGE, transfer.total_words);
        return;
    }
    uint32_t known = transfer.loaded_words - offset;
    if (known < count) {
        uint32_t limit;
        uint32_t code = check_address(address + known, count - known, &limit);
        if (code != CODE_OK) {
            reply_code(code, limit);
            return;
        }
        store_words(address + known, words + known, count - known);
        if (memory_silent()) {
            transfer.open = false;
            reply_code(CODE_MEMORY, address);
            return;
        }
    }
    reply_begin(CODE_OK);
    reply_u32(transfer.loaded_words);
    reply_send();
}

/* CRC of the SDRAM words of the transfer as the memory holds them now; false if it does not answer. */
static bool read_back(uint32_t *crc)
{
    CSR_LOAD_ADDRESS = transfer.sdram_first;
    CSR_CRC = CRC_START;
    for (uint32_t at = 0; at < transfer.sdram_words; at++) {
        CSR_CRC_WORD = CSR_READ_DATA;
        if ((at & 63u) == 0) {
            CSR_WATCHDOG = 1;
            if (memory_silent())
                return false;
        }
    }
    *crc = CSR_CRC;
    return !memory_silent();
}

void load_end(const struct request *request)
{
    if (request->length != 4u) {
        reply_code(CODE_LENGTH, 4u);
        return;
    }
    if (!transfer.open || transfer.loaded_words != transfer.total_words) {
        reply_code(CODE_SEQUENCE, transfer.open ? transfer.loaded_words : 0);
        return;
    }
    transfer.open = false;
    if (~transfer.crc != request->body[0]) {
        reply_code(CODE_CRC, ~transfer.crc);
        return;
    }
    uint32_t crc = 0;
    if (!read_back(&crc) || crc != transfer.sdram_crc) {
        reply_code(CODE_MEMORY, ~crc);
        return;
    }
    CSR_STREAM_BASE = transfer.stream_base;
    CSR_STREAM_WORDS = transfer.stream_words;
    CSR_PROMPT_WORDS = transfer.prompt_words;
    CSR_IMAGE_ID = transfer.image_id;
    reply_begin(CODE_OK);
    reply_u32(transfer.image_id);
    reply_send();
}

/* A bijection of the address, so that no two words of a test hold the same pattern. */
static uint32_t pattern(uint32_t address, uint32_t seed)
{
    uint32_t value = address ^ seed;
    value ^= value << 13;
    value ^= value >> 17;
    return value ^ value << 5;
}

static void fill(uint32_t first, uint32_t words, uint32_t seed)
{
    load_reset();
    CSR_IMAGE_ID = 0;
    CSR_LOAD_ADDRESS = first;
    for (uint32_t address = first; address < first + words; address++) {
        CSR_LOAD_DATA = pattern(address, seed);
        CSR_WATCHDOG = 1;
    }
}

static void reply_differences(uint32_t first, uint32_t words, uint32_t seed)
{
    uint32_t errors = 0, bad_address = 0, bad_expected = 0, bad_got = 0;
    CSR_LOAD_ADDRESS = first;
    for (uint32_t address = first; address < first + words; address++) {
        uint32_t expected = pattern(address, seed), got = CSR_READ_DATA;
        CSR_WATCHDOG = 1;
        if (got != expected && errors++ == 0) {
            bad_address = address;
            bad_expected = expected;
            bad_got = got;
        }
    }
    reply_begin(CODE_OK);
    reply_u32(errors);
    reply_u32(bad_address);
    reply_u32(bad_expected);
    reply_u32(bad_got);
}

void memory_test(const struct request *request)
{
    if (request->length != 13u) {
        reply_code(CODE_LENGTH, 13u);
        return;
    }
    uint32_t first = request->body[0], words = request->body[1], seed = request->body[2];
    if ((CSR_FLAGS & FLAG_STREAM) == 0) {
        reply_code(CODE_UNSUPPORTED, 0);
        return;
    }
    if (words == 0 || words > MEMTEST_WORDS || first > ADDRESS_MASK - words) {
        reply_code(CODE_RANGE, MEMTEST_WORDS);
        return;
    }
    bool verify = (request->body[3] & 255u) != 0;
    if (!verify)
        fill(first, words, seed);
    reply_differences(first, verify ? words : 0, seed);
    if (memory_silent())
        reply_code(CODE_MEMORY, first);
    else
        reply_send();
}
