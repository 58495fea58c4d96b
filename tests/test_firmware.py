"""The firmware build, and that its constants are those of the tables and the documentation."""

import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from rtl import firmware_build
from rtl.csr_map import COUNTERS, ENGINE_ADDRESS_BITS, ENGINE_CSRS, Code, Message, c_header
from rtl.firmware_build import FirmwareError, build_firmware
from tests.bench import ROOT


def test_firmware_is_small() -> None:
    """It fits half of the RAM, starts with the reset code, and comes out the same twice."""
    firmware = build_firmware(ROOT / "build" / "firmware")
    assert len(firmware) < 8192, f"firmware has {len(firmware)} bytes"
    assert len(firmware) % 4 == 0
    assert firmware == build_firmware(ROOT / "build" / "firmware")


def test_firmware_must_fit(tmp_path: Path) -> None:
    """A RAM without room for code and stack stops the build with one line."""
    with pytest.raises(FirmwareError, match="does not compile: .*(1 KiB|overflow|will not fit)") as caught:
        build_firmware(tmp_path, ram_bytes=4096)
    assert "\n" not in str(caught.value)


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the compiler the message says what to install."""
    def nothing(name: str) -> ModuleSpec | None:
        assert name == "ziglang"
        return None

    monkeypatch.setattr(firmware_build, "find_spec", nothing)
    with pytest.raises(FirmwareError, match="^no RISC-V compiler: install it with `pip install ziglang`$"):
        build_firmware(tmp_path)


def test_header_is_unambiguous() -> None:
    """No name is defined twice: a register and a code with one name would silently be the later one."""
    names = re.findall(r"^#define (\w+)", c_header(), re.MULTILINE)
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
    assert len(ENGINE_CSRS) <= 1 << ENGINE_ADDRESS_BITS
    assert len(COUNTERS) <= 16


def test_documentation_lists_every_message_and_code() -> None:
    """docs/protocol.md names each message with its type and each code with its number."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    for message in Message:
        assert f"| {message:02X} | {message.name} |" in text, f"{message.name} is not documented as {message:02X}"
    for code in Code:
        assert f"| {code.value} | {code.name} |" in text, f"{code.name} is not documented as {code.value}"
