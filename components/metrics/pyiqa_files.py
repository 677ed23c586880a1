"""Build networks of pyiqa from files that lie here: it downloads nothing, and prints nothing."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def offline(hub: Path) -> Iterator[None]:
    """Have pyiqa look for its files below `hub`, and build backbones without their own weights.

    pyiqa notes its folder when it is imported, so a TORCH_HOME that is set later would not count.
    Its MANIQA would fetch an ImageNet backbone, whose weights the checkpoint replaces at once.
    """
    from pyiqa.archs import maniqa_arch
    from pyiqa.utils import download_util

    with (
        contextlib.redirect_stdout(io.StringIO()),
        replaced(download_util, "DEFAULT_CACHE_DIR", str(hub / "pyiqa")),
        replaced(maniqa_arch, "timm", _WithoutWeights()),
    ):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a library's module another value of a name, for the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _WithoutWeights:
    def create_model(self, name: str, *, pretrained: bool) -> Any:
        import timm

        del pretrained
        return timm.create_model(name, pretrained=False)
