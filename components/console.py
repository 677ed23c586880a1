"""The console that tables are printed on: as wide as a terminal, or as a log can be read."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 120  # a log has no width of its own; 80 columns would cut tables and break hashes


def stdout(*, soft_wrap: bool = True, highlight: bool = True, markup: bool = True) -> "Console":
    """Make Rich's console on stdout."""
    from rich.console import Console

    return Console(
        width=None if sys.stdout.isatty() else LOG_WIDTH,
        soft_wrap=soft_wrap,
        highlight=highlight,
        markup=markup,
    )


def printable(text: object, *, keep: str = "") -> str:
    r"""Return text for one line: what is not printable becomes an escape, as `\n` or `\xff`.

    So a file's name neither breaks a line nor controls a terminal. Characters in `keep` stay.
    """
    return "".join(one if one.isprintable() or one in keep else _escape(one) for one in str(text))


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{os.fsencode(character).hex()}"
    return character.encode("unicode_escape").decode()
