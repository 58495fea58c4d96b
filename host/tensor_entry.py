"""What a container says of one tensor, and the only way its bytes are read: by position, one tensor at a time."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from host.errors import TritloomError

MAX_RANK = 8
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a container whose header has been checked against the size of its file.

    Parameters
    ----------
    name : as the container spells it.
    dtype : element or block format, in the container's spelling (``U8``, ``BF16``, ``TQ1_0``, ...).
    shape : elements per dimension, outermost first; the last one is contiguous.
    path : file that holds it.
    offset : first byte in that file.
    size_bytes : bytes it takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size_bytes: int

    def read(self) -> np.ndarray:
        """Its bytes as stored: uint8 [size_bytes].

        Raises
        ------
        TritloomError: the file cannot be read, or became shorter since its header was checked.
        """
        return self._read(0, self.size_bytes)

    def chunks(self) -> Iterator[np.ndarray]:
        """Its bytes in order, ``CHUNK_BYTES`` at a time, for tensors that need not be in memory at once."""
        for start in range(0, self.size_bytes, CHUNK_BYTES):
            yield self._read(start, min(CHUNK_BYTES, self.size_bytes - start))

    def _read(self, start: int, count: int) -> np.ndarray:
        try:
            data = np.fromfile(self.path, np.uint8, count, offset=self.offset + start)
        except OSError as error:
            raise TritloomError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if len(data) != count:
            raise TritloomError(f"{self.path}: tensor {self.name} ends early; the file changed, fetch it again")
        return data


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """A file open for reading and its size in bytes; pipes and devices, which could block, are refused.

    Raises
    ------
    TritloomError: it cannot be opened, or is no regular file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TritloomError(f"{path}: not a regular file; give the checkpoint's own file")
        file = open(path, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TritloomError(f"{path}: cannot be read ({reason}); the checkpoint needs it") from error
    return file, os.fstat(file.fileno()).st_size


def read_json(path: Path, max_bytes: int) -> dict[str, object]:
    """The JSON object in a file of at most ``max_bytes`` bytes.

    Raises
    ------
    TritloomError: the file is missing, too large, or not one JSON object with distinct keys.
    """
    file, size = open_regular(path)
    with file:
        if size > max_bytes:
            raise TritloomError(f"{path}: larger than {max_bytes} bytes; this is not a checkpoint's JSON file")
        data = file.read(max_bytes)
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise TritloomError(f"{path}: not valid JSON ({error}); fetch it again") from error


def parse_json_object(data: bytes) -> dict[str, object]:
    """The one JSON object in ``data`` (UTF-8).

    Raises
    ------
    ValueError: not JSON, not an object, nested too deep, a key twice, or a number that is not finite.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one key twice")
    return found


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def check_layout(entries: list[TensorEntry], *, start: int, end: int) -> None:
    """Check that tensors lie between two positions of their file and share no byte.

    Raises
    ------
    ValueError: one lies outside or two overlap; the message names them.
    """
    previous = None
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size_bytes)):
        if entry.offset < start:
            raise ValueError(f"tensor {entry.name!r} starts inside the header")
        if entry.offset + entry.size_bytes > end:
            missing = entry.offset + entry.size_bytes - end
            raise ValueError(f"truncated: tensor {entry.name!r} ends {missing} bytes after the file")
        if previous is not None and entry.offset < previous.offset + previous.size_bytes:
            raise ValueError(f"tensors {previous.name!r} and {entry.name!r} overlap")
        previous = entry
