"""The parts of the SDRAM controller, each deciding once per *slot* of two clocks.

A burst of two half-words takes a slot on the data bus. A slot carries one column command (READ or WRITE) in its
first clock and one row command (PRECHARGE, ACTIVATE, REFRESH) in its second, so the rows of the next bank open in the
shadow of the reads and no command ever waits for the command bus.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.sdram_parts import ADDRESS_BITS, SDRAMPart, SDRAMTiming

BANK_BITS = 2
ROW_ADDRESS_BITS = 13
ALL_BANKS = 1 << 10        # address bit 10 of PRECHARGE
INIT_REFRESHES = 8
MAX_GROUP = 8              # refreshes done in one go
FIRST_ACCESS_SLOTS = 3     # from ACTIVATE to the first access, the way through the issuer
CLOSE_SLOTS = 5            # from ACTIVATE to PRECHARGE: the first access, and one slot of recovery after it
LOOKUP_SLOTS = 5           # least distance of two ACTIVATEs
SLOT_CYCLES = 2


class Access(enum.Enum, shape=2):
    """What a request does, and on whose account."""

    STREAM_READ = 0
    OTHER_READ = 1
    WRITE = 2


class Command(enum.Enum, shape=3):
    """Levels of RAS, CAS and WE, RAS in the top bit."""

    MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVATE = 0b011
    WRITE = 0b100
    READ = 0b101
    NOP = 0b111


COMMAND = data.StructLayout({"code": Command, "bank": BANK_BITS, "address": ROW_ADDRESS_BITS})
READ_WORD = data.StructLayout({"valid": 1, "stream": 1, "word": 32})


def request_layout(burst_words: int) -> data.StructLayout:
    """A request: ``words`` 32-bit words from ``address`` on, inside one aligned block of ``burst_words``."""
    return data.StructLayout({
        "address": ADDRESS_BITS, "words": burst_words.bit_length(), "access": Access, "data": 32})


def access_layout(part: SDRAMPart, burst_words: int) -> data.StructLayout:
    """A request whose row is open; ``column`` counts 32-bit words."""
    return data.StructLayout({
        "bank": BANK_BITS, "column": part.column_bits - 1, "words": burst_words.bit_length(), "access": Access,
        "data": 32})


def slots(cycles: int) -> int:
    """Slots that last at least so many clocks."""
    return -(-cycles // SLOT_CYCLES)


class Maintenance(wiring.Component):
    """Brings the chip up, then closes all rows and refreshes when refreshes are due.

    A full group is due at once; a smaller number waits until nobody asks for data.

    Parameters
    ----------
    timing : of the chip, in clocks.
    group : refreshes that may be owed before they are forced.

    Members
    -------
    hold : no further request may start; high during power-up.
    quiet : no request is under way.
    wanted : a request waits.
    active : ``command`` owns the row slot and all rows are or become closed.
    ready : power-up is over.
    """

    def __init__(self, *, timing: SDRAMTiming, group: int) -> None:
        self._timing = timing
        self._group = group
        super().__init__({
            "hold": Out(1), "quiet": In(1), "wanted": In(1), "active": Out(1), "ready": Out(1),
            "command": Out(COMMAND)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing = self._timing
        timer = Signal(range(max(slots(timing.power_up), slots(timing.rfc)) + 1), init=slots(timing.power_up))
        left = Signal(range(2 * MAX_GROUP), init=INIT_REFRESHES)
        owed = Signal(range(2 * MAX_GROUP))
        interval = Signal(range(timing.refi // SLOT_CYCLES), init=timing.refi // SLOT_CYCLES - 1)
        due = Signal()
        owing = Signal()
        expired = timer == 0
        mode = timing.cas_latency << 4 | 1     # sequential bursts of two

        m.d.sync += [
            timer.eq(Mux(expired, 0, timer - 1)),
            interval.eq(Mux(interval == 0, timing.refi // SLOT_CYCLES - 1, interval - 1)),
            due.eq(owed >= self._group), owing.eq(owed != 0),
        ]
        m.d.comb += [self.command.code.eq(Command.NOP), self.hold.eq(1), self.active.eq(1)]
        with m.If(interval == 0):
            m.d.sync += owed.eq(owed + 1)
        with m.FSM():
            with m.State("CLOSE"):
                with m.If(expired):
                    m.d.comb += [self.command.code.eq(Command.PRECHARGE), self.command.address.eq(ALL_BANKS)]
                    m.d.sync += timer.eq(slots(timing.rp) - 1)
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(expired & (left != 0)):
                    m.d.comb += self.command.code.eq(Command.REFRESH)
                    m.d.sync += [timer.eq(slots(timing.rfc) - 1), left.eq(left - 1)]
                with m.Elif(expired):
                    with m.If(self.ready):
                        m.next = "SERVE"
                    with m.Else():
                        m.d.comb += [self.command.code.eq(Command.MODE), self.command.address.eq(mode)]
                        m.d.sync += [timer.eq(slots(timing.mrd) - 1), self.ready.eq(1)]
            with m.State("SERVE"):
                m.d.comb += [self.hold.eq(0), self.active.eq(0)]
                with m.If(due | owing & self.quiet & ~self.wanted):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.active.eq(0)
                with m.If(self.quiet):
                    m.d.sync += [left.eq(owed), owed.eq(interval == 0)]
                    m.next = "CLOSE"
        # Power-up refreshes all. That its end waits for the timer does not reach the count: the way would be too long.
        with m.If(~self.ready):
            m.d.sync += owed.eq(0)
        return m


class RowOpener(wiring.Component):
    """Opens the row of each request and passes the request on; works ahead of the issuer.

    Latency: 3 slots for an open row, ``4`` for a closed bank, ``4 + slots(rp)`` for another row of an open bank.

    Parameters
    ----------
    part, timing : chip.
    burst_words : most words of a request.

    Members
    -------
    i, o : requests without and with an open row.
    busy_banks : banks that the issuer still uses, so their rows must stay.
    hold : accept no further request.
    forget : all rows are closed by someone else.
    idle : no request is held.
    """

    def __init__(self, *, part: SDRAMPart, timing: SDRAMTiming, burst_words: int) -> None:
        self._part = part
        self._timing = timing
        super().__init__({
            "i": In(stream.Signature(request_layout(burst_words))),
            "o": Out(stream.Signature(access_layout(part, burst_words))),
            "busy_banks": In(1 << BANK_BITS), "hold": In(1), "forget": In(1), "idle": Out(1),
            "command": Out(COMMAND)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request = Signal.like(self.i.payload, reset_less=True)
        column_bits = self._part.column_bits - 1
        column = request.address[:column_bits]
        bank = request.address[column_bits:column_bits + BANK_BITS]
        row = Signal(self._part.row_bits)
        rows = Array(Signal(self._part.row_bits, name=f"row{n}", reset_less=True) for n in range(1 << BANK_BITS))
        open_banks = Signal(1 << BANK_BITS)
        is_open, same_row = Signal(reset_less=True), Signal(reset_less=True)
        timer = Signal(range(slots(self._timing.rp) + 1))
        expired = timer == 0

        m.d.sync += timer.eq(Mux(expired, 0, timer - 1))
        m.d.comb += [
            row.eq(request.address[column_bits + BANK_BITS:]),
            self.command.code.eq(Command.NOP), self.command.bank.eq(bank),
            self.o.payload.bank.eq(bank), self.o.payload.column.eq(column), self.o.payload.words.eq(request.words),
            self.o.payload.access.eq(request.access), self.o.payload.data.eq(request.data),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), self.i.ready.eq(~self.hold)]
                m.d.sync += request.eq(self.i.payload)
                with m.If(self.i.valid & ~self.hold):
                    m.next = "LOOKUP"
            with m.State("LOOKUP"):
                m.d.sync += [is_open.eq(open_banks.bit_select(bank, 1)), same_row.eq(rows[bank] == row)]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(~is_open):
                    m.next = "ACTIVATE"
                with m.Elif(same_row):
                    m.next = "OFFER"
                with m.Else():
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                with m.If(~self.busy_banks.bit_select(bank, 1)):
                    m.d.comb += self.command.code.eq(Command.PRECHARGE)
                    m.d.sync += timer.eq(slots(self._timing.rp) - 1)
                    m.next = "ACTIVATE"
            with m.State("ACTIVATE"):
                with m.If(expired):
                    m.d.comb += [self.command.code.eq(Command.ACTIVATE), self.command.address.eq(row)]
                    m.d.sync += [rows[bank].eq(row), open_banks.bit_select(bank, 1).eq(1)]
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "IDLE"
        with m.If(self.forget):
            m.d.sync += open_banks.eq(0)
        return m


class ColumnIssuer(wiring.Component):
    """Turns opened requests into one READ or WRITE per slot, without a gap between two requests.

    Latency: ``FIRST_ACCESS_SLOTS - 1`` slots from a transfer of ``i`` to the first command.

    Parameters
    ----------
    part, timing : chip.
    burst_words : most words of a request.

    Members
    -------
    busy_banks : banks with an access pending or issued in the last slot.
    idle : none is.
    command, access, data : the access of this slot; ``command`` is NOP if there is none.
    """

    def __init__(self, *, part: SDRAMPart, timing: SDRAMTiming, burst_words: int) -> None:
        self._part = part
        self._turnaround = slots(timing.cas_latency + 3)
        super().__init__({
            "i": In(stream.Signature(access_layout(part, burst_words))), "busy_banks": Out(1 << BANK_BITS),
            "idle": Out(1), "command": Out(COMMAND), "access": Out(Access), "data": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        current, following = (
            Signal.like(self.i.payload, name=name, reset_less=True) for name in ("current", "following"))
        current_valid, following_valid, recent_valid = Signal(), Signal(), Signal()
        # The bank of each as one bit, zero without one: the opener waits for these, and they come from far away.
        current_bank, following_bank, recent_bank = (
            Signal.like(self.busy_banks, name=f"{name}_bank") for name in ("current", "following", "recent"))
        turnaround = Signal(range(self._turnaround))
        is_write = current.access == Access.WRITE
        fire = Signal()
        # Of the words of the current request; a register, for it lets in the next one, which lies far away.
        is_last = Signal(reset_less=True)

        m.d.comb += [
            fire.eq(current_valid & (~is_write | (turnaround == 0))),
            self.i.ready.eq(~following_valid),
            self.idle.eq(~(current_valid | following_valid | recent_valid)),
            self.busy_banks.eq(current_bank | following_bank | recent_bank),
            self.command.code.eq(Mux(fire, Mux(is_write, Command.WRITE, Command.READ), Command.NOP)),
            self.command.bank.eq(current.bank),
            self.command.address.eq(current.column << 1),
            self.access.eq(current.access), self.data.eq(current.data),
        ]
        m.d.sync += [recent_valid.eq(fire), recent_bank.eq(Mux(fire, current_bank, 0))]
        with m.If(fire & ~is_write):
            m.d.sync += turnaround.eq(self._turnaround - 1)
        with m.Elif(turnaround != 0):
            m.d.sync += turnaround.eq(turnaround - 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [following.eq(self.i.payload), following_valid.eq(1),
                         following_bank.eq(1 << self.i.payload.bank)]
        with m.If(fire):
            m.d.sync += [current.words.eq(current.words - 1), current.column.eq(current.column + 1),
                         is_last.eq(current.words == 2)]
        with m.If(~current_valid | fire & is_last):
            m.d.sync += [current.eq(following), current_valid.eq(following_valid), current_bank.eq(following_bank),
                         is_last.eq(following.words == 1)]
            with m.If(following_valid):
                m.d.sync += [following_valid.eq(0), following_bank.eq(0)]
        return m


class ReadReturn(wiring.Component):
    """Puts the two halves of each word read together.

    The pads lie at one edge and what takes the words lies anywhere, so they go by one more register than they need.

    Latency: ``latency_cycles + 3`` clocks from ``read`` to the word, low half first.

    Parameters
    ----------
    latency_cycles : from the clock in which the pins carry READ to the one in which ``dq_i`` carries the low half.
    """

    def __init__(self, *, latency_cycles: int) -> None:
        self._latency_cycles = latency_cycles
        super().__init__({"read": In(1), "stream": In(1), "dq_i": In(16), "data": Out(READ_WORD)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        on_the_way = Signal(self._latency_cycles + 2)
        # Without a reset, which would have to reach the pads in one clock: `valid` has one.
        streams = Signal(self._latency_cycles + 3, reset_less=True)
        half, low, word = (Signal(bits, reset_less=True) for bits in (16, 16, 32))
        m.d.sync += [
            on_the_way.eq(Cat(self.read, on_the_way)), streams.eq(Cat(self.stream, streams)),
            half.eq(self.dq_i), low.eq(half), self.data.valid.eq(on_the_way[-1]), word.eq(Cat(low, half)),
        ]
        m.d.comb += [self.data.stream.eq(streams[-1]), self.data.word.eq(word)]
        return m
