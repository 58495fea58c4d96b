"""Merges equal modules of an exported design, so that the simulator compiles each kind of block once.

The export gives every instance a module of its own, whose unnamed ports carry numbers that differ between instances.
"""

import re

_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL)
_UNNAMED_PORT = re.compile(r"^  wire .*(?:input|output|inout) (\d+) +(\\port\$\S+)$", re.MULTILINE)
_NAME = re.compile(r"\\port\$\S+")
_CELL = re.compile(r"^  cell (\S+)")
_CONNECT = re.compile(r"^    connect (\S+)(.*)$")


def share_modules(rtlil: str) -> str:
    """RTLIL in which instances of equal modules refer to one of them."""
    modules = {match[2]: (match[1], match[3]) for match in _MODULE.finditer(rtlil)}
    ports = {name: {port: f"\\port_{number}" for number, port in _UNNAMED_PORT.findall(body)}
             for name, (_, body) in modules.items()}
    bodies = {name: _number_ports(body, ports[name], ports) for name, (_, body) in modules.items()}
    while True:
        first: dict[str, str] = {}
        merged = {name: kept for name, body in bodies.items() if (kept := first.setdefault(body, name)) != name}
        if not merged:
            break
        bodies = {name: _rename_cells(body, merged) for name, body in bodies.items() if name not in merged}
    return "".join(f"{modules[name][0]}module {name}\n{body}end\n" for name, body in bodies.items())


def _number_ports(body: str, own: dict[str, str], ports: dict[str, dict[str, str]]) -> str:
    """Name unnamed ports by their number, in the module itself and in the instances in it."""
    lines, cell = [], {}
    for line in body.split("\n"):
        if match := _CELL.match(line):
            cell = ports.get(match[1], {})
        elif match := _CONNECT.match(line):
            expression = _NAME.sub(lambda name: own.get(name[0], name[0]), match[2])
            line = f"    connect {cell.get(match[1], match[1])}{expression}"
        elif "\\port$" in line:
            line = _NAME.sub(lambda name: own.get(name[0], name[0]), line)
        lines.append(line)
    return "\n".join(lines)


def _rename_cells(body: str, merged: dict[str, str]) -> str:
    return re.sub(r"^  cell (\S+)", lambda cell: f"  cell {merged.get(cell[1], cell[1])}", body, flags=re.MULTILINE)
