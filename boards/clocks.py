"""Clock domains of a board top: one PLL and one reset per domain."""

from dataclasses import dataclass

from amaranth import ClockDomain, ClockSignal, Elaboratable, Module
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from boards.ecp5_pll import Ecp5Pll, PllOutput, PllSettings, pll_settings


@dataclass(frozen=True)
class Clocks:
    """Frequencies that one configuration asks of a board.

    Members
    -------
    sync_hz : engine clock.
    cpu_hz : clock of the processor and the serial port.
    sdram_hz : clock of the SDRAM; zero where there is none.
    chip_phase_degrees : lag of the clock at the SDRAM chip's pin behind the controller's.
    """

    sync_hz: float
    cpu_hz: float
    sdram_hz: float = 0.0
    chip_phase_degrees: float = 0.0

    @property
    def has_sdram(self) -> bool:
        return self.sdram_hz > 0

    @property
    def required_hz(self) -> dict[str, float]:
        """Clock domains of the logic and their frequencies."""
        domains = {"sync": self.sync_hz, "cpu": self.cpu_hz}
        return domains | ({"sdram": self.sdram_hz} if self.has_sdram else {})

    @property
    def outputs(self) -> dict[str, PllOutput]:
        """What the PLL makes.

        The first output closes the feedback loop, so it must be a multiple of what the phase detector can take; the
        CPU's clock, which nothing depends on, can be chosen to be one.
        """
        outputs = {"cpu": PllOutput(self.cpu_hz), "sync": PllOutput(self.sync_hz)}
        if self.has_sdram:
            chip = PllOutput(self.sdram_hz, self.chip_phase_degrees)
            outputs |= {"sdram": PllOutput(self.sdram_hz), "sdram_chip": chip}
        return outputs

    def settings(self, input_hz: float) -> PllSettings:
        """The PLL's dividers.

        Raises
        ------
        ValueError: the PLL cannot make these frequencies from ``input_hz``.
        """
        return pll_settings(input_hz, self.outputs)


class ClockGenerator(Elaboratable):
    """Drives the domains ``sync``, ``cpu`` and, where asked for, ``sdram`` and ``sdram_chip``.

    Every domain is held in reset until the PLL has locked, and leaves reset on an edge of its own clock.

    Parameters
    ----------
    clocks : the frequencies.
    oscillator : the board's clock port, requested with ``dir="-"``.
    oscillator_hz : its frequency.

    Members
    -------
    domains : the clock domains; the parent defines them, ``m.domains += generator.domains``.

    Raises
    ------
    ValueError: the PLL cannot make these frequencies.
    """

    def __init__(self, *, clocks: Clocks, oscillator: io.PortLike, oscillator_hz: float) -> None:
        self.settings = clocks.settings(oscillator_hz)
        self.oscillator = oscillator
        # The chip clock drives one output register, which has no reset.
        self.domains = [ClockDomain("reference", reset_less=True),
                        *(ClockDomain(name, reset_less=name == "sdram_chip") for name in clocks.outputs)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.oscillator = oscillator = io.Buffer("i", self.oscillator)
        m.d.comb += ClockSignal("reference").eq(oscillator.i)
        names = tuple(domain.name for domain in self.domains[1:])
        m.submodules.pll = pll = Ecp5Pll(settings=self.settings, names=names)
        for domain in self.domains[1:]:
            m.d.comb += ClockSignal(domain.name).eq(pll.clocks[domain.name])
            if domain.rst is not None:
                m.submodules[f"{domain.name}_reset"] = ResetSynchronizer(~pll.locked, domain=domain.name)
        return m
