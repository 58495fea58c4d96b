// A 16-bit SDR SDRAM chip of four banks that checks the protocol and the timings of whoever drives it.
//
// Plain synchronous Verilog, no delays: it samples the pins at each rising clock edge, and read data leaves so that
// the driver samples it CAS-latency edges after the edge that took the READ. A broken rule prints the command, the
// cycle and the rule, and ends the simulation with $fatal. Cycle counts are minima between commands, REFI is the
// longest average refresh interval. `+sdram_image=FILE` preloads 16-bit little-endian words from address 0, where an
// address is {row, bank, column}.
// One sequential process keeps its state in blocking assignments; time has 64 bits, the parameters 32.
/* verilator lint_off BLKSEQ */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off PROCASSINIT */
/* verilator lint_off UNUSEDSIGNAL */
module sdram_chip #(
    parameter ROW_BITS = 13, COLUMN_BITS = 9,
    parameter RCD = 3, RP = 3, RAS = 6, RC = 9, RFC = 9, WR = 2, RRD = 2, MRD = 2, REFI = 1040, POWER_UP = 200
) (
    input  wire        clk, cke, cs_n, ras_n, cas_n, we_n,
    input  wire [1:0]  ba,
    input  wire [12:0] a,
    input  wire [1:0]  dqm,
    input  wire [15:0] dq_i,
    input  wire        dq_oe,
    output reg  [15:0] dq_o
);
    localparam NOP = 3'b111, ACT = 3'b011, READ = 3'b101, WRITE = 3'b100, STOP = 3'b110, PRE = 3'b010, REF = 3'b001,
               MRS = 3'b000;
    localparam REFRESHES = 1 << ROW_BITS;                 // due in every window of REFRESHES * REFI cycles

    reg [15:0] mem [0:(1 << (ROW_BITS + 2 + COLUMN_BITS)) - 1];

    reg [63:0] now = 0;                                    // cycles since the start
    reg [63:0] act_at [0:3], pre_at [0:3], write_at [0:3]; // last ACT, PRE and written word of each bank
    reg [63:0] any_act_at = 0, ref_at = 0, mrs_at = 0;
    reg [3:0]  open = 0, opened = 0, written = 0, closed = 0;
    reg        any_act = 0, any_ref = 0, mode_set = 0;
    reg [31:0] init_refreshes = 0;
    reg [63:0] window_start = 0, window_refreshes = 0;
    reg [ROW_BITS-1:0] row [0:3];
    reg [2:0]  cas_latency = 0;
    reg [COLUMN_BITS:0] burst_length = 1;

    // The burst in progress: the words after the first one of a READ or WRITE.
    reg        bursting = 0, burst_write = 0;
    reg [1:0]  burst_bank = 0;
    reg [COLUMN_BITS-1:0] burst_column = 0;
    reg [COLUMN_BITS:0]   burst_left = 0;

    reg [15:0] out_data [0:3];                             // read data on its way out; entry 0 leaves next
    reg [3:0]  out_valid = 0;
    reg        driving = 0, drove = 0;                     // dq_o is on the bus in this cycle, was in the last one
    reg [1:0]  dqm_before = 0;

    wire [2:0] command = cs_n ? NOP : {ras_n, cas_n, we_n};

    integer b;
    integer file, low, high;
    reg [8*256-1:0] path;
    reg [63:0] index;

    initial begin
        for (b = 0; b < 4; b = b + 1) begin
            act_at[b] = 0; pre_at[b] = 0; write_at[b] = 0; row[b] = 0; out_data[b] = 0;
        end
        dq_o = 0;
        if ($value$plusargs("sdram_image=%s", path)) begin
            file = $fopen(path, "rb");
            if (file == 0) begin
                $display("sdram_chip: cannot open %0s", path);
                $fatal;
            end
            index = 0;
            low = $fgetc(file);
            high = $fgetc(file);
            while (low >= 0) begin
                if (index[ROW_BITS+COLUMN_BITS+2]) begin
                    $display("sdram_chip: %0s is larger than the chip", path);
                    $fatal;
                end
                mem[index[ROW_BITS+COLUMN_BITS+1:0]] = {high < 0 ? 8'h00 : high[7:0], low[7:0]};
                index = index + 1;
                low = $fgetc(file);
                high = $fgetc(file);
            end
            $fclose(file);
        end
    end

    function [39:0] command_name(input [2:0] code);
        case (code)
            ACT: command_name = "ACT";
            READ: command_name = "READ";
            WRITE: command_name = "WRITE";
            STOP: command_name = "STOP";
            PRE: command_name = "PRE";
            REF: command_name = "REF";
            MRS: command_name = "MRS";
            default: command_name = "NOP";
        endcase
    endfunction

    task check(input holds, input [8*24-1:0] rule);
        if (!holds) begin
            $display("sdram_chip: %0s to bank %0d in cycle %0d breaks %0s", command_name(command), ba, now, rule);
            $fatal;
        end
    endtask

    task check_precharge(input integer bank);
        begin
            check(!opened[bank] || now - act_at[bank] >= RAS, "tRAS");
            check(!written[bank] || now - write_at[bank] >= WR, "tWR");
        end
    endtask

    task check_closed(input integer bank);
        begin
            check(!open[bank], "all banks precharged");
            check(!closed[bank] || now - pre_at[bank] >= RP, "tRP");
        end
    endtask

    // One word of a burst: a write lands at once, a read enters the pipeline.
    task transfer(input is_write, input [ROW_BITS+COLUMN_BITS+1:0] address, input [1:0] bank);
        if (is_write) begin
            check(dq_oe, "data with WRITE");
            if (!dqm[0]) mem[address][7:0] = dq_i[7:0];
            if (!dqm[1]) mem[address][15:8] = dq_i[15:8];
            write_at[bank] = now;
            written[bank] = 1;
        end else begin
            out_data[cas_latency - 2] = mem[address];
            out_valid[cas_latency - 2] = 1;
        end
    endtask

    always @(posedge clk) begin
        now <= now + 1;
        check(!(dq_oe && (driving || drove)), "one driver of DQ");
        // Read data moves one step; what is put into the pipeline below leaves cas_latency edges from now.
        drove = driving;
        driving = out_valid[0] && dqm_before != 2'b11;
        dq_o <= out_data[0];
        for (b = 0; b < 3; b = b + 1) out_data[b] = out_data[b + 1];
        out_valid = out_valid >> 1;
        dqm_before <= dqm;

        check(cke || now < POWER_UP, "CKE high");
        check(command == NOP || now >= POWER_UP, "power-up wait");
        check(command == NOP || command == STOP || !mode_set || now - mrs_at >= MRD, "tMRD");
        check(command == NOP || command == STOP || !any_ref || now - ref_at >= RFC, "tRFC");
        if (mode_set) begin
            check(now - ref_at <= 9 * REFI, "refresh interval");
            if (now - window_start >= REFRESHES * REFI) begin
                check(window_refreshes >= REFRESHES - 8, "refreshes per window");
                window_start = now;
                window_refreshes = 0;
            end
        end

        case (command)
            ACT: begin
                check(mode_set, "mode register set first");
                check(!open[ba], "ACT of a closed bank");
                check(!closed[ba] || now - pre_at[ba] >= RP, "tRP");
                check(!opened[ba] || now - act_at[ba] >= RC, "tRC");
                check(!any_act || now - any_act_at >= RRD, "tRRD");
                open[ba] = 1; opened[ba] = 1; any_act = 1;
                act_at[ba] = now; any_act_at = now;
                row[ba] = a[ROW_BITS-1:0];
                written[ba] = 0;
            end
            READ, WRITE: begin
                check(open[ba], "access to an open bank");
                check(now - act_at[ba] >= RCD, "tRCD");
                check(!a[10], "no auto-precharge");
                check(command == READ || out_valid == 0, "WRITE after read data");
                bursting = 1;
                burst_write = command == WRITE;
                burst_bank = ba;
                burst_column = a[COLUMN_BITS-1:0];
                burst_left = burst_length;
            end
            STOP: bursting = 0;
            PRE: begin
                if (bursting && (a[10] || ba == burst_bank)) bursting = 0;
                for (b = 0; b < 4; b = b + 1)
                    if (a[10] || ba == b[1:0]) begin
                        if (open[b]) check_precharge(b);
                        if (open[b] || !closed[b]) pre_at[b] = now;
                        open[b] = 0; closed[b] = 1;
                    end
            end
            REF: begin
                for (b = 0; b < 4; b = b + 1) begin
                    check_closed(b);
                    check(!opened[b] || now - act_at[b] >= RC, "tRC");
                end
                any_ref = 1;
                ref_at = now;
                init_refreshes = init_refreshes + 1;
                window_refreshes = window_refreshes + 1;
            end
            MRS: begin
                for (b = 0; b < 4; b = b + 1) check_closed(b);
                check(init_refreshes >= 2, "two refreshes before MRS");
                check(a[3] == 0 && a[8:7] == 0, "sequential bursts");
                check(a[6:4] == 2 || a[6:4] == 3, "CAS latency 2 or 3");
                check(a[2:0] <= 3 || a[2:0] == 7, "a burst length");
                cas_latency = a[6:4];
                burst_length = a[2:0] == 7 ? 1 << COLUMN_BITS : 1 << a[1:0];
                if (!mode_set) begin
                    window_start = now;
                    window_refreshes = 0;
                end
                mode_set = 1;
                mrs_at = now;
            end
            default: ;
        endcase

        if (bursting) begin
            transfer(burst_write, {row[burst_bank], burst_bank, burst_column}, burst_bank);
            // A burst wraps inside the block of its own length.
            burst_column = (burst_column & ~(burst_length[COLUMN_BITS-1:0] - 1'b1))
                         | ((burst_column + 1'b1) & (burst_length[COLUMN_BITS-1:0] - 1'b1));
            burst_left = burst_left - 1'b1;
            if (burst_left == 0 && burst_length != 1 << COLUMN_BITS) bursting = 0;
        end
    end
endmodule
