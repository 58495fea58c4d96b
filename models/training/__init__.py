"""Quantisation-aware training of the small ternary language models shipped in models/."""
