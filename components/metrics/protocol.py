"""How a number was measured: what must be the same before two numbers are compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The way in which a metric is computed, in words that stand beside every number.

    The same metric under another protocol is another number: Deg. of one model was published as
    60.07 and as 35.71.
    """

    name: str
    network: str = "none"
    alignment: str = "none"
    colour: str = "RGB"
    resize: str = "none"
    left_out: str = "nothing"
    library: str = "pyiqa"

    def measured(self, files: Mapping[str, str]) -> dict[str, Any]:
        """Return the protocol as JSON, with the library's version.

        `files` are the networks' files, by name, and their SHA-256. A network with another content
        makes another protocol.
        """
        library = f"{self.library} {metadata.version(self.library)}"
        return {**asdict(self), "library": library, "files": dict(files)}


def told(protocol: Mapping[str, Any] | str) -> str:
    """Write a protocol of a metrics file in one line. Older files have one line already."""
    if isinstance(protocol, str):
        return protocol
    kept = [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in protocol.items()
        if key not in ("name", "files") and value not in ("none", "nothing")
    ]
    hashes = [f"{file} {sha256[:12]}" for file, sha256 in protocol.get("files", {}).items()]
    return "; ".join([str(protocol["name"]), *kept, *hashes])


def title(name: str, protocol: Mapping[str, Any] | str) -> str:
    """Return a metric's name, with that of its protocol unless pyiqa's is meant: `Deg. (vqfr)`."""
    if isinstance(protocol, str) or protocol["name"].startswith("pyiqa "):
        return name
    return f"{name} ({protocol['name']})"
