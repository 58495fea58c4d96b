"""The command ``tritloom``."""

import sys
from collections.abc import Sequence

import typer

from host.cli_device import info, load, run, selftest
from host.cli_models import check, compile_model, fit, import_model, list_program, swap_model
from host.cli_speed import bench, show_timeline
from host.errors import TritloomError

COMMANDS = {
    "run": run, "load": load, "info": info, "selftest": selftest, "compile": compile_model, "swap": swap_model,
    "list": list_program, "fit": fit, "timeline": show_timeline, "bench": bench, "import": import_model, "check": check,
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Runs ternary language models on Tritloom, simulated or on a board.")
for name, command in COMMANDS.items():
    app.command(name)(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; a `TritloomError` becomes one line on the error stream and exit status 1."""
    try:
        app(arguments)
    except TritloomError as error:
        print(f"tritloom: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
