"""Options that several commands share, and the console for what is not a result."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rtl.config import SIMULATED_CONFIGS

notes = Console(stderr=True)

Model = Annotated[Path | None, typer.Option("--model", show_default="the configuration's own",
                                            help="Model directory, or an image file.")]
Config = Annotated[str | None, typer.Option("--config", show_default="the smallest for the model, or resident",
                                            help=f"Configuration: {', '.join(SIMULATED_CONFIGS)}.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Let tensors pass that are all zero or hold one value.")]
