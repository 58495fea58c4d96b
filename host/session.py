"""One command's work with a device: which model, which device, and a checked generation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from host.compiler import compile_checkpoint
from host.device import Device, watchdog_us
from host.errors import TritloomError
from host.image import Image
from host.importer import load_checkpoint
from host.layout import Layout
from host.link import SIMULATION_PACE, Link, SerialTransport
from host.model_files import open_model
from host.tokenizer import Tokenizer
from rtl.config import SIMULATED_CONFIGS, Config
from rtl.csr_map import COUNTERS, Speculation
from sim.drafter import drafter_of
from sim.fixed import Scalar
from sim.golden import Golden
from sim.token_loop import Pass, TokenLoop

DEFAULT_CONFIG = "resident"
MODELS = Path(__file__).resolve().parent.parent / "models"
DEFAULT_MODEL = MODELS / "stories1m"
# What a configuration runs unless told otherwise; the others have no trained model of their own.
OWN_MODELS = {"nano": MODELS / "words4k", "pocket": MODELS / "stories150k", "sparse": MODELS / "stories1m-sparse",
              "resident": DEFAULT_MODEL, "stream": DEFAULT_MODEL}
TEMPERATURE_MIN, TEMPERATURE_MAX = 0.01, 100.0

Message = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """Where to run: exactly one of a simulated chip and a serial port.

    Parameters
    ----------
    sim : simulate.
    port : path of a serial port.
    trace : waveform file of the simulated chip.
    max_cycles : engine cycles after which the simulation ends.

    Raises
    ------
    TritloomError: both or neither is named, or an option of the simulation without one.
    """

    sim: bool
    port: str | None
    trace: Path | None = None
    max_cycles: int | None = None

    def __post_init__(self) -> None:
        if self.sim == (self.port is not None):
            raise TritloomError("name the device: --sim for the simulated chip, or --port DEV for a board")
        if not self.sim and (self.trace is not None or self.max_cycles is not None):
            raise TritloomError("--trace and --max-cycles need --sim")

    @property
    def provenance(self) -> str:
        """What numbers from this target are."""
        return "simulated" if self.sim else "measured on a board"

    @contextmanager
    def open(self, image: Image, message: Message, *, blank: bool = False) -> Iterator[Device]:
        """The device, with its link; a simulated one holds the image unless ``blank``."""
        if self.port is not None:
            with Link(SerialTransport(self.port)) as link:
                yield Device(link)
            return
        from host.simulator import Simulator  # importing the gateware takes longer than every other command

        with Simulator(image.config, image, blank=blank, trace=self.trace, max_cycles=self.max_cycles,
                       progress=message) as simulator:
            with Link(SerialTransport(simulator.port), pace=SIMULATION_PACE) as link:
                message("starting the simulated chip")
                yield Device(link)


def configuration(name: str | None) -> Config:
    """A configuration by its name, of those that a board or the simulator can have.

    Raises
    ------
    TritloomError: there is none of that name.
    """
    if name is not None and name not in SIMULATED_CONFIGS:
        raise TritloomError(f"there is no configuration {name!r}; choose {', '.join(SIMULATED_CONFIGS)}")
    return SIMULATED_CONFIGS[name or DEFAULT_CONFIG]


def configuration_for(model: Path, name: str | None) -> Config:
    """The named configuration; without a name the smallest that holds the model, and the default if none does.

    Raises
    ------
    TritloomError: the configuration is unknown or the model is damaged.
    """
    if name is not None:
        return configuration(name)
    # How many planes tensors of floats get depends on the configuration.
    shape = replace(open_model(model).architecture.shape, embed_planes=1, head_planes=1)
    for config in SIMULATED_CONFIGS.values():
        with suppress(TritloomError):
            Layout(shape, config)
            return config
    return configuration(None)


def read_image(model: Path | None, config: str | None) -> Image:
    """The image in a file, or compiled from a model directory.

    Parameters
    ----------
    model : image file or checkpoint directory; None takes the configuration's own.
    config : name of the configuration; None takes an image's own, and else that of `configuration_for`.

    Raises
    ------
    TritloomError: the configuration is unknown or has no model of its own, the model is damaged, or it does not fit.
    """
    if model is None:
        name = configuration(config).name
        if name not in OWN_MODELS:
            raise TritloomError(f"{name} has no model of its own; name one with --model")
        return read_image(OWN_MODELS[name], name)
    if model.is_file():
        image = Image.load(model)
        return image if config is None else image.require(configuration(config))
    chosen = configuration_for(model, config)
    return compile_checkpoint(load_checkpoint(model, chosen), chosen)


def tokenizer_of(image: Image) -> Tokenizer:
    """The tokenizer that came with the model.

    Raises
    ------
    TritloomError: the model has none, or it is damaged.
    """
    if not image.tokenizer:
        raise TritloomError("the model has no tokenizer; put tokenizer.bin beside its weights and compile it again")
    return Tokenizer(image.tokenizer)


@dataclass(frozen=True)
class Token:
    """What follows one token, as the device says and as it should be.

    Parameters
    ----------
    token : of the device.
    golden : of the golden model on the same text.
    position : of the token that it follows.
    cycles : engine clocks of the device's pass, if this is the last token that it brought; else 0.
    predicted : engine clocks that the compiler predicted for that pass.
    generated : whether it continues the text.
    """

    token: int
    golden: int
    position: int
    cycles: int
    predicted: int
    generated: bool


class Generation:
    """Generates text on a device, and the same text on the golden model beside it.

    Parameters
    ----------
    device : holds ``image``.
    image : the model.
    temperature : of sampling, above 0; None is greedy.
    seed : of the sampler; each restart of a sliding context takes the next.
    slide : when the context is full, restart with the last half of its tokens as the prompt.
    speculation : who fills slots with drafts; the text is the same.

    Members
    -------
    tokens : what followed each token so far, those of the prompt among them.
    counters : hardware counters, summed over restarts.
    stopped : why generation ended early, or empty.

    Raises
    ------
    TritloomError: the temperature is out of range, or the configuration has no drafter to speculate with.
    """

    def __init__(self, device: Device, image: Image, *, temperature: float | None = None, seed: int = 0,
                 slide: bool = False, speculation: Speculation = Speculation.OFF) -> None:
        self.tokens: list[Token] = []
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.stopped = ""
        self._device, self._image, self._seed, self._slide = device, image, seed, slide
        self._golden = Golden(image)
        self._scale = inverse_temperature(temperature)
        self._speculation, self._drafter = speculation, drafter_of(image, speculation)

    def run(self, prompt: Sequence[int], count: int) -> Iterator[Token]:
        """Generate ``count`` tokens after a prompt; yields what follows each token, when the device says so.

        Raises
        ------
        TritloomError: the prompt does not fit the context, or the device failed.
        """
        context = self._image.context
        check_prompt(prompt, self._image)
        text, left, seed = list(prompt), count, self._seed
        while left:
            part = min(left, context - len(text) + 1)
            for done in self._segment(text, part, seed):
                self.tokens.append(done)
                yield done
            text += [done.token for done in self.tokens[-part:]]
            left -= part
            if left and not self._slide:
                self.stopped = f"the context of {context} positions is full; --slide goes on"
                return
            text, seed = text[-context // 2:], seed + 1 & 0xFFFFFFFF

    def _segment(self, prompt: list[int], count: int, seed: int) -> Iterator[Token]:
        """One run of the device, from position 0."""
        slots, inputs = self._image.config.slots, len(prompt) + count - 1
        longest = Pass((0,) * slots, max(0, inputs - slots), slots, reads=False)
        last = self._image.predicted_cycles(inputs - 1, greedy=self._scale is None, taken=longest, kept=slots)
        self._golden.reset(seed=seed, temperature=self._scale)
        events = self._device.run(prompt, count, temperature=self._scale, seed=seed, speculation=self._speculation,
                                  timeout_us=watchdog_us(last, self._device.hello.clock_hz))
        loop = TokenLoop(slots=slots, context=self._image.context, prompt=prompt, tokens=inputs, drafter=self._drafter)
        while taken := loop.begin():
            records = loop.end(taken, self._golden.samples(taken))
            predicted = self._image.predicted_cycles(
                taken.position, greedy=self._scale is None, taken=taken, kept=len(records),
                speculates=self._drafter is not None)
            for record in records:
                event = next(events)
                yield Token(token=event.token, golden=record.token, position=event.position, cycles=event.cycles,
                            predicted=predicted if record is records[-1] else 0, generated=event.generated)
        next(events, None)      # the end of the run
        for name, value in self._device.counters().items():
            self.counters[name] += value


def check_prompt(prompt: Sequence[int], image: Image) -> None:
    """Refuse a prompt that is longer than the context.

    Raises
    ------
    TritloomError: it is.
    """
    if len(prompt) > image.context:
        raise TritloomError(f"the prompt has {len(prompt)} tokens, the context holds {image.context}; shorten it")


def inverse_temperature(temperature: float | None) -> Scalar | None:
    """The scalar that the sampler takes for a temperature; None and 0 are greedy.

    Raises
    ------
    TritloomError: the temperature is out of range.
    """
    if temperature is None or temperature == 0:
        return None
    if not TEMPERATURE_MIN <= temperature <= TEMPERATURE_MAX:
        raise TritloomError(f"temperature {temperature:g} is out of range; use 0 or {TEMPERATURE_MIN:g} to "
                            f"{TEMPERATURE_MAX:g}")
    return Scalar.from_float(1 / temperature)
