"""Storage that every machine of a cluster sees: an `s3://` prefix, or a folder that all mount.

`HDRFACE_ROOT` names it. Below it lie, each under a name that depends on its content:

    tables/FINGERPRINT/      the shards of a table, and its manifest, which is written last
    store/FINGERPRINT/       networks, as in a machine's own store (`components.weights.store`)
    files/SHA256          single files: pictures of a source, a detector
    trainings/NAME/       checkpoints of trainings that have not ended
    jobs/JOB/, dvc/       results of the jobs of `hdrface submit`

Credentials for S3 come from where AWS' own tools take them: the environment, `~/.aws`, a role.
"""

import contextlib
import functools
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs as arrow_fs

from components import files

ROOT_VARIABLE = "HDRFACE_ROOT"
# These variables of the driver's environment decide how S3 is reached; workers get the same.
_SETTINGS_PREFIX = "AWS_"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CONNECT_TIMEOUT_S = 10
_ATTEMPTS = 3  # of one request, within an operation
# Of one operation: AWS' library gives up at once on some answers (503 to a streaming read).
_ROUNDS = 7
_FOR_GOOD = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN"),
    *("SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET"),
)
_FIRST_PAUSE_S = 0.25  # and twice as long each time: 16 s in all
_SCRATCH = ".partial"
_CHUNK = 8 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Storage:
    """A folder of files, by name; a file is there as a whole or not at all. It travels to workers.

    `scratch` is where files of a local folder are written before they get their name; in S3, an
    object appears when all of it has arrived. If it `grows`, folders are made as needed.

    Every method raises OSError, naming the file, if the storage cannot be reached.
    """

    url: str  # s3://BUCKET/PREFIX or an absolute path
    scratch: str | None = None
    grows: bool = True

    def __truediv__(self, name: str) -> "Storage":
        return replace(self, url=f"{self.url}/{name}")

    @property
    def is_folder(self) -> bool:
        return not self.url.startswith("s3://")

    @property
    def filesystem(self) -> Any:
        """Return the `pyarrow.fs.FileSystem` of `path`."""
        return _local() if self.is_folder else _s3(urlsplit(self.url).netloc)

    @property
    def path(self) -> str:
        return self.url.removeprefix("s3://")

    def holds(self, path: Path) -> bool:
        """Return whether a path of this machine lies in this folder."""
        return self.is_folder and path.resolve().is_relative_to(Path(self.url).resolve())

    def read(self, name: str) -> bytes:
        """Read a file. Raises: FileNotFoundError."""
        return bytes(self.read_parts(name, lambda opened: opened.read()))

    def read_parts(self, name: str, take: Callable[[pa.NativeFile], T]) -> T:
        """Return what `take` makes of an open file; a retry calls it again. Raises: as `read`."""

        def act(path: str) -> T:
            with self.filesystem.open_input_file(path) as opened:
                return take(opened)

        return self._again(name, act)

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it replaces an older one."""
        self._again(name, lambda path: self._write(path, lambda stream: stream.write(data)))

    def put(self, file: Path, name: str) -> None:
        """Write the content of a local file."""
        with file.open("rb") as opened:

            def copy(stream: pa.NativeFile) -> None:
                opened.seek(0)
                while chunk := opened.read(_CHUNK):
                    stream.write(chunk)

            self._again(name, lambda path: self._write(path, copy))

    def add(self, file: Path, name: str) -> None:
        """Make a finished local file one of this storage: as a link where that is possible.

        It may not be written in place afterwards. Otherwise its content is copied, as by `put`.
        """
        target = Path(self.path) / name
        if self.is_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.stat().st_dev == target.parent.stat().st_dev:
                files.link(file, target)
                return
        self.put(file, name)

    def get(self, name: str, file: Path) -> None:
        """Copy a file to a local one, which is complete only when this returns.

        An older file there is replaced and not written in place: others may be linked to it.
        """

        def copy(path: str) -> None:
            file.unlink(missing_ok=True)
            with self.filesystem.open_input_stream(path) as stream, file.open("wb") as opened:
                while chunk := stream.read(_CHUNK):
                    opened.write(chunk)

        self._again(name, copy)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if there is no such file."""
        info = self._again(name, lambda path: self.filesystem.get_file_info(path))
        return int(info.size) if info.is_file else None

    def sizes(self) -> Mapping[str, int]:
        """Return the size of every file below in bytes, by its name relative to this folder."""
        found = self._again("", lambda path: self.filesystem.get_file_info(_all_below(path)))
        start = len(self.path) + 1
        return {info.path[start:]: int(info.size) for info in found if info.is_file}

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

        def delete(path: str) -> None:
            if self.filesystem.get_file_info(path).is_file:
                self.filesystem.delete_file(path)

        self._again(name, delete)

    def delete_all(self) -> None:
        """Delete this folder and all in it, if it is there."""

        def delete(path: str) -> None:
            if self.filesystem.get_file_info(path).type == arrow_fs.FileType.Directory:
                self.filesystem.delete_dir(path)

        self._again("", delete)

    def _write(self, path: str, fill: Callable[[pa.NativeFile], object]) -> None:
        if self.is_folder:
            self._write_beside(Path(path), fill)
            return
        stream = self.filesystem.open_output_stream(path)
        try:
            fill(stream)
        except BaseException:
            # Arrow cannot cancel a stream: when it is dropped, half of the file becomes an object.
            with contextlib.suppress(OSError):
                stream.close()
                self.filesystem.delete_file(path)
            raise
        stream.close()

    def _write_beside(self, target: Path, fill: Callable[[pa.NativeFile], object]) -> None:
        beside = Path(self.scratch) if self.scratch else target.parent
        if self.grows:
            for folder in {beside, target.parent}:
                folder.mkdir(parents=True, exist_ok=True)
        temporary = beside / f"{target.name}.tmp-{uuid.uuid4().hex}"
        try:
            with pa.OSFile(str(temporary), "wb") as stream:
                fill(stream)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def _again(self, name: str, act: Callable[[str], T]) -> T:
        """Run `act` on a file; in S3 again if the connection broke."""
        path = f"{self.path}/{name}" if name else self.path
        for left in reversed(range(1 if self.is_folder else _ROUNDS)):
            try:
                return act(path)
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.url}/{name} is not there") from None
            except OSError as error:
                if not left or any(reason in str(error) for reason in _FOR_GOOD):
                    raise type(error)(f"{self.url}/{name}: {error}") from error
                time.sleep(_FIRST_PAUSE_S * 2 ** (_ROUNDS - 1 - left))
        raise AssertionError("unreachable")


def data_root() -> Storage | None:
    """Return the storage that `HDRFACE_ROOT` names, None if it is not set.

    Raises: ValueError if it is neither an `s3://` prefix nor an absolute path, or names
        credentials.
    """
    url = os.environ.get(ROOT_VARIABLE, "").rstrip("/")
    return open_storage(url) if url else None


def open_storage(url: str) -> Storage:
    """Return the storage of a data root's URL. Raises: ValueError as `data_root`."""
    if url.startswith("s3://"):
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                f"{ROOT_VARIABLE} is only s3://BUCKET/PREFIX: credentials and options belong in "
                "AWS_ACCESS_KEY_ID and the like, or ~/.aws"
            )
        if not parts.netloc:
            raise ValueError(f"{ROOT_VARIABLE} = {url} names no bucket: s3://BUCKET/PREFIX")
        return Storage(url)
    if "://" in url or not Path(url).is_absolute():
        raise ValueError(
            f"{ROOT_VARIABLE} = {url.rpartition('@')[2]} is neither s3://BUCKET/PREFIX nor the "
            "absolute path of a folder that every node mounts"
        )
    return Storage(url, scratch=f"{url}/{_SCRATCH}")


def local_folder(folder: Path, scratch: Path) -> Storage:
    """Return a folder of this machine; both folders must exist, on one file system."""
    return Storage(str(folder.absolute()), str(scratch.absolute()), grows=False)


def s3_settings() -> dict[str, str]:
    """Return the environment's settings of S3, with credentials: never log them."""
    return {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS_PREFIX)}


def sync_folder(folder: Path) -> None:
    """Make the names in a local folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _all_below(path: str) -> arrow_fs.FileSelector:
    return arrow_fs.FileSelector(path, allow_not_found=True, recursive=True)


@functools.cache
def _local() -> arrow_fs.LocalFileSystem:
    return arrow_fs.LocalFileSystem()


@functools.cache
def _s3(bucket: str) -> arrow_fs.S3FileSystem:
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    region = next(filter(None, map(os.environ.get, _REGIONS)), None)
    if not region and not endpoint:
        region = arrow_fs.resolve_s3_region(bucket)
    return arrow_fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_CONNECT_TIMEOUT_S,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
