// Two half cells of an ECP5 carry chain (Lattice FPGA-TN-02205) in the one mode that rtl/carry_chain.py uses. A half
// is a lookup table, which says whether it passes a carry on, and the low four bits of it, which generate one.
// An open carry input reads as one: no chain may depend on it.
module CCU2C #(
    parameter [15:0] INIT0 = 0, parameter [15:0] INIT1 = 0, parameter INJECT1_0 = "YES", parameter INJECT1_1 = "YES"
) (
    input CIN = 1'b1,
    input A0, B0, C0, D0, A1, B1, C1, D1,
    output S0, S1, COUT
);
    initial if (INJECT1_0 != "NO" || INJECT1_1 != "NO") $fatal(1, "CCU2C: a mode without a model");
    wire pass_0 = INIT0[{D0, C0, B0, A0}];
    wire pass_1 = INIT1[{D1, C1, B1, A1}];
    wire carry = pass_0 ? CIN : INIT0[{2'b00, B0, A0}];
    assign S0 = pass_0 ^ CIN;
    assign S1 = pass_1 ^ carry;
    assign COUT = pass_1 ? carry : INIT1[{2'b00, B1, A1}];
endmodule
