"""Quantisation-aware training of the small ternary language model shipped in models/stories1m."""
