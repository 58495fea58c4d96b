// Runs the Verilated SoC as a process with a serial port: a pseudo-terminal whose path is the first line of stdout.
//
// Each engine cycle raises `clk`, every `--cpu-divider` of them also `cpu_clk`; built with STREAM, `sdram_clk` rises
// `--sdram-clocks` times in `--engine-clocks` of them. The UART pins are driven and sampled in CPU cycles. The process ends when the terminal's peer closes it, on
// SIGTERM, when its parent dies, after `--max-cycles`, or when the design stops the simulation ($fatal, $finish).

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <string>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include "Vtop.h"
#include "verilated.h"
#ifdef TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr int reset_cycles = 32;
constexpr int poll_cycles = 512;  // between looks at the terminal: a system call costs about one cycle of the design
constexpr size_t pending_bytes_max = 4096;

volatile std::sig_atomic_t terminated = 0;
bool stopped = false;

void on_terminate(int) { terminated = 1; }

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

struct Options {
    int bit_cycles = 0;
    int cpu_divider = 1;
    int sdram_clocks = 1;
    int engine_clocks = 1;
    uint64_t max_cycles = UINT64_MAX;
    std::string trace;
};

Options parse(int count, char** arguments) {
    Options options;
    for (int index = 1; index < count; ++index) {
        const std::string name = arguments[index];
        if (name[0] == '+') continue;  // the design's own
        if (index + 1 == count) fail(name + " needs a value");
        const char* value = arguments[++index];
        if (name == "--bit-cycles") options.bit_cycles = std::atoi(value);
        else if (name == "--cpu-divider") options.cpu_divider = std::atoi(value);
        else if (name == "--sdram-clocks") options.sdram_clocks = std::atoi(value);
        else if (name == "--engine-clocks") options.engine_clocks = std::atoi(value);
        else if (name == "--max-cycles") options.max_cycles = std::strtoull(value, nullptr, 10);
        else if (name == "--trace") options.trace = value;
        else fail("unknown option " + name);
    }
    if (options.bit_cycles < 2) fail("--bit-cycles must be at least 2");
    if (options.cpu_divider < 1) fail("--cpu-divider must be at least 1");
    if (options.sdram_clocks < 1 || options.engine_clocks < 1) fail("clock ratios must be at least 1");
    return options;
}

// The host's end of the serial line. Bytes wait in queues while the pins move them bit by bit.
class Terminal {
public:
    Terminal() {
        master_ = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
        if (master_ < 0 || grantpt(master_) < 0 || unlockpt(master_) < 0)
            fail(std::string("cannot open a pseudo-terminal: ") + std::strerror(errno));
        termios mode;
        tcgetattr(master_, &mode);
        cfmakeraw(&mode);
        tcsetattr(master_, TCSANOW, &mode);
    }

    const char* path() const { return ptsname(master_); }

    // Move bytes between queues and terminal; false when the peer has closed it.
    bool poll() {
        uint8_t buffer[512];
        while (to_design.size() < pending_bytes_max) {
            const ssize_t size = read(master_, buffer, sizeof buffer);
            if (size < 0 && errno != EAGAIN && errno != EINTR) return false;
            if (size <= 0) break;
            to_design.insert(to_design.end(), buffer, buffer + size);
        }
        while (!from_design.empty()) {
            size_t size = 0;
            while (size < sizeof buffer && size < from_design.size()) {
                buffer[size] = from_design[size];
                ++size;
            }
            const ssize_t sent = write(master_, buffer, size);
            if (sent <= 0) break;
            from_design.erase(from_design.begin(), from_design.begin() + sent);
        }
        return true;
    }

    std::deque<uint8_t> to_design;
    std::deque<uint8_t> from_design;

private:
    int master_;
};

// Both directions of an 8N1 line, one call per CPU cycle.
class Uart {
public:
    Uart(Terminal& terminal, int bit_cycles) : terminal_(terminal), bit_cycles_(bit_cycles) {}

    // Level of the design's receive pin for the coming cycle.
    bool drive() {
        if (drive_left_ > 0) {
            --drive_left_;
            return drive_frame_ & 1;
        }
        drive_frame_ >>= 1;
        if (drive_frame_ == 0) {
            if (terminal_.to_design.empty()) return true;
            // start bit, eight data bits, stop bit, and a marker above them that ends the shift
            drive_frame_ = 0x600 | terminal_.to_design.front() << 1;
            terminal_.to_design.pop_front();
        }
        if (drive_frame_ == 1) {
            drive_frame_ = 0;
            return true;
        }
        drive_left_ = bit_cycles_ - 1;
        return drive_frame_ & 1;
    }

    // Take one sample of the design's transmit pin.
    void sample(bool level) {
        if (sample_bits_ == 0) {
            if (level) return;
            sample_bits_ = 10;
            sample_left_ = bit_cycles_ / 2;
            sample_frame_ = 0;
        }
        if (sample_left_ > 0) {
            --sample_left_;
            return;
        }
        sample_left_ = bit_cycles_ - 1;
        sample_frame_ |= level << (10 - sample_bits_);
        if (--sample_bits_ == 0) terminal_.from_design.push_back(sample_frame_ >> 1 & 0xFF);
    }

private:
    Terminal& terminal_;
    const int bit_cycles_;
    int drive_frame_ = 0;
    int drive_left_ = 0;
    int sample_bits_ = 0;
    int sample_left_ = 0;
    int sample_frame_ = 0;
};

class Simulation {
public:
    Simulation(VerilatedContext& context, const Options& options)
        : context_(context), top_(&context), options_(options), uart_(terminal_, options.bit_cycles) {
#ifdef TRACE
        context_.traceEverOn(true);
        top_.trace(&trace_, 99);
        trace_.open(options_.trace.c_str());
#endif
        top_.uart_rx = 1;
        reset(1);
        for (int index = 0; index < reset_cycles * options_.cpu_divider; ++index) cycle();
        reset(0);
    }

    ~Simulation() {
        top_.final();
#ifdef TRACE
        trace_.close();
#endif
    }

    const char* terminal_path() const { return terminal_.path(); }
    uint64_t cycles() const { return cycles_; }

    // Simulate until something ends it; the process's exit status.
    int run() {
        while (terminal_.poll()) {
            if (terminated) return 0;
            for (int index = 0; index < poll_cycles; ++index) {
                cycle();
                if (stopped || context_.gotFinish()) return 1;
            }
            if (cycles_ >= options_.max_cycles) {
                std::fprintf(stderr, "stopped after %llu cycles\n", static_cast<unsigned long long>(cycles_));
                return 1;
            }
        }
        return 0;
    }

private:
    void reset(bool active) {
        top_.rst = active;
        top_.cpu_rst = active;
#ifdef STREAM
        top_.sdram_rst = active;
#endif
    }

    void cycle() {
        const bool cpu = cycles_ % options_.cpu_divider == 0;
        ++cycles_;
        if (cpu) top_.uart_rx = uart_.drive();
        edges(1, cpu);
        if (cpu) uart_.sample(top_.uart_tx);
        edges(0, 0);
    }

    // The edges of the half engine cycle that ends with these levels. In units in which both clocks' half cycles are
    // whole, an engine's lasts `sdram_clocks` and an SDRAM's `engine_clocks`.
    void edges(bool clk, bool cpu_clk) {
#ifdef STREAM
        for (; sdram_edge_ < now_; sdram_edge_ += options_.engine_clocks) {
            top_.sdram_clk = !top_.sdram_clk;
            evaluate(sdram_edge_);
        }
        if (sdram_edge_ == now_) {
            top_.sdram_clk = !top_.sdram_clk;
            sdram_edge_ += options_.engine_clocks;
        }
#endif
        top_.clk = clk;
        top_.cpu_clk = cpu_clk;
        evaluate(now_);
        now_ += options_.sdram_clocks;
    }

    void evaluate(uint64_t time) {
        top_.eval();
#ifdef TRACE
        trace_.dump(time);
#else
        static_cast<void>(time);
#endif
    }

    VerilatedContext& context_;
#ifdef TRACE
    VerilatedVcdC trace_;
#endif
    Vtop top_;
    const Options& options_;
    Terminal terminal_;
    Uart uart_;
    uint64_t cycles_ = 0;
    uint64_t now_ = 0;
    uint64_t sdram_edge_ = 0;
};

}  // namespace

// Verilator's default would abort the process and lose the end of the waveform.
void vl_stop(const char*, int, const char*) VL_MT_UNSAFE { stopped = true; }

int main(int count, char** arguments) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    std::signal(SIGTERM, on_terminate);
    std::signal(SIGINT, SIG_IGN);  // the terminal's interrupt is for the host program, which then ends this one
    const Options options = parse(count, arguments);
    VerilatedContext context;
    context.commandArgs(count, arguments);
    Simulation simulation(context, options);
    std::printf("%s\n", simulation.terminal_path());
    std::fflush(stdout);
    dup2(STDERR_FILENO, STDOUT_FILENO);  // what the design prints from here on is a message
    const auto start = std::chrono::steady_clock::now();
    const int status = simulation.run();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::fflush(stdout);
    std::fprintf(stderr, "simulated %llu cycles, %.0f per second\n",
                 static_cast<unsigned long long>(simulation.cycles()), simulation.cycles() / elapsed.count());
    return status;
}
