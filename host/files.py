"""Writing files so that nobody ever sees half of one."""

import os
from collections.abc import Mapping
from pathlib import Path

from host.errors import TritloomError


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files completely under other names, then rename them all.

    Parameters
    ----------
    contents : by path.

    Raises
    ------
    TritloomError: one of them cannot be written; then none of them changed, unless a rename failed.
    """
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    path = Path()
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(None, "it is a directory")
            partials[path].write_bytes(content)
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise TritloomError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
