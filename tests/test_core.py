"""The accelerator without what is around it: what a reset in the middle of a run leaves."""

from pathlib import Path

import pytest

from rtl.core import Core
from tests.bench import run_bench
from tests.shapes import synthetic_image
from tests.test_soc import stream_image


@pytest.mark.parametrize(("name", "resets"), [("tiny", 120), ("stream", 40)])
def test_reset_leaves_nothing_of_a_run(tmp_path: Path, name: str, resets: int) -> None:
    """A part without its copy of the reset, or a register that needs one and has none."""
    image = stream_image() if name == "stream" else synthetic_image(name)
    path = tmp_path / "image"
    image.save(path)
    run_bench(Core(config=image.config, image=image), module="tests.cocotb_core", name=f"core_{name}",
              parameters={"image": str(path), "resets": resets})
