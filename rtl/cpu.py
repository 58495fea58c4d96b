"""The CPU subsystem: VexRiscv with its RAM, UART, timer and watchdog, and the register bus towards the engine."""

from pathlib import Path

from amaranth.hdl import ClockSignal, DomainRenamer, Instance, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from pythondata_cpu_vexriscv import data_location

from rtl.csr_map import ENGINE_BASE, PERIPHERAL_BASE, RAM_BASE, RAM_BYTES
from rtl.peripherals import WORDS, Peripherals, WordBus
from rtl.register_bus import RegisterBus, RegisterBusCrossing

WATCHDOG_US_LOG2 = 21      # about two seconds


class Core(wiring.Component):
    """VexRiscv (RV32I) with its two Wishbone buses.

    Members
    -------
    instructions, data : Out buses.
    restart : In, holds the core in reset.
    """

    instructions: Out(WordBus())
    data: Out(WordBus())
    restart: In(1)

    verilog = Path(data_location) / "VexRiscv_Min.v"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports = {}
        for prefix, bus in (("iBusWishbone", self.instructions), ("dBusWishbone", self.data)):
            cycle, strobe = Signal(name=f"{prefix}_cycle"), Signal(name=f"{prefix}_strobe")
            m.d.comb += bus.valid.eq(cycle & strobe)
            ports |= {
                f"o_{prefix}_CYC": cycle, f"o_{prefix}_STB": strobe, f"i_{prefix}_ACK": bus.ack,
                f"o_{prefix}_WE": bus.access.write, f"o_{prefix}_ADR": bus.access.address,
                f"o_{prefix}_SEL": bus.access.select, f"o_{prefix}_DAT_MOSI": bus.access.data,
                f"i_{prefix}_DAT_MISO": bus.read_data, f"i_{prefix}_ERR": 0,
                f"o_{prefix}_CTI": Signal(3, name=f"{prefix}_cti"), f"o_{prefix}_BTE": Signal(2, name=f"{prefix}_bte"),
            }
        m.submodules.vexriscv = Instance(
            "VexRiscv", i_clk=ClockSignal(), i_reset=ResetSignal() | self.restart, i_externalResetVector=RAM_BASE,
            i_timerInterrupt=0, i_softwareInterrupt=0, i_externalInterruptArray=0, **ports)
        return m


class Ram(wiring.Component):
    """Instruction and data memory behind one port.

    The core asks for an instruction every other clock at most, so data accesses, which go first, rarely delay it. One
    port, never read and written at once, is also what maps to block RAM without copies or collision logic.

    Latency: ``ack`` comes 1 clock after ``valid``, one later for an instruction that meets a data access.

    Parameters
    ----------
    size_bytes : a multiple of four.
    contents : from address 0.

    Members
    -------
    instructions : In bus, only read.
    data : In bus.

    Raises
    ------
    ValueError: the contents do not fit, or are not whole words.
    """

    def __init__(self, *, size_bytes: int, contents: bytes) -> None:
        if len(contents) > size_bytes:
            raise ValueError(f"firmware of {len(contents)} bytes does not fit a RAM of {size_bytes} bytes")
        if size_bytes % 4 or len(contents) % 4:
            raise ValueError(f"RAM of {size_bytes} and firmware of {len(contents)} bytes must be whole words")
        self.size_bytes = size_bytes
        self.contents = [int.from_bytes(contents[at:at + 4], "little") for at in range(0, len(contents), 4)]
        super().__init__({"instructions": In(WordBus()), "data": In(WordBus())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=32, depth=self.size_bytes // 4, init=self.contents,
                                            attrs={"ram_style": "block"})
        read, write = memory.read_port(), memory.write_port(granularity=8)
        chosen = Signal(WORDS)
        data_begin, instructions_begin = Signal(), Signal()
        m.d.comb += [
            data_begin.eq(self.data.valid & ~self.data.ack),
            instructions_begin.eq(self.instructions.valid & ~self.instructions.ack & ~data_begin),
            chosen.eq(Mux(data_begin, self.data.access, self.instructions.access)),
            read.addr.eq(chosen.address), read.en.eq(~(data_begin & chosen.write)),
            write.addr.eq(chosen.address), write.data.eq(chosen.data),
            write.en.eq(Mux(data_begin & chosen.write, chosen.select, 0)),
            self.data.read_data.eq(read.data), self.instructions.read_data.eq(read.data),
        ]
        m.d.sync += [self.data.ack.eq(data_begin), self.instructions.ack.eq(instructions_begin)]
        return m


class EngineBridge(wiring.Component):
    """From the CPU's data bus to the register bus.

    Members
    -------
    bus : In data bus.
    registers : Out register bus.
    cancel : In, forget the access in flight: the core was reset and does not wait for it any more.
    """

    bus: In(WordBus())
    registers: Out(RegisterBus())
    cancel: In(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request = self.registers.request
        access = self.bus.access
        m.d.comb += [request.payload.address.eq(access.address), request.payload.write.eq(access.write),
                     request.payload.data.eq(access.data)]
        cancelled = Signal()
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += request.valid.eq(self.bus.valid & ~self.bus.ack & ~self.cancel)
                m.d.sync += [self.bus.ack.eq(0), cancelled.eq(0)]
                with m.If(request.valid & request.ready):
                    m.next = "Wait"
            with m.State("Wait"):
                m.d.comb += self.registers.response.ready.eq(1)
                with m.If(self.cancel):
                    m.d.sync += cancelled.eq(1)
                with m.If(self.registers.response.valid):
                    m.d.sync += [self.bus.ack.eq(~cancelled & ~self.cancel),
                                 self.bus.read_data.eq(self.registers.response.payload)]
                    m.next = "Idle"
        return m


class CpuSubsystem(wiring.Component):
    """Everything in the `cpu` domain; only the register bus is in `sync`.

    Parameters
    ----------
    firmware : contents of the RAM, from ``rtl.firmware_build.build_firmware``.
    clock_hz : of the `cpu` domain, a multiple of 1 MHz.
    baud_hz : of the UART.
    ram_bytes : size of the RAM.
    watchdog_us_log2 : the watchdog restarts a firmware that hangs for 2 to this power microseconds.

    Members
    -------
    bus : Out register bus, `sync` domain.
    rx, tx : In and Out line.
    leds : Out lamps.

    Raises
    ------
    ValueError: clock, baud rate, RAM size and firmware do not fit each other.
    """

    verilog_files = (Core.verilog,)
    lint_waiver = Path(__file__).with_name("vexriscv.vlt")

    def __init__(self, *, firmware: bytes, clock_hz: int, baud_hz: int, ram_bytes: int = RAM_BYTES,
                 watchdog_us_log2: int = WATCHDOG_US_LOG2) -> None:
        self._ram = Ram(size_bytes=ram_bytes, contents=firmware)
        self._peripherals = Peripherals(clock_hz=clock_hz, baud_hz=baud_hz, watchdog_us_log2=watchdog_us_log2)
        super().__init__({"bus": Out(RegisterBus()), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        in_cpu = DomainRenamer("cpu")
        m.submodules.core = core = in_cpu(Core())
        m.submodules.ram = ram = in_cpu(self._ram)
        m.submodules.peripherals = peripherals = in_cpu(self._peripherals)
        m.submodules.bridge = bridge = in_cpu(EngineBridge())
        m.submodules.crossing = crossing = RegisterBusCrossing()
        wiring.connect(m, core.instructions, ram.instructions)
        wiring.connect(m, bridge.registers, crossing.i)
        wiring.connect(m, crossing.o, wiring.flipped(self.bus))
        m.d.comb += [peripherals.rx.eq(self.rx), self.tx.eq(peripherals.tx), self.leds.eq(peripherals.leds),
                     core.restart.eq(peripherals.restart), bridge.cancel.eq(peripherals.restart)]

        bus = core.data
        targets = ((RAM_BASE, ram.data), (PERIPHERAL_BASE, peripherals.bus), (ENGINE_BASE, bridge.bus))
        with m.Switch(bus.access.address[-2:]):
            for base, target in targets:
                m.d.comb += target.access.eq(bus.access)
                with m.Case(base >> 30):
                    m.d.comb += [target.valid.eq(bus.valid), bus.ack.eq(target.ack), bus.read_data.eq(target.read_data)]
        return m
