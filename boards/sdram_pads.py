"""Registered pads between an SDRAM controller and its chip."""

from amaranth import Const, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In

from rtl.sdram_controller import PinsSignature

# Names of the chip's inputs in the controller's signature, and in the board's resource. The chip takes the last four
# active low; the board's port inverts them once more, so they are given active high.
PLAIN_OUTPUTS = {"cke": "clk_en", "ba": "ba", "a": "a", "dqm": "dqm"}
INVERTED_OUTPUTS = {"cs_n": "cs", "ras_n": "ras", "cas_n": "cas", "we_n": "we"}


class SDRAMPads(wiring.Component):
    """Puts one flip-flop in the pad of every chip pin, and makes the chip's clock.

    Commands leave on edges of the `sdram` clock. The chip's clock pin toggles with the `sdram_chip` clock, the same
    frequency shifted by the PLL, through the same kind of output register: both leave after the same delay, and the
    shift alone sets the chip's setup and hold time.

    Latency: one `sdram` cycle to the chip and one from the chip, ``IO_CYCLES`` in all.

    Parameters
    ----------
    ports : the board's ``sdram`` resource, requested with ``dir="-"``.

    Members
    -------
    pins : the pins of an SDRAM controller; ``dq_oe_n`` low drives the data bus.

    Raises
    ------
    ValueError: the resource has other widths than the controller.
    """

    IO_CYCLES = 2

    pins: In(PinsSignature())

    def __init__(self, *, ports: object) -> None:
        super().__init__()
        widths = {name: len(getattr(self.pins, name)) for name in PLAIN_OUTPUTS} | {"dq": len(self.pins.dq_o)}
        for name, width in widths.items():
            port_bits = len(getattr(ports, PLAIN_OUTPUTS.get(name, name)))
            if port_bits != width:
                raise ValueError(f"the board's sdram has {port_bits} {name} pins, the controller {width}")
        self.ports = ports

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, resource in (PLAIN_OUTPUTS | INVERTED_OUTPUTS).items():
            pad = io.FFBuffer("o", getattr(self.ports, resource), o_domain="sdram")
            m.submodules[name] = pad
            value = getattr(self.pins, name)
            m.d.comb += pad.o.eq(~value if name in INVERTED_OUTPUTS else value)
        m.submodules.dq = dq = io.FFBuffer("io", self.ports.dq, i_domain="sdram", o_domain="sdram")
        m.d.comb += [dq.o.eq(self.pins.dq_o), dq.oe.eq(~self.pins.dq_oe_n), self.pins.dq_i.eq(dq.i)]
        m.submodules.clock = clock = io.DDRBuffer("o", self.ports.clk, o_domain="sdram_chip")
        m.d.comb += [clock.o[0].eq(Const(1)), clock.o[1].eq(Const(0))]
        return m
