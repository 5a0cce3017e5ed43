"""What every `ps-*` command does around its Typer application: errors become one line and a code.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 nothing to connect to, 4 proof refused, 5 answer cut
short; see `planetserve.errors`. 130 after Ctrl-C, as shells expect. A reader of our output that
went away (`ps-ledger nodes | head -1`) is no error.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from planetserve.errors import PlanetServeError

if TYPE_CHECKING:
    import typer

INTERRUPTED_EXIT_CODE = 130


def run(application: typer.Typer) -> NoReturn:
    """Run a command line and end the process; a `PlanetServeError` is shown without traceback."""
    code = 0
    try:
        application()
    except SystemExit as ending:
        code = _code_of(ending)
    except PlanetServeError as error:
        print_error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        code = 0
        _discard_output()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    raise SystemExit(code)


def print_error(message: str) -> None:
    """To standard error, in one line. A message may quote what a peer said, so characters that
    a terminal would act on are shown as blanks."""
    shown = "".join(character if character.isprintable() else " " for character in message)
    print(f"error: {shown}", file=sys.stderr)


def _code_of(ending: SystemExit) -> int:
    if ending.code is None:
        return 0
    if isinstance(ending.code, int):
        return ending.code
    print_error(str(ending.code))
    return 1


def _discard_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush succeeds."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
