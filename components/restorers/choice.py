"""The names of the ways to choose among several first restorations.

Without torch: the command line reads them.
"""

from typing import Literal

Choice = Literal["gate", "local", "identity"]
