"""Clock generation on ECP5: from frequencies to the settings of one EHXPLLL."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import floor

from amaranth import ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

# ECP5 family data sheet FPGA-DS-02012, table "sysCLOCK PLL Timing".
INPUT_HZ = (8e6, 400e6)
PHASE_DETECTOR_HZ = (10e6, 400e6)
VCO_HZ = (400e6, 800e6)
OUTPUT_HZ = (3.125e6, 400e6)
DIVIDER_MAX = 128
OUTPUT_PINS = ("CLKOP", "CLKOS", "CLKOS2", "CLKOS3")
PHASE_STEPS = 8  # steps of one VCO period, the resolution of a phase shift


@dataclass(frozen=True)
class PllOutput:
    """One wanted clock: its frequency, and how many degrees of its own period it lags behind the first output."""

    hz: float
    phase_degrees: float = 0.0


@dataclass(frozen=True)
class PllSettings:
    """Dividers of an EHXPLLL whose feedback is its first output.

    Members
    -------
    input_divider, feedback_divider : CLKI_DIV and CLKFB_DIV.
    output_dividers : VCO cycles per output cycle, one per wanted clock.
    coarse_phases : CPHASE of each output, in VCO cycles.
    fine_phases : FPHASE of each output, in eighths of a VCO cycle.
    vco_hz, output_hz : what the dividers give.
    """

    input_divider: int
    feedback_divider: int
    output_dividers: tuple[int, ...]
    coarse_phases: tuple[int, ...]
    fine_phases: tuple[int, ...]
    vco_hz: float
    output_hz: tuple[float, ...]


def pll_settings(input_hz: float, outputs: Mapping[str, PllOutput], *, tolerance: float = 0.0) -> PllSettings:
    """Find dividers for one to four clocks; the first named output closes the feedback loop.

    Among the settings with the smallest worst relative error the one with the fastest phase detector wins (least
    jitter), then the one with the fastest VCO (finest phase steps).

    Parameters
    ----------
    input_hz : the oscillator.
    outputs : the wanted clocks by name, in the order of the PLL's output pins.
    tolerance : largest relative error of a frequency.

    Raises
    ------
    ValueError: too many outputs, a frequency out of the PLL's range, or none close enough; the message says which.
    """
    if not 1 <= len(outputs) <= len(OUTPUT_PINS):
        raise ValueError(f"a PLL has 1 to {len(OUTPUT_PINS)} outputs, asked for {len(outputs)}")
    if not INPUT_HZ[0] <= input_hz <= INPUT_HZ[1]:
        raise ValueError(f"PLL input {_mhz(input_hz)} is outside {_mhz(INPUT_HZ[0])}..{_mhz(INPUT_HZ[1])}")
    for name, output in outputs.items():
        if not OUTPUT_HZ[0] <= output.hz <= OUTPUT_HZ[1]:
            raise ValueError(f"clock {name} {_mhz(output.hz)} is outside {_mhz(OUTPUT_HZ[0])}..{_mhz(OUTPUT_HZ[1])}")
    wanted = tuple(outputs.values())
    best: tuple[tuple[float, float, float], PllSettings] | None = None
    dividers = range(1, DIVIDER_MAX + 1)
    for input_divider, feedback_divider in product(dividers, dividers):
        detector_hz = input_hz / input_divider
        first_hz = detector_hz * feedback_divider
        if not PHASE_DETECTOR_HZ[0] <= detector_hz <= PHASE_DETECTOR_HZ[1] or first_hz > OUTPUT_HZ[1]:
            continue
        for first_divider in dividers:
            vco_hz = first_hz * first_divider
            if not VCO_HZ[0] <= vco_hz <= VCO_HZ[1]:
                continue
            output_dividers = (first_divider, *(_nearest_divider(vco_hz, output.hz) for output in wanted[1:]))
            output_hz = tuple(vco_hz / divider for divider in output_dividers)
            error = max(abs(hz / output.hz - 1) for hz, output in zip(output_hz, wanted, strict=True))
            rank = (round(error, 12), -detector_hz, -vco_hz)
            if best is None or rank < best[0]:
                phases = [_phase(output.phase_degrees, divider)
                          for output, divider in zip(wanted, output_dividers, strict=True)]
                best = rank, PllSettings(
                    input_divider=input_divider, feedback_divider=feedback_divider, output_dividers=output_dividers,
                    coarse_phases=tuple(coarse for coarse, _ in phases), fine_phases=tuple(fine for _, fine in phases),
                    vco_hz=vco_hz, output_hz=output_hz)
    if best is None or best[0][0] > tolerance:
        text = ", ".join(f"{name} {_mhz(output.hz)}" for name, output in outputs.items())
        near = "" if best is None else "; nearest: " + ", ".join(map(_mhz, best[1].output_hz))
        raise ValueError(f"no PLL setting makes {text} from {_mhz(input_hz)}{near}")
    return best[1]


def _mhz(hz: float) -> str:
    return f"{hz / 1e6:g} MHz"


def _nearest_divider(vco_hz: float, hz: float) -> int:
    below = max(1, min(DIVIDER_MAX, floor(vco_hz / hz)))
    return min((below, min(DIVIDER_MAX, below + 1)), key=lambda divider: abs(vco_hz / divider / hz - 1))


def _phase(degrees: float, divider: int) -> tuple[int, int]:
    """CPHASE and FPHASE: a lag of zero is ``divider - 1`` VCO cycles, because each divider counts down from there."""
    coarse, fine = divmod(round(degrees % 360 / 360 * divider * PHASE_STEPS), PHASE_STEPS)
    return divider - 1 + coarse, fine


class Ecp5Pll(wiring.Component):
    """One EHXPLLL, fed by the ``reference`` clock domain.

    Latency: ``locked`` rises some 15 ms at most after configuration; clocks before that are not to be used.

    Parameters
    ----------
    settings : what ``pll_settings`` found.
    names : one name per output, in the order of the settings.

    Members
    -------
    clocks : one clock signal per name, driven here; make each the ``clk`` of a ``ClockDomain``.
    locked : Out(1), asynchronous.
    """

    locked: Out(1)

    def __init__(self, *, settings: PllSettings, names: tuple[str, ...]) -> None:
        if len(names) != len(settings.output_dividers):
            raise ValueError(f"{len(settings.output_dividers)} PLL outputs need as many names, got {names}")
        self.settings = settings
        self.clocks = {name: Signal(name=f"{name}_clk") for name in names}
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = self.settings
        arguments: dict[str, object] = {}
        for index, (pin, clock) in enumerate(zip(OUTPUT_PINS, self.clocks.values(), strict=False)):
            arguments[f"p_{pin}_ENABLE"] = "ENABLED"
            arguments[f"p_{pin}_DIV"] = settings.output_dividers[index]
            arguments[f"p_{pin}_CPHASE"] = settings.coarse_phases[index]
            arguments[f"p_{pin}_FPHASE"] = settings.fine_phases[index]
            arguments[f"o_{pin}"] = clock
        m.submodules.pll = Instance(
            "EHXPLLL", **arguments,
            # Loop filter for a bandwidth that suits every divider above, as the vendor's generator emits it.
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=settings.input_divider, p_CLKFB_DIV=settings.feedback_divider, p_FEEDBK_PATH="CLKOP",
            i_CLKI=ClockSignal("reference"), i_CLKFB=next(iter(self.clocks.values())), i_RST=0, i_STDBY=0,
            i_PHASESEL0=0, i_PHASESEL1=0, i_PHASEDIR=1, i_PHASESTEP=1, i_PHASELOADREG=1, i_PLLWAKESYNC=0, i_ENCLKOP=0,
            o_LOCK=self.locked)
        return m
