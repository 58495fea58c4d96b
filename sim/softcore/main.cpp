// Runs a program on the Verilated soft core: `soc PROGRAM REPORTS MAX_CYCLES`.
//
// Writes the file PROGRAM into the RAM from address 0, releases the core, and prints a line "cycle value" for each word
// that it reports. Ends after REPORTS of them, or with an error after MAX_CYCLES.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int reset_cycles = 32;

std::vector<uint8_t> read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) {
        std::fprintf(stderr, "cannot open %s\n", path);
        std::exit(1);
    }
    std::vector<uint8_t> bytes;
    uint8_t buffer[4096];
    while (const size_t size = std::fread(buffer, 1, sizeof buffer, file))
        bytes.insert(bytes.end(), buffer, buffer + size);
    std::fclose(file);
    return bytes;
}

void cycle(Vtop& top) {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
}

void load(Vtop& top, const std::vector<uint8_t>& bytes) {
    for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
        top.load_valid = 1;
        top.load_address = at / 4;
        top.load_data = bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | uint32_t{bytes[at + 3]} << 24;
        cycle(top);
        top.load_valid = 0;
        cycle(top);
    }
}

}  // namespace

// Verilator's default would abort the process.
void vl_stop(const char*, int, const char*) VL_MT_UNSAFE { std::exit(1); }

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: soc PROGRAM REPORTS MAX_CYCLES\n");
        return 1;
    }
    uint64_t reports = std::strtoull(arguments[2], nullptr, 10);
    const uint64_t max_cycles = std::strtoull(arguments[3], nullptr, 10);
    VerilatedContext context;
    Vtop top(&context);
    top.load = 1;
    top.rst = 1;
    for (int index = 0; index < reset_cycles; ++index) cycle(top);
    top.rst = 0;
    load(top, read(arguments[1]));
    top.load = 0;
    const auto start = std::chrono::steady_clock::now();
    uint64_t now = 0;
    while (reports > 0 && now < max_cycles) {
        cycle(top);
        ++now;
        if (top.report_valid) {
            std::printf("%llu %u\n", static_cast<unsigned long long>(now), top.report_data);
            std::fflush(stdout);
            --reports;
        }
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "simulated %llu cycles, %.0f per second\n", static_cast<unsigned long long>(now),
                 now / elapsed.count());
    top.final();
    if (reports > 0) std::fprintf(stderr, "stopped after %llu cycles\n", static_cast<unsigned long long>(now));
    return reports > 0;
}
