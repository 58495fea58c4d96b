"""Published speeds of other open accelerators for language models, as their authors state them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One published rate.

    Parameters
    ----------
    name : of the project.
    model, board : what ran on what.
    tokens_per_second : as published.
    condition : at which it holds.
    measured : whether the authors measured it on hardware as a whole.
    source : repository and commit.
    """

    name: str
    model: str
    board: str
    tokens_per_second: float
    condition: str
    measured: bool
    source: str


PEERS = (
    Peer("bitnet-kv260", "BitNet b1.58 2B4T", "KV260", 18.57, "after a prompt of 250 tokens", True,
         "MerlijnW70/bitnet-kv260@15f9e7f"),
    Peer("bitnet-kv260", "BitNet b1.58 2B4T", "KV260", 13.87, "after a prompt of 1,800 tokens", True,
         "MerlijnW70/bitnet-kv260@15f9e7f"),
    Peer("Ternarycore", "ternary Qwen3 0.6B", "Arty A7-100T", 0.35, "position 0", True,
         "Ternarycore/ternarycore@df0d30a"),
    Peer("Ternarycore", "ternary Qwen3 0.6B", "Arty A7-100T", 0.215, "position 511", True,
         "Ternarycore/ternarycore@df0d30a"),
    Peer("ternfpga", "ternary 0.7B", "Arty A7-35T", 0.11, "composed of cycles measured per unit", False,
         "Neumann-Labs/ternfpga@5def915"),
    Peer("Torch2RISCV", "SmolLM2 135M, int8", "KV260", 27.0, "one sequence", True, "jonathansong/Torch2RISCV v2.3"),
    Peer("ZyboGPT", "ternary characters, 115 K", "Zybo Z7-10", 3072, "150 MHz", True, "mpai17/ZyboGPT@3410ce3"),
    Peer("trinity", "ternary blocks without attention", "QMTech XC7A100T", 63, "92 MHz", True,
         "gHashTag/trinity, report of 2026-03-10"),
    Peer("TALOS-V2", "microGPT, 4,192 weights of 16 bits", "DE1-SoC", 53_000, "56.25 MHz", True,
         "Luthiraa/TALOS-V2@86d346e"),
    Peer("gateGPT", "microGPT class, 16 bits", "XUPV5", 60_600, "average, 80 MHz", True, "fguzman82/gateGPT@4a1cd6c"),
)
