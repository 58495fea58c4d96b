"""The accelerator without what is around it: what a reset in the middle of a run leaves."""

from pathlib import Path

import pytest
from amaranth import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from host.image import Image
from rtl.core import Core
from tests.bench import run_bench
from tests.shapes import stream_image, synthetic_image


class ProbedCore(wiring.Component):
    """The accelerator, with what is written to its vector memory as further ports: ``write_rows_data`` and so on."""

    def __init__(self, *, image: Image) -> None:
        self.core = Core(config=image.config, image=image)
        self._probes = {f"{port}_{member}": Value.cast(getattr(getattr(self.core.memory, port), member))
                        for port in ("write_rows", "write_beats", "write_bank") for member in ("enable", "data")}
        super().__init__(dict(self.core.signature.members) | {
            name: Out(len(value)) for name, value in self._probes.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = self.core
        outside = {path: value for path, _, value in self.signature.flatten(self)}
        for path, member, inside in core.signature.flatten(core):
            m.d.comb += inside.eq(outside[path]) if member.flow is In else outside[path].eq(inside)
        m.d.comb += [getattr(self, name).eq(value) for name, value in self._probes.items()]
        return m


@pytest.mark.parametrize(("name", "resets"), [("tiny", 60), ("stream", 14)])
def test_reset_leaves_nothing_of_a_run(tmp_path: Path, name: str, resets: int) -> None:
    """A part without its copy of the reset, or a register that needs one and has none, such as sums of the engine."""
    image = stream_image() if name == "stream" else synthetic_image(name)
    path = tmp_path / "image"
    image.save(path)
    run_bench(ProbedCore(image=image), module="tests.cocotb_core", name=f"core_{name}",
              parameters={"image": str(path), "resets": resets})
