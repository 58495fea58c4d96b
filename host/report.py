"""What a generation came to: one JSON object, or a table for people."""

from rich.table import Table

from host.session import Generation, Token

WORD_BYTES = 4              # of the weight stream
SDRAM_CYCLE_BYTES = 2       # a 16-bit bus at its peak


def summary(generation: Generation, *, text: str, clock_hz: int, provenance: str) -> dict[str, object]:
    """Everything measured, in the keys of ``tritloom run --json``.

    The lists have one entry per generated token; a token that shared its pass with the one after it took no cycles of
    its own. The pass that brings the first generated token may read the end of the prompt, too.
    """
    generated = [done for done in generation.tokens if done.generated]
    prompt = [done for done in generation.tokens if not done.generated]
    counters = generation.counters
    cycles = [done.cycles for done in generated]
    passes = sum(count > 0 for count in cycles)
    sdram_cycles = counters["sdram_cycles"]
    weight_bytes = counters["stream_words"] * WORD_BYTES
    return {
        "tokens": [done.token for done in generated],
        "text": text,
        "golden_equal": first_difference(generation) is None,
        "cycles_per_token": cycles,
        "predicted_cycles_per_token": [done.predicted for done in generated],
        "tokens_per_second": clock_hz * len(cycles) / sum(cycles) if cycles else None,
        "tokens_per_pass": len(cycles) / passes if passes else None,
        "prompt": {"tokens": len(prompt), "cycles": sum(done.cycles for done in prompt)},
        "clock_hz": clock_hz,
        "sdram": {
            "weight_bytes": weight_bytes,
            "other_bytes": counters["other_words"] * WORD_BYTES,
            "cycles": sdram_cycles,
            "refresh_cycles": counters["refresh_cycles"],
            "peak_fraction": weight_bytes / (sdram_cycles * SDRAM_CYCLE_BYTES) if sdram_cycles else None,
        },
        "stalls": {"issue": counters["issue_stall"], "weight": counters["weight_stall"]},
        "counters": counters,
        "stopped": generation.stopped or None,
        "provenance": provenance,
    }


def first_difference(generation: Generation) -> Token | None:
    """The first token that is not the golden model's."""
    return next((done for done in generation.tokens if done.token != done.golden), None)


def table(result: dict) -> Table:
    """The counters of a result of ``summary``."""
    out = Table(title=f"counters ({result['provenance']})", title_justify="left")
    out.add_column("counter")
    out.add_column("value", justify="right")
    cycles, predicted = result["cycles_per_token"], result["predicted_cycles_per_token"]
    counters, sdram = result["counters"], result["sdram"]
    out.add_row("tokens generated", f"{len(cycles)}")
    out.add_row("  before the first", f"{result['prompt']['tokens']} in {result['prompt']['cycles']:,} cycles")
    out.add_row("tokens equal the golden model", "yes" if result["golden_equal"] else "NO")
    if cycles:
        out.add_row("cycles per token, mean", f"{sum(cycles) / len(cycles):,.1f}")
        out.add_row("  predicted, mean", f"{sum(predicted) / len(predicted):,.1f}")
        passes = [pair for pair in zip(cycles, predicted, strict=True) if pair[0]]
        exact = sum(took == expected for took, expected in passes)
        least, most = min(passes)[0], max(passes)[0]
        out.add_row("cycles per pass, least and most", f"{least:,} and {most:,}")
        out.add_row("  passes exactly as predicted", f"{exact} of {len(passes)}")
        out.add_row("  tokens per pass", f"{result['tokens_per_pass']:.2f}")
        out.add_row(f"tokens per second at {result['clock_hz'] / 1e6:g} MHz", f"{result['tokens_per_second']:,.1f}")
    total = counters["cycles"]
    for unit in ("engine", "vector", "scalar", "attention", "sampler", "rotary"):
        out.add_row(f"{unit} busy", _share(counters[f"{unit}_busy"], total))
    for cause, value in result["stalls"].items():
        out.add_row(f"{cause} stall", _share(value, total))
    if sdram["cycles"]:
        out.add_row("SDRAM weight bytes", f"{sdram['weight_bytes']:,}")
        out.add_row("SDRAM other bytes", f"{sdram['other_bytes']:,}")
        out.add_row("SDRAM refresh cycles", _share(sdram["refresh_cycles"], sdram["cycles"]))
        out.add_row("SDRAM share of its peak rate", f"{sdram['peak_fraction']:.1%}")
    return out


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"
