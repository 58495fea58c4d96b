"""The project's soft core alone, with memory enough for a whole model: the baseline of `tritloom bench`."""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.cpu import Core, CpuSubsystem, Ram
from rtl.csr_map import PERIPHERAL_BASE

MEMORY_BYTES = 1 << 20


class SoftCore(wiring.Component):
    """The core of `rtl.cpu` on the RAM of `rtl.cpu`, larger than block RAM can be on any FPGA of the board.

    The RAM is the same component with the same one-clock answer as on the board. While ``load`` is high the core rests
    in reset and the outside writes the RAM.

    Latency: a word is loaded in 2 clocks.

    Parameters
    ----------
    memory_bytes : size of the RAM.

    Members
    -------
    load : In, high while the outside owns the RAM.
    load_valid, load_address, load_data : In, a word to write; ``load_valid`` falls after each.
    report_valid, report_data : Out, for one clock what the core writes to the address of the peripherals.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._ram = Ram(size_bytes=memory_bytes, contents=b"")
        self.verilog_sources = [CpuSubsystem.lint_waiver, *CpuSubsystem.verilog_files]
        super().__init__({
            "load": In(1), "load_valid": In(1), "load_address": In(30), "load_data": In(32),
            "report_valid": Out(1), "report_data": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = Core()
        m.submodules.ram = ram = self._ram
        wiring.connect(m, core.instructions, ram.instructions)
        bus = core.data
        report = bus.access.address[-2:] == PERIPHERAL_BASE >> 30
        m.d.comb += [
            core.restart.eq(self.load),
            ram.data.access.address.eq(Mux(self.load, self.load_address, bus.access.address)),
            ram.data.access.write.eq(self.load | bus.access.write),
            ram.data.access.select.eq(Mux(self.load, 0b1111, bus.access.select)),
            ram.data.access.data.eq(Mux(self.load, self.load_data, bus.access.data)),
            ram.data.valid.eq(Mux(self.load, self.load_valid, bus.valid & ~report)),
            bus.read_data.eq(ram.data.read_data),
            bus.ack.eq(ram.data.ack | self.report_valid),
            self.report_data.eq(bus.access.data),
        ]
        m.d.sync += self.report_valid.eq(bus.valid & report & bus.access.write & ~self.report_valid)
        return m
