"""Cycles each operation keeps its unit busy. Pure Python: the compiler predicts with it, tests assert it."""

from rtl.config import Config
from rtl.isa import Op
