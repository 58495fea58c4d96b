"""Registered pads between an SDRAM controller and its chip."""

from amaranth import Const, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

# Names of the chip's inputs in the controller's signature, and in the board's resource. The chip takes the last four
# active low; the board's port inverts them once more, so they are given active high.
PLAIN_OUTPUTS = {"cke": "clk_en", "ba": "ba", "a": "a", "dqm": "dqm"}
INVERTED_OUTPUTS = {"cs_n": "cs", "ras_n": "ras", "cas_n": "cas", "we_n": "we"}


class SDRAMPads(wiring.Component):
    """Puts one flip-flop in the pad of every chip pin, and makes the chip's clock.

    Commands leave on edges of the `sdram` clock. The chip's clock pin toggles with the `sdram_chip` clock, the same
    frequency shifted by the PLL, through the same kind of output register: both leave after the same delay, and the
    shift alone sets the chip's setup and hold time.

    Latency: one `sdram` cycle to the chip, one from the chip.

    Parameters
    ----------
    ports : the board's ``sdram`` resource, requested with ``dir="-"``.
    bank_bits, address_bits, data_bits : widths of the chip.

    Members
    -------
    pins : In, the pins of an SDRAM controller; ``dq_oe`` drives the data bus.

    Raises
    ------
    ValueError: the resource has other widths.
    """

    def __init__(self, *, ports: object, bank_bits: int = 2, address_bits: int = 13, data_bits: int = 16) -> None:
        widths = {"ba": bank_bits, "a": address_bits, "dq": data_bits, "dqm": data_bits // 8}
        for name, width in widths.items():
            if len(getattr(ports, name)) != width:
                raise ValueError(f"the board's sdram has {len(getattr(ports, name))} {name} pins, the chip {width}")
        self.ports = ports
        super().__init__({"pins": In(wiring.Signature({
            **{name: Out(widths.get(name, 1)) for name in (*PLAIN_OUTPUTS, *INVERTED_OUTPUTS)},
            "dq_o": Out(data_bits), "dq_oe": Out(1), "dq_i": In(data_bits),
        }))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, resource in (PLAIN_OUTPUTS | INVERTED_OUTPUTS).items():
            pad = io.FFBuffer("o", getattr(self.ports, resource), o_domain="sdram")
            m.submodules[name] = pad
            value = getattr(self.pins, name)
            m.d.comb += pad.o.eq(~value if name in INVERTED_OUTPUTS else value)
        m.submodules.dq = dq = io.FFBuffer("io", self.ports.dq, i_domain="sdram", o_domain="sdram")
        m.d.comb += [dq.o.eq(self.pins.dq_o), dq.oe.eq(self.pins.dq_oe), self.pins.dq_i.eq(dq.i)]
        m.submodules.clock = clock = io.DDRBuffer("o", self.ports.clk, o_domain="sdram_chip")
        m.d.comb += [clock.o[0].eq(Const(1)), clock.o[1].eq(Const(0))]
        return m
