"""Compiles the firmware of the CPU at build time."""

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rtl.csr_map import RAM_BYTES, c_header

SOURCE = Path(__file__).resolve().parent.parent / "firmware"
IMAGE_ID_AT = 4            # byte address of the word for the image's identity, see firmware/start.S
FLAGS = ("-target", "riscv32-freestanding", "-mcpu=generic_rv32", "-std=c11", "-Wall", "-Wextra", "-Wconversion",
         "-Wno-sign-conversion", "-Werror", "-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-sanitize=all",
         "-ffunction-sections", "-Wl,--gc-sections")


class FirmwareError(Exception):
    """The firmware could not be built; the message is one line that says what to do."""


def build_firmware(build_dir: Path, *, ram_bytes: int = RAM_BYTES) -> bytes:
    """Compile ``firmware/`` and return the contents of the CPU's RAM from address 0.

    Baud rate and clock are matters of the gateware: UART divisor and microsecond timer are hardware.

    Parameters
    ----------
    build_dir : where the generated header, the ELF file and the compiler's cache go; created if missing.
    ram_bytes : size of the RAM.

    Raises
    ------
    FirmwareError: the compiler is missing, or compiling or linking failed.
    """
    build_dir.mkdir(parents=True, exist_ok=True)
    (build_dir / "csr.h").write_text(c_header())
    sources = [SOURCE / "start.S", *sorted(SOURCE.glob("*.c"))]
    return compile_program("firmware", sources, [build_dir, SOURCE], build_dir, ram_bytes=ram_bytes)


def compile_program(name: str, sources: Sequence[Path], includes: Sequence[Path], build_dir: Path, *, ram_bytes: int,
                    optimise: str = "-Os") -> bytes:
    """Compile and link a program for the CPU; returns the contents of its RAM from address 0.

    Parameters
    ----------
    name : of the program, in messages and files.
    sources : C and assembly files.
    includes : folders of headers and of binary files.
    build_dir : where the ELF file and the compiler's cache go; created if missing.
    ram_bytes : size of the RAM.
    optimise : the compiler's option.

    Raises
    ------
    FirmwareError: the compiler is missing, or compiling or linking failed.
    """
    if find_spec("ziglang") is None:
        raise FirmwareError("no RISC-V compiler: install it with `pip install ziglang`")
    build_dir.mkdir(parents=True, exist_ok=True)
    script = build_dir / "link.ld"
    script.write_text((SOURCE / "link.ld").read_text().replace("RAM_BYTES", str(ram_bytes)))
    elf, log = build_dir / f"{name}.elf", build_dir / f"{name}.log"
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(build_dir / "cache"),
                                "ZIG_LOCAL_CACHE_DIR": str(build_dir / "cache")}
    paths = [*(part for folder in includes for part in ("-I", folder)), "-T", script, *sources, "-o", elf]
    command = [sys.executable, "-m", "ziglang", "cc", optimise, *FLAGS, *paths]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode or result.stderr:
        log.write_text(result.stderr)
        first = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
        raise FirmwareError(f"{name} does not compile: {first} (all messages: {log})")
    return loadable(elf.read_bytes())


def with_image_id(firmware: bytes, image_id: int) -> bytes:
    """The firmware of a bitstream that holds an image; at power-up it reports this identity.

    The identity lies in the firmware and not in a register's reset value, because block RAM is all that can be changed
    in a routed bitstream.

    Parameters
    ----------
    firmware : from `build_firmware`.
    image_id : 0 for no image.
    """
    return firmware[:IMAGE_ID_AT] + image_id.to_bytes(4, "little") + firmware[IMAGE_ID_AT + 4:]


def loadable(elf: bytes) -> bytes:
    """The bytes that the segments of a 32-bit ELF file put into memory from address 0, padded to whole words."""
    (table,) = struct.unpack_from("<I", elf, 28)
    entry_bytes, entries = struct.unpack_from("<HH", elf, 42)
    memory = bytearray()
    for index in range(entries):
        kind, offset, _, address, size = struct.unpack_from("<5I", elf, table + index * entry_bytes)
        if kind != 1 or size == 0:
            continue
        memory.extend(bytes(max(0, address + size - len(memory))))
        memory[address:address + size] = elf[offset:offset + size]
    return bytes(memory) + bytes(-len(memory) % 4)
