"""The console that tables are printed on: as wide as a terminal, or as a log can be read."""

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
