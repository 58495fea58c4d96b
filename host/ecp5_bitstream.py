"""Contents of block RAMs in an ECP5 bitstream, read and replaced in place.

A bitstream is a list of commands. Each block RAM that has contents is one pair of them, the block's number and 256
frames of eight 9-bit values, followed by a CRC over both; ecppack does not compress them.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from fastcrc import crc16

from host.errors import TritloomError

PREAMBLE = bytes.fromhex("ffffbdb3")
ADDRESS = bytes.fromhex("f6000000")        # LSC_EBR_ADDRESS, then the block's number times 2,048 in 32 bits
WRITE = bytes.fromhex("b2d00100")          # LSC_EBR_WRITE, with CRC, 256 frames
NUMBER_SHIFT = 11
VALUES, VALUE_BITS = 2048, 9
HEAD_BYTES = len(ADDRESS) + 4 + len(WRITE)
DATA_BYTES = VALUES * VALUE_BITS // 8
CRC_BYTES = 2


class Bitstream:
    """A bitstream whose block RAM contents can be replaced.

    Parameters
    ----------
    data : the file.

    Members
    -------
    data : the file as it is now.

    Raises
    ------
    TritloomError: it is no bitstream, or the CRC of a block differs.
    """

    def __init__(self, data: bytes) -> None:
        if PREAMBLE not in data[:1024]:
            raise TritloomError("this is not a bitstream of an ECP5")
        self.data = bytearray(data)
        self._heads: dict[int, int] = {}
        at = data.find(ADDRESS)
        while at >= 0:
            number = int.from_bytes(data[at + len(ADDRESS):at + len(ADDRESS) + 4], "big")
            end = at + HEAD_BYTES + DATA_BYTES
            if data[at + HEAD_BYTES - len(WRITE):at + HEAD_BYTES] == WRITE and end + CRC_BYTES <= len(data):
                if self._crc(at) != data[end:end + CRC_BYTES]:
                    raise TritloomError(f"the contents of block RAM {number >> NUMBER_SHIFT} do not match their CRC")
                self._heads[number >> NUMBER_SHIFT] = at
                at = end - 1
            at = data.find(ADDRESS, at + 1)

    @property
    def contents(self) -> dict[int, np.ndarray]:
        """Bits of the block RAMs by number, uint8 [2048, 9] each, low bit first."""
        found = {}
        for number, head in self._heads.items():
            data = np.frombuffer(bytes(self.data[head + HEAD_BYTES:head + HEAD_BYTES + DATA_BYTES]), np.uint8)
            found[number] = np.unpackbits(data).reshape(VALUES, VALUE_BITS)[:, ::-1]
        return found

    def replace(self, number: int, bits: np.ndarray) -> None:
        """Give a block other contents.

        Parameters
        ----------
        number : of the block; it has contents already.
        bits : uint8 [2048, 9], low bit first.
        """
        head = self._heads[number]
        end = head + HEAD_BYTES + DATA_BYTES
        self.data[head + HEAD_BYTES:end] = np.packbits(bits[:, ::-1].ravel()).tobytes()
        self.data[end:end + CRC_BYTES] = self._crc(head)

    def digest(self, without: Iterable[int]) -> str:
        """SHA-256 of everything but the contents of some blocks, in hexadecimal.

        Parameters
        ----------
        without : numbers of these blocks; those that have no contents count as left out too.
        """
        rest = bytearray(self.data)
        for number in without:
            if number in self._heads:
                start = self._heads[number] + HEAD_BYTES
                rest[start:start + DATA_BYTES + CRC_BYTES] = bytes(DATA_BYTES + CRC_BYTES)
        return hashlib.sha256(rest).hexdigest()

    def _crc(self, head: int) -> bytes:
        """CRC of the block whose first command is at ``head``."""
        return crc16.umts(bytes(self.data[head:head + HEAD_BYTES + DATA_BYTES])).to_bytes(CRC_BYTES, "big")
