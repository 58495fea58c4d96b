"""Makes generated Verilog fit for simulation."""

import re

_BLOCK = re.compile(r"^  initial begin\n((?:    \S+\[\d+\] = \d+'h[0-9a-f]+;\n)+)  end\n", re.MULTILINE)
_ENTRY = re.compile(r"    (\S+)\[(\d+)\] = \d+'h([0-9a-f]+);\n")

_CONSTANT = re.compile(r"^  always @\*\n    (\S+ = \d+'h[0-9a-f]+;)$", re.MULTILINE)


def start_constants(verilog: str) -> str:
    """Give constant bits their value at the start: ``always @*`` that reads nothing would never run."""
    return _CONSTANT.sub(r"  initial\n    \1", verilog)


def split_memories(verilog: str) -> tuple[str, dict[str, str]]:
    """The Verilog with ``$readmemh`` in place of initial contents, and the files by name.

    As statements the contents would be most of the text of a model that lives in block RAM, and of its build time.
    """
    files: dict[str, str] = {}

    def move(match: re.Match[str]) -> str:
        entries = _ENTRY.findall(match[1])
        memory = entries[0][0]
        if any(name != memory for name, _, _ in entries):
            return match[0]
        file = f"memory_{len(files)}.hex"
        files[file] = "".join(f"@{int(index):x} {value}\n" for _, index, value in entries)
        return f'  initial $readmemh("{file}", {memory});\n'

    return _BLOCK.sub(move, verilog), files
