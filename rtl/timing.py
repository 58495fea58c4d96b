"""Cycles each operation keeps its unit busy. Pure Python: the compiler predicts with it, tests assert it."""

from rtl.config import Config
from rtl.isa import Op

ISSUE_CYCLES = 2           # between two operations that wait for nothing
TOKEN_CYCLES = 3           # from the issue of END to that of the next token's first operation
