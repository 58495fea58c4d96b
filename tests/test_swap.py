"""Another model in a routed bitstream: equal to a build of that model, and every way to ask for it wrongly."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.block_map import Block, Column, fill_blocks, find_blocks
from host.block_memory import block_memories, noise
from host.ecp5_bitstream import Bitstream
from host.errors import TritloomError
from host.image import Image
from host.swap import SwapMap, map_of
from rtl import build_flow
from rtl.build_flow import BITSTREAM, IMAGE
from rtl.config import STREAM
from rtl.csr_map import RAM_BYTES
from rtl.firmware_build import IMAGE_ID_AT, build_firmware, with_image_id
from tests.bench import ROOT
from tests.shapes import STORIES, synthetic_image
from tests.small_soc import SMALL, SmallSoc, small_build, small_image
from tests.test_cli import fail, succeed

BLOCK_HEAD = bytes.fromhex("b2d00100")


def full_firmware(folder: Path) -> bytes:
    """The firmware, and noise to the end of its RAM: yosys numbers cells otherwise if two block RAMs hold the same."""
    firmware = build_firmware(folder)
    return firmware + np.random.default_rng(0).bytes(RAM_BYTES - len(firmware))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a build that holds the first model; tests only read it."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_flow, "build_firmware", full_firmware)
        small_build(folder).run()
    return folder


@pytest.fixture
def bitstream(built: Path, tmp_path: Path) -> Path:
    """A copy of the bitstream, with its map."""
    for name in (BITSTREAM, map_of(Path(BITSTREAM)).name):
        shutil.copy(built / name, tmp_path)
    return tmp_path / BITSTREAM


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Image file of the second model."""
    small_image(1).save(tmp_path / "other.tritloom")
    return tmp_path / "other.tritloom"


def oversized() -> Image:
    """An image with more operations than its program memory holds."""
    image = small_image(1)
    program = np.resize(image.sections["program"], (SMALL.program_depth + 1, 3))
    return replace(image, sections=image.sections | {"program": program})


class TestSwap:
    def test_equals_a_build_of_the_other_model(self, bitstream: Path, other: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
        """In every byte, and with a build that knew the model from synthesis on and needed no map."""
        out = succeed(capsys, "swap", bitstream, other)
        assert out.startswith(f"{bitstream}: image {small_image(1).image_id:08x} for small in 18 block RAMs")
        firmware = full_firmware(ROOT / "build" / "firmware")
        job = replace(small_build(tmp_path / "direct"),
                      make_soc=lambda **options: SmallSoc(**options | {"image": small_image(1), "firmware": firmware}))
        monkeypatch.setattr(build_flow, "find_blocks", lambda *_: [])
        with pytest.raises(TritloomError, match="not in block RAM"):    # there is no noise in which to find memories
            job.run()
        assert (job.work / "top.bit").read_bytes() == bitstream.read_bytes()

    def test_there_and_back(self, built: Path, bitstream: Path, other: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
        """The output has a map of its own and can be swapped again; the input stays as it was."""
        output = bitstream.with_name("second.bit")
        succeed(capsys, "swap", bitstream, other, "-o", output)
        assert bitstream.read_bytes() == (built / BITSTREAM).read_bytes() != output.read_bytes()
        succeed(capsys, "swap", output, built / IMAGE)
        assert output.read_bytes() == bitstream.read_bytes()
        assert map_of(output).read_bytes() == map_of(bitstream).read_bytes()
        assert sorted(path.name for path in output.parent.iterdir()) == [
            "other.tritloom", "second.bit", "second.swap", BITSTREAM, map_of(bitstream).name]


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def rewrite_map(bitstream: Path, **changes: object) -> None:
    """Replace members of a map, with a hash that is right."""
    path = map_of(bitstream)
    path.write_bytes(replace(SwapMap.parse(path.read_bytes()), **changes).file)


def first_block(bitstream: Path) -> int:
    """Where the contents of the first block RAM begin."""
    return bitstream.read_bytes().index(BLOCK_HEAD) + len(BLOCK_HEAD)


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "other geometry": (lambda bit, image: synthetic_image("tiny").save(image),
                       f"{synthetic_image('tiny').geometry:08x} (tiny), this is {SMALL.geometry:08x} (small)"),
    "no bitstream": (lambda bit, image: bit.unlink(), "tritloom.bit: cannot be read (No such file or directory)"),
    "not a bitstream": (lambda bit, image: bit.write_bytes(bytes(5000)), "tritloom.bit: this is not a bitstream"),
    "truncated bitstream": (lambda bit, image: bit.write_bytes(bit.read_bytes()[:-100]), "belong together"),
    "routing altered": (lambda bit, image: flip(bit, 5000), "do not belong together, or one of them was altered"),
    "contents altered": (lambda bit, image: flip(bit, first_block(bit) + 100), "block RAM 3 do not match their CRC"),
    "block number altered": (lambda bit, image: flip(bit, first_block(bit) - 6), "do not match their CRC"),
    "no map": (lambda bit, image: map_of(bit).unlink(), "its map tritloom.swap is not beside it"),
    "map altered": (lambda bit, image: flip(map_of(bit), 1000), "tritloom.swap: the map was altered"),
    "map truncated": (lambda bit, image: map_of(bit).write_bytes(map_of(bit).read_bytes()[:20]), "is not the map"),
    "not a map": (lambda bit, image: map_of(bit).write_bytes(bit.read_bytes()), "is not the map of a bitstream"),
    "map of a later version": (lambda bit, image: flip(map_of(bit), 8), "version 5, this program reads version 1"),
    "map of another build": (lambda bit, image: rewrite_map(bit, digest="0" * 64), "do not belong together"),
    "weights in SDRAM": (lambda bit, image: rewrite_map(bit, config=STREAM), "lie in SDRAM; use `tritloom load`"),
    "no image": (lambda bit, image: image.unlink(), "other.tritloom: no such model directory"),
    "image altered": (lambda bit, image: flip(image, 9000), "other.tritloom: damaged image"),
    "too many operations": (lambda bit, image: oversized().save(image),
                            "does not fit: 513 words of program, the memory has 512"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", WRONG)
    @pytest.mark.parametrize("apart", [False, True])
    def test_one_line_and_nothing_written(self, case: str, apart: bool, bitstream: Path, other: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
        """No file changes or appears, whether the result was to replace the bitstream or to lie apart."""
        damage, message = WRONG[case]
        damage(bitstream, other)
        before = {path: path.read_bytes() for path in bitstream.parent.iterdir()}
        options = ["-o", bitstream.with_name("new.bit")] if apart else []
        assert message in fail(capsys, "swap", bitstream, other, *options)
        assert {path: path.read_bytes() for path in bitstream.parent.iterdir()} == before

    def test_model_directory_that_does_not_fit(self, bitstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "small" in fail(capsys, "swap", bitstream, STORIES)

    @pytest.mark.parametrize(("name", "message"), [
        ("no/such/new.bit", "new.bit: cannot be written (No such file or directory)"),
        ("folder", "folder: cannot be written"),
        ("new.swap", "new.swap: a bitstream must not be named like its map")])
    def test_output_that_cannot_be(self, name: str, message: str, bitstream: Path, other: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
        (bitstream.parent / "folder").mkdir()
        before = sorted(bitstream.parent.iterdir())
        line = fail(capsys, "swap", bitstream, other, "-o", bitstream.parent / name)
        assert message in line.replace("new.swap: cannot", "new.bit: cannot")    # whichever was tried first
        assert sorted(bitstream.parent.iterdir()) == before

    def test_build_refuses_what_does_not_fit_before_it_starts(self, tmp_path: Path) -> None:
        job = replace(small_build(tmp_path), read_image=oversized)
        with pytest.raises(TritloomError, match="513 words of program"):
            job.run()
        assert not (job.work / "top.il").exists()


class Filled:
    """Takes the contents that `fill_blocks` writes."""

    def __init__(self) -> None:
        self.contents: dict[int, np.ndarray] = {}

    def replace(self, number: int, bits: np.ndarray) -> None:
        self.contents[number] = bits


def laid_out(memory: np.ndarray, width: int, depth: int, *, dealt: bool) -> dict[int, np.ndarray]:
    """A memory in blocks of ``depth`` words of ``width`` bits, as synthesis may lay it out."""
    parts = len(memory) // depth
    cut = [memory[part::parts] if dealt else memory[part * depth:(part + 1) * depth] for part in range(parts)]
    columns = np.concatenate(cut, axis=1)
    columns = np.pad(columns, ((0, 0), (0, -columns.shape[1] % width)))
    blocks = {}
    for number, first in enumerate(range(0, columns.shape[1], width), 3):
        words = columns[:, first:first + width]
        blocks[number] = (words.reshape(2048, 9) if width >= 9
                          else np.pad(words.reshape(2048, 8), ((0, 0), (0, 1))))
    return blocks


class TestBlockMap:
    @pytest.mark.parametrize(("width", "depth"), [(36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)])
    @pytest.mark.parametrize("dealt", [False, True])
    def test_any_layout_is_found(self, width: int, depth: int, dealt: bool) -> None:
        """Contents that go where noise was found are what the layout makes of them."""
        chance = np.random.default_rng(width)
        old, new = ({"m": chance.integers(0, 2, (2 * depth, 21), np.uint8)} for _ in range(2))
        blocks = find_blocks(laid_out(old["m"], width, depth, dealt=dealt), old)
        filled = Filled()
        fill_blocks(filled, blocks, new)
        wanted = laid_out(new["m"], width, depth, dealt=dealt)
        assert filled.contents.keys() == wanted.keys()
        assert all((filled.contents[number] == values).all() for number, values in wanted.items())

    def test_copies_are_all_found(self) -> None:
        """A memory with two read ports may lie in two blocks."""
        memory = np.random.default_rng(1).integers(0, 2, (512, 36), np.uint8)
        columns = tuple(Column("m", bit, 0, 1) for bit in range(36))
        contents = dict.fromkeys((5, 9), memory.reshape(2048, 9))
        assert find_blocks(contents, {"m": memory}) == [Block(5, 36, columns), Block(9, 36, columns)]

    def test_missing_bits_are_counted(self) -> None:
        memory = np.random.default_rng(1).integers(0, 2, (512, 40), np.uint8)
        contents = {3: memory[:, :36].reshape(2048, 9), 4: np.zeros((2048, 9), np.uint8)}
        with pytest.raises(TritloomError, match="^memory 'm': 2048 of 20480 bits are not in block RAM"):
            find_blocks(contents, {"m": memory})

    def test_block_with_foreign_contents_is_refused(self) -> None:
        """Filling it would wipe them out."""
        memory = np.random.default_rng(1).integers(0, 2, (512, 20), np.uint8)
        words = np.pad(memory, ((0, 0), (0, 16)))
        words[7, 30] = 1
        with pytest.raises(TritloomError, match="^block RAM 3 holds part of a memory, and something else"):
            find_blocks({3: words.reshape(2048, 9)}, {"m": memory})


class TestMemories:
    @pytest.mark.parametrize("name", ["tiny", "resident"])
    def test_firmware_carries_the_identity(self, name: str) -> None:
        image, firmware = synthetic_image(name), bytes(range(256))
        held = block_memories(image, firmware)["firmware"]
        words = np.packbits(held, axis=1, bitorder="little").view("<u4").ravel()
        assert words[IMAGE_ID_AT // 4] == image.image_id
        assert words[:64].tobytes() == with_image_id(firmware, image.image_id)

    def test_stream_bitstream_holds_no_image(self) -> None:
        """Its weights are not there, so it must not claim to hold the image."""
        held = block_memories(synthetic_image("stream"), bytes(64))
        assert not held["firmware"].any()
        assert not any(name.startswith("weights") for name in held)

    def test_identity_has_its_place_in_the_firmware(self) -> None:
        """The word that carries it is zero in a firmware as built, and behind the jump that skips it."""
        firmware = build_firmware(ROOT / "build" / "firmware")
        assert firmware[IMAGE_ID_AT:IMAGE_ID_AT + 4] == bytes(4)
        assert int.from_bytes(firmware[:4], "little") == 0x0080_006F    # jal x0, 8

    def test_noise_is_always_the_same(self) -> None:
        """Else a build could not be repeated."""
        (first, firmware), (second, again) = noise(SMALL), noise(SMALL)
        assert (first.image_id, firmware) == (second.image_id, again)


def test_block_contents_survive_reading_and_writing(built: Path) -> None:
    """A bitstream whose blocks are all written back as they were is the same in every byte."""
    data = (built / BITSTREAM).read_bytes()
    bitstream = Bitstream(data)
    assert len(bitstream.contents) == 18
    for number, bits in bitstream.contents.items():
        bitstream.replace(number, bits)
    assert bytes(bitstream.data) == data
