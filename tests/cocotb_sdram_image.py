"""cocotb side of test_image_in_chip."""

from typing import Any

import cocotb

from tests.bench import check_equal, parameters
from tests.cocotb_sdram import BURST_WORDS, OTHER_READ, bring_up, request


@cocotb.test()
async def holds_image(dut: Any) -> None:
    """The chip holds the image from word 0 on, low half-word first."""
    expected = parameters()["words"]
    driver, memory = await bring_up(dut)
    await driver.send([request(OTHER_READ, base, words=BURST_WORDS) for base in range(0, len(expected), BURST_WORDS)])
    await memory.words(len(expected), timeout_cycles=4000)
    check_equal("word", [word for word, _, _ in memory.read], expected)
