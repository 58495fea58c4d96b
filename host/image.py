"""The image: everything one accelerator needs to run one model, in one file.

Layout of version 3, little-endian: 8 bytes ``TRITLOOM``, u32 version, u32 manifest length, manifest (JSON, UTF-8),
then the sections at the offsets the manifest gives, each with its SHA-256.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from host.errors import TritloomError
from host.listing import program_listing
from host.packing import absolute_signs, from_base3, from_codes, words_to_codes
from host.predict import predict
from rtl.config import DRAFT_TAG_BITS, Config
from rtl.csr_map import Space
from rtl.isa import PROGRAM_BITS, Op, Opcode
from rtl.timing import BASE3_WORD_TRITS
from sim.token_loop import Pass

MAGIC = b"TRITLOOM"
VERSION = 3
MAX_IMAGE_BYTES = 1 << 28
PROGRAM_PIECES = math.ceil(PROGRAM_BITS / 32)


@dataclass(frozen=True)
class Image:
    """A compiled model.

    Members
    -------
    config : the accelerator it was compiled for.
    model : name of the model and its dimensions, from the checkpoint.
    sections : ``program`` uint32 [ops, 3]; ``weights`` uint64 [tiles, rows * row_words] (block RAM) or ``stream`` uint8
        (base-3 bytes); ``embedding`` uint8 [vocab, embed_beats * lanes] offset binary; ``rotary`` int16
        [2, 2**fine, head_dim/2, 2]; ``tokenizer`` uint8; with a drafter ``drafts`` uint32 [draft_sets, DRAFT_WAYS], see
        `host.drafts.draft_table`.
    """

    config: Config
    model: dict[str, object]
    sections: dict[str, np.ndarray]

    @cached_property
    def program(self) -> list[Op]:
        """The token program, decoded."""
        words = self.sections["program"].astype(object)
        return [Op.decode(int(a | b << 32 | c << 64)) for a, b, c in words]

    @cached_property
    def image_id(self) -> int:
        """32-bit identity of configuration and contents."""
        digest = hashlib.sha256(str(self.geometry).encode())
        for name in sorted(self.sections):
            digest.update(name.encode() + hashlib.sha256(self.sections[name].tobytes()).digest())
        return int.from_bytes(digest.digest()[:4], "little")

    @property
    def geometry(self) -> int:
        return self.config.geometry

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def tokenizer(self) -> bytes:
        return self.sections["tokenizer"].tobytes()

    @property
    def stream_words(self) -> int:
        """32-bit words of weights that one token takes from SDRAM."""
        return len(self.sections["stream"]) // 4 if "stream" in self.sections else 0

    @property
    def prompt_words(self) -> int:
        """32-bit words of weights that a pass takes from SDRAM which only reads the prompt; 0 if there is none such."""
        read = next((index for index, op in enumerate(self.program) if op.opcode == Opcode.SECTION and op.reads), 0)
        tiles = sum(op.groups * op.planes * op.blocks for op in self.program[:read] if op.opcode == Opcode.MATVEC)
        return tiles * self.config.rows * self.config.columns // BASE3_WORD_TRITS

    @property
    def manifest(self) -> dict[str, object]:
        """What the file says of itself."""
        offset, entries = 0, {}
        for name, array in self.sections.items():
            entries[name] = {
                "offset": offset, "dtype": array.dtype.str, "shape": list(array.shape),
                "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
            offset += array.nbytes
        return {
            "model": self.model, "config": asdict(self.config), "geometry": self.geometry, "image_id": self.image_id,
            "encoding": self._encoding, "sections": entries}

    @property
    def _encoding(self) -> str:
        if "weights" not in self.sections:
            return "base3"
        return "codes5 of four trits" if self.config.has_sparse_codes else "codes5"

    def save(self, path: str | Path) -> None:
        """Write atomically: a temporary file beside the target, then a rename."""
        target = Path(path)
        manifest = json.dumps(self.manifest, indent=1).encode()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with open(temporary, "wb") as file:
                file.write(MAGIC + struct.pack("<II", VERSION, len(manifest)) + manifest)
                for array in self.sections.values():
                    file.write(array.tobytes())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise TritloomError(f"{target}: cannot be written ({error.strerror})") from error

    @staticmethod
    def load(path: str | Path) -> "Image":
        """Read and verify an image.

        Raises
        ------
        TritloomError: not an image, another version, truncated, or damaged.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_IMAGE_BYTES:
                raise TritloomError(f"{path}: larger than {MAX_IMAGE_BYTES} bytes; this is not an image")
            data = path.read_bytes()
        except OSError as error:
            raise TritloomError(f"{path}: cannot be read ({error.strerror})") from error
        if data[:8] == MAGIC and data[8:12] != struct.pack("<I", VERSION):
            raise TritloomError(f"{path}: an image of another version of this program; compile the model again")
        try:
            return _parse(data)
        except (ValueError, KeyError, TypeError, struct.error, OverflowError, RecursionError) as error:
            raise TritloomError(f"{path}: damaged image ({error}); compile or copy it again") from error

    def require(self, config: Config) -> "Image":
        """This image, if it fits a configuration.

        Raises
        ------
        TritloomError: it was compiled for another geometry.
        """
        if self.geometry != config.geometry:
            raise TritloomError(
                f"the image was compiled for geometry {self.geometry:08x} ({self.config.name}), "
                f"this is {config.geometry:08x} ({config.name}); compile the model for it")
        return self

    def embedding(self) -> np.ndarray:
        """int64 [vocab, embed_beats, lanes] signed embedding integers."""
        c = self.config
        offset = (3**c.embed_planes - 1) // 2
        return self.sections["embedding"].astype(np.int64).reshape(-1, c.embed_beats, c.lanes) - offset

    def rotary(self) -> np.ndarray:
        return self.sections["rotary"]

    def tiles(self) -> np.ndarray:
        """Trits int8 [tiles, rows, columns] in the order of the packed weights."""
        c = self.config
        if "weights" in self.sections:
            words = self.sections["weights"].reshape(-1, c.rows, c.row_words)
            return from_codes(absolute_signs(words_to_codes(words, c.codes)), c.columns, c.code_trits)
        trits = from_base3(self.sections["stream"])
        count = len(trits) // (c.rows * c.columns)
        return trits[: count * c.rows * c.columns].reshape(count, c.rows, c.columns)

    def matrices(self) -> dict[int, np.ndarray]:
        """Per MATVEC operation, by program index: float64 [rows, columns] of combined planes."""
        tiles, position, out = self.tiles(), 0, {}
        for index, op in enumerate(self.program):
            if op.opcode != Opcode.MATVEC:
                continue
            start = op.address if "weights" in self.sections else position
            count = op.groups * op.planes * op.blocks
            position += count
            block = tiles[start : start + count].reshape(op.groups, op.planes, op.blocks, *tiles.shape[1:])
            power = 3 ** np.arange(op.planes - 1, -1, -1)
            combined = np.einsum("p,gpbrc->grbc", power, block.astype(np.int64))
            out[index] = combined.reshape(op.groups * tiles.shape[1], -1).astype(np.float64)
        return out

    def load_words(self) -> Iterator[tuple[Space, int, np.ndarray]]:
        """What the loader writes: (space, first address, uint32 words), see docs/architecture.md."""
        c = self.config
        program = np.pad(self.sections["program"], ((0, 0), (0, 4 - PROGRAM_PIECES)))
        yield Space.PROGRAM, 0, program.ravel()
        if "weights" in self.sections:
            words = self.sections["weights"].reshape(-1, c.rows, c.row_words)
            strides = ((0, 0), (0, -c.rows % _stride(c.rows)), (0, -c.row_words % _stride(c.row_words)))
            padded = np.pad(words, strides)
            pieces = np.stack([padded & np.uint64(0xFFFFFFFF), padded >> np.uint64(32)], -1)
            yield Space.WEIGHTS, 0, pieces.astype(np.uint32).ravel()
        else:
            yield Space.SDRAM, 0, self.sections["stream"].view("<u4")
        yield Space.EMBEDDING, 0, wide_words(self.sections["embedding"].reshape(-1, c.lanes), c.embed_bits)
        rotary = self.sections["rotary"].view(np.uint16).astype(np.uint32)
        pairs = rotary.shape[2]
        yield Space.ROTARY, 0, np.pad(rotary, ((0, 0), (0, 0), (0, _stride(pairs) - pairs), (0, 0))).ravel()
        if "drafts" in self.sections:
            yield Space.DRAFTS, 0, wide_words(self.sections["drafts"], DRAFT_TAG_BITS + c.token_bits)

    def listing(self) -> str:
        """The token program as text, with predicted cycles."""
        return program_listing(self.config, self.program)

    def predicted_cycles(self, position: int, *, greedy: bool = True, taken: Pass | None = None, kept: int = 1,
                         speculates: bool = False) -> int:
        """Cycles of the token at a position, or of a pass (stream configuration: without refresh stalls).

        Parameters
        ----------
        taken, kept, speculates : see `host.predict.timeline`.
        """
        return predict(self.config, self.program, position, greedy=greedy, taken=taken, kept=kept,
                       speculates=speculates).cycles


def _stride(count: int) -> int:
    return 1 << (count - 1).bit_length()


def wide_words(values: np.ndarray, bits: int) -> np.ndarray:
    """uint32 pieces of rows of ``bits``-bit values, each row padded to a power of two of pieces."""
    flags = np.unpackbits(values[..., None].astype("<u4").view(np.uint8), axis=-1, count=bits, bitorder="little")
    flat = flags.reshape(len(values), -1)
    pieces = math.ceil(flat.shape[1] / 32)
    padded = np.pad(flat, ((0, 0), (0, _stride(pieces) * 32 - flat.shape[1])))
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4").ravel()


def _parse(data: bytes) -> Image:
    if data[:8] != MAGIC:
        raise ValueError("it does not start with TRITLOOM")
    length, = struct.unpack_from("<I", data, 12)
    manifest = json.loads(data[16 : 16 + length].decode())
    config = Config(**manifest["config"])
    if config.geometry != manifest["geometry"]:
        raise ValueError("its geometry does not match its configuration")
    payload, sections = data[16 + length :], {}
    for name, entry in manifest["sections"].items():
        dtype = np.dtype(entry["dtype"])
        count = math.prod(entry["shape"])
        if not 0 <= entry["offset"] <= entry["offset"] + count * dtype.itemsize <= len(payload):
            raise ValueError(f"section {name} is truncated")
        array = np.frombuffer(payload, dtype, count, entry["offset"]).reshape(entry["shape"])
        if hashlib.sha256(array.tobytes()).hexdigest() != entry["sha256"]:
            raise ValueError(f"section {name} does not match its hash")
        sections[name] = array
    image = Image(config, manifest["model"], sections)
    if image.image_id != manifest["image_id"]:
        raise ValueError("its identity does not match its contents")
    return image
