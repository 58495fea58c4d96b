"""Puts another model into a routed bitstream: only block RAM contents change, so nothing is routed again."""

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from host.block_map import Block, Column, fill_blocks, find_blocks
from host.block_memory import block_memories, noise
from host.compiler import compile_checkpoint
from host.ecp5_bitstream import Bitstream
from host.errors import TritloomError
from host.files import write_atomically
from host.image import Image
from host.importer import load_checkpoint
from rtl.config import Config

MAGIC = b"TRITSWAP"
VERSION = 1
HEAD = struct.Struct("<8sI32s")            # magic, version, SHA-256 of the rest
MAP_SUFFIX = ".swap"
MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class SwapMap:
    """What it takes to put a model into one routed chip.

    Members
    -------
    config : the geometry.
    firmware : of the CPU; its RAM also holds the identity of the image.
    digest : of the bitstream without the contents of ``blocks``; the same whatever model it holds.
    blocks : which bit of which memory lies where.
    """

    config: Config
    firmware: bytes
    digest: str
    blocks: Sequence[Block]

    @staticmethod
    def of_routed(config: Config, firmware: bytes, routed: bytes) -> "SwapMap":
        """The map of a chip that was routed with noise in its memories, see `host.block_memory.noise`.

        Parameters
        ----------
        config, firmware : what the chip is to work with.
        routed : its bitstream.

        Raises
        ------
        TritloomError: the memories are not all in block RAM.
        """
        bitstream = Bitstream(routed)
        blocks = find_blocks(bitstream.contents, block_memories(*noise(config)))
        return SwapMap(config, firmware, bitstream.digest(block.number for block in blocks), blocks)

    @property
    def file(self) -> bytes:
        """Contents of the file that `parse` reads."""
        body = zlib.compress(json.dumps({
            "config": asdict(self.config), "firmware": base64.b64encode(self.firmware).decode(), "digest": self.digest,
            "blocks": self.blocks}, separators=(",", ":")).encode())
        return HEAD.pack(MAGIC, VERSION, hashlib.sha256(body).digest()) + body

    @staticmethod
    def parse(file: bytes) -> "SwapMap":
        """Read and verify a map.

        Raises
        ------
        TritloomError: not a map, of another version, or damaged.
        """
        if len(file) < HEAD.size or not file.startswith(MAGIC):
            raise TritloomError("this is not the map of a bitstream")
        _, version, digest = HEAD.unpack_from(file)
        if version != VERSION:
            raise TritloomError(f"map of version {version}, this program reads version {VERSION}; build again")
        if hashlib.sha256(file[HEAD.size:]).digest() != digest:
            raise TritloomError("the map was altered or damaged; copy it again, or build again")
        found = json.loads(zlib.decompress(file[HEAD.size:]))
        blocks = [Block(number, width, tuple(column and Column(*column) for column in columns))
                  for number, width, columns in found["blocks"]]
        try:
            config = Config(**found["config"])
        except (TypeError, ValueError) as error:
            raise TritloomError("the bitstream is of another version of this program; build again") from error
        return SwapMap(config, base64.b64decode(found["firmware"]), found["digest"], blocks)

    def put(self, image: Image, bitstream: bytes) -> bytes:
        """The bitstream with an image in place of what it held.

        Raises
        ------
        TritloomError: the bitstream is not the one of this map, or was altered; or the image does not fit.
        """
        changed = Bitstream(bitstream)
        if changed.digest(block.number for block in self.blocks) != self.digest:
            raise TritloomError("bitstream and map do not belong together, or one of them was altered; build again")
        fill_blocks(changed, self.blocks, block_memories(image.require(self.config), self.firmware))
        return bytes(changed.data)


def map_of(bitstream: Path) -> Path:
    """Where the map of a bitstream lies."""
    return bitstream.with_suffix(MAP_SUFFIX)


def swap(bitstream: Path, model: Path, output: Path) -> tuple[Image, int]:
    """Write a bitstream with another model, and its map beside it.

    Parameters
    ----------
    bitstream : from a build; its map lies beside it.
    model : image file or model directory.
    output : the new bitstream; may be ``bitstream``.

    Returns
    -------
    The image, and the number of block RAMs that it takes.

    Raises
    ------
    TritloomError: a file is missing, damaged or cannot be written, the files do not belong together, or the model does
        not fit.
    """
    if output.suffix == MAP_SUFFIX:
        raise TritloomError(f"{output}: a bitstream must not be named like its map; choose another name")
    with _about(bitstream):
        routed = _read(bitstream)
    beside = map_of(bitstream)
    if not beside.exists():
        raise TritloomError(f"{bitstream}: its map {beside.name} is not beside it; copy it there, or build again")
    with _about(beside):
        found = SwapMap.parse(_read(beside))
    if found.config.weight_source == "sdram":
        raise TritloomError(f"{bitstream}: the weights of {found.config.name} lie in SDRAM; use `tritloom load`")
    config = found.config
    image = Image.load(model) if model.is_file() else compile_checkpoint(load_checkpoint(model, config), config)
    with _about(bitstream):
        changed = found.put(image, routed)
    write_atomically({map_of(output): found.file, output: changed})
    return image, len(found.blocks)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TritloomError(f"larger than {MAX_FILE_BYTES} bytes; this is no file of a build")
        return path.read_bytes()
    except OSError as error:
        raise TritloomError(f"cannot be read ({error.strerror})") from error


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Begin the message of an error with the file that it is about."""
    try:
        yield
    except TritloomError as error:
        raise TritloomError(f"{path}: {error}") from error
