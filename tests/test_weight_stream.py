"""The weight DMA, its controller and the chip model together, in three clock domains' worth of relations."""

import pytest
from amaranth.hdl import ClockSignal, DomainRenamer, Module
from amaranth.lib import wiring

from rtl.sdram_controller import SDRAMController
from rtl.sdram_parts import DEFAULT_PART
from rtl.weight_stream import WeightStream
from sim.sdram_chip import CHIP_SOURCE, chip_instance
from tests.bench import run_bench

FIFO_WORDS = 256
SDRAM_HZ = 133e6


class StreamOnChip(wiring.Component):
    """DMA, controller and chip; the ports are those of the DMA towards the engine."""

    def __init__(self) -> None:
        self._weights = WeightStream(fifo_words=FIFO_WORDS)
        members = dict(self._weights.signature.members)
        del members["memory"]
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.weights = weights = self._weights
        m.submodules.controller = controller = DomainRenamer("sdram")(
            SDRAMController(part=DEFAULT_PART, clock_hz=SDRAM_HZ, power_up_us=2))
        wiring.connect(m, weights.memory, controller.memory)
        for name in self.signature.members:
            port = getattr(self, name)
            if name in ("o", "host"):
                wiring.connect(m, getattr(weights, name), wiring.flipped(port))
            elif name in ("idle", "counters"):
                m.d.comb += port.eq(getattr(weights, name))
            else:
                m.d.comb += getattr(weights, name).eq(port)
        m.submodules.chip = chip_instance(DEFAULT_PART, SDRAM_HZ, controller.pins, ClockSignal("sdram"))
        return m


def test_weight_stream() -> None:
    """Order, exactness, stop and restart, host accesses and speed, at the nominal and at unrelated clock ratios."""
    log = run_bench(StreamOnChip(), module="tests.cocotb_weight_stream", name="weight_stream", sources=[CHIP_SOURCE],
                    parameters={"fifo_words": FIFO_WORDS})
    print(*(line for line in log.splitlines() if "measured" in line), sep="\n")


@pytest.mark.parametrize(("argument", "value"), [
    ("burst_words", 48), ("burst_words", 1), ("fifo_words", 100), ("fifo_words", 64)])
def test_refuses_sizes(argument: str, value: int) -> None:
    """A size out of range is refused with the size in the message."""
    with pytest.raises(ValueError, match=f"got {value}"):
        WeightStream(**{argument: value})
