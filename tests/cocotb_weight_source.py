"""cocotb side of test_weight_memory and test_trit_decoder: every tile, in order, whatever the stalls."""

from typing import Any

import cocotb
import numpy as np

from host.packing import to_base3, to_codes
from rtl.config import CODE_BITS, SIGN, Config, sign_reference
from rtl.op_layout import FETCH
from tests.bench import STALL_PATTERNS, StreamDriver, StreamMonitor, check_equal, parameters, start
from tests.engine_components import initial_trits

CONFIG = Config(**parameters()["config"])
SEEDS = list(range(8))


def tile_bits(trits: np.ndarray) -> int:
    """Payload of the tile of trits [rows, columns]: codes whose signs are relative."""
    word = 0
    for place, code in enumerate(to_codes(trits).ravel()):
        row, column = divmod(place, CONFIG.codes)
        reference = sign_reference(column)
        sign = int(code) >> SIGN
        if reference != column:
            sign ^= int(to_codes(trits)[row, reference]) >> SIGN
        word |= (int(code) & (1 << SIGN) - 1 | sign << SIGN) << CODE_BITS * place
    return word


async def memory(dut: Any, seed: int) -> None:
    """Requests of any length from any address, one after the other without a pause between them."""
    chance = np.random.default_rng(seed)
    trits = initial_trits(CONFIG)
    dut.load__enable.value = 0
    fetch = StreamDriver(dut, "fetch")
    tiles = StreamMonitor(dut, "tiles", pattern=STALL_PATTERNS[seed % 3], seed=seed)
    await start(dut)
    requests, expected = [], []
    for _ in range(12):
        count = int(chance.integers(1, 30))
        address = int(chance.integers(0, CONFIG.weight_depth - count + 1))
        requests.append(FETCH.const({"address": address, "tiles": count}).as_bits())
        expected += [tile_bits(tile) for tile in trits[address : address + count]]
    cocotb.start_soon(fetch.send(requests))
    check_equal("tile", await tiles.receive(len(expected), timeout_cycles=100 * len(expected)), expected)
    clocks = 0
    async for word in tiles.words():
        assert word is None, f"a tile too many: {word:#x}"
        clocks += 1
        if clocks == 20:
            break


async def decoder(dut: Any, seed: int) -> None:
    """All 243 bytes in random order; with no stalls, a word goes in at every clock."""
    chance = np.random.default_rng(seed)
    trits = chance.integers(-1, 2, (60, CONFIG.rows, CONFIG.columns)).astype(np.int8)
    words = StreamDriver(dut, "words", pattern=STALL_PATTERNS[seed % 3], seed=seed)
    tiles = StreamMonitor(dut, "tiles", pattern=STALL_PATTERNS[seed // 2 % 3], seed=seed + 100)
    await start(dut)
    stream = [int(word) for word in to_base3(trits).view("<u4")]
    expected = [tile_bits(tile) for tile in trits]
    cocotb.start_soon(words.send(stream))
    limit = len(stream) + 4 if seed % 6 == 0 else 100 * len(stream)
    check_equal("tile", await tiles.receive(len(expected), timeout_cycles=limit), expected)


@cocotb.test()
@cocotb.parametrize(seed=SEEDS)
async def tiles(dut: Any, seed: int) -> None:
    """The source of this build."""
    await (decoder if CONFIG.weight_source == "sdram" else memory)(dut, seed)
