"""What the baseline measured: the shipped model on the soft core alone, as ``scripts/softcore`` writes it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.errors import TritloomError


@dataclass(frozen=True)
class SoftCoreRun:
    """Tokens that a simulated soft core computed from an image, all equal to the golden model's.

    Parameters
    ----------
    config, model, image_id : of the image.
    core : Verilog of the processor.
    memory_bytes : its RAM, only simulated: more than the board's FPGA has.
    prompt : tokens given; what follows them was sampled.
    tokens : sampled, per position from 0.
    cycles : of the processor for each of them.
    simulation_hz : cycles simulated per second.
    command : what reproduces it.
    """

    config: str
    model: str
    image_id: int
    core: str
    memory_bytes: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    cycles: tuple[int, ...]
    simulation_hz: float
    command: str

    @property
    def mean(self) -> float:
        return sum(self.cycles) / len(self.cycles)

    def save(self, path: Path) -> None:
        """Write as JSON.

        Raises
        ------
        TritloomError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self)) + "\n")
        except OSError as error:
            raise TritloomError(f"{path}: cannot be written ({error.strerror})") from error

    @staticmethod
    def load(path: Path) -> "SoftCoreRun":
        """Read what `save` wrote.

        Raises
        ------
        TritloomError: it cannot be read, or is something else.
        """
        try:
            stored: Mapping[str, Any] = json.loads(path.read_text())
            lists = {name: tuple(int(item) for item in stored[name]) for name in ("prompt", "tokens", "cycles")}
            run = SoftCoreRun(**{**stored, **lists})
            if not run.cycles or len(run.cycles) != len(run.tokens):
                raise ValueError("no cycles, or not one per token")
        except OSError as error:
            raise TritloomError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise TritloomError(f"{path}: not a result of scripts/softcore ({error!r})") from error
        return run
