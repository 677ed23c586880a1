"""The names of the colour fixes: a family has its own, and whoever restores may ask for another.

Without torch: the command line reads them.
"""

from typing import Literal

ColorFix = Literal["none", "wavelet", "adain"]
