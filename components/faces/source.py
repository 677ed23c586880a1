"""List and read pictures: a folder, or an `s3://bucket/prefix`."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from components.faces import split
from components.image_files import kinds
from components.storage import Storage

READABLE = kinds.READABLE
# What else holds pictures is listed too, so that it is rejected, not overlooked.
_LISTED = {*READABLE, *kinds.REFUSED}
MAX_BYTES = 400_000_000  # of one file
_GONE_FOR_GOOD = ("AccessDenied", "InvalidObjectState")  # a retry would not help


class SourceError(ValueError):
    """A source cannot be listed or read at all; the message says what was tried."""


class UnreadableError(ValueError):
    """One file cannot be read; the message is the reason, ready for a `rejected` list."""


class Picture(NamedTuple):
    """A file of a source, as it was when it was listed."""

    name: str  # POSIX path in the source
    digest: str  # changes with the content; "" if the file cannot be read
    problem: str = ""  # why it cannot be read


class Source(Protocol):
    name: str  # of the folder, in the folder above

    def pictures(self) -> list[Picture]:
        """List every picture below, by name; hidden files and folders are left out.

        Raises: SourceError if there is none, or no such place.
        """
        ...

    def read(self, picture: Picture) -> bytes:
        """Read one picture.

        Raises: UnreadableError; SourceError if it changed since it was listed.
        """
        ...

    def text(self, name: str, *, above: bool = False) -> str | None:
        """Read a small text file of the source or of the folder above; None if there is none."""
        ...


def open_source(source: str) -> Source:
    """Open a folder, or an S3 prefix (credentials and AWS_ENDPOINT_URL from the environment)."""
    if source.startswith("s3://"):
        return Bucket(source)
    if "://" in source:
        raise SourceError(f"source {source!r} is neither a folder nor an s3:// prefix")
    return Folder(Path(source))


def share(source: str, pictures: Sequence[Picture], root: Storage | None) -> str | Storage:
    """Return the place from which workers read the pictures of a source, for `open_shared`.

    That is the source itself if workers can read it: a bucket, a folder in the data root, or any
    folder if there is no data root. Pictures of another folder are copied to the data root first.
    """
    if source.startswith("s3://") or root is None or root.holds(Path(source)):
        return source if source.startswith("s3://") else str(Path(source).absolute())
    place = root / "files"
    there = place.sizes()
    wanted = [picture for picture in pictures if not picture.problem]
    missing = [picture for picture in wanted if picture.digest not in there]
    with ThreadPoolExecutor(max_workers=8) as pool:
        files = (Path(source) / picture.name for picture in missing)
        list(pool.map(place.put, files, (picture.digest for picture in missing)))
    return place


def open_shared(shared: str | Storage) -> Source | Copies:
    """Open what `share` returned, on a worker."""
    return Copies(shared) if isinstance(shared, Storage) else open_source(shared)


class Copies:
    """Pictures in a data root, each named by the digest of its content."""

    def __init__(self, place: Storage) -> None:
        self._place = place

    def read(self, picture: Picture) -> bytes:
        """Read one picture. Raises: as `Source.read`."""
        if picture.problem:
            raise UnreadableError(picture.problem)
        data = self._place.read(picture.digest)
        if hashlib.sha256(data).hexdigest() != picture.digest:
            raise SourceError(f"the copy of {picture.name} in {self._place.url} is damaged")
        return data


def read_split(source: Source) -> dict[str, split.Split]:
    """Read the `split.csv` beside the pictures, or the one in the folder above.

    In the latter, `hq/x.jpg` is `x.jpg` if the source is the folder `hq`; other rows are ignored.

    Raises: SplitError.
    """
    if (text := source.text(split.FILE)) is not None:
        return split.parse(text)
    if (text := source.text(split.FILE, above=True)) is None:
        return {}
    prefix = f"{source.name}/"
    splits = split.parse(text)
    return {file.removeprefix(prefix): splits[file] for file in splits if file.startswith(prefix)}


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in _LISTED and not hidden


def _nothing_in(place: str, num_files: int) -> SourceError:
    return SourceError(
        f"no pictures in {place}: {num_files} files there and below, none of them named "
        f"{', '.join(READABLE)}"
    )


class Folder:
    """A folder with pictures in it and in the folders below; links to folders are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.absolute().name

    def pictures(self) -> list[Picture]:
        if not self.root.is_dir():
            raise SourceError(f"no such folder: {self.root} (tried {self.root.absolute()})")
        names = list(self._names())
        chosen = sorted(name for name in names if _is_picture(name))
        if not chosen:
            raise _nothing_in(str(self.root), len(names))
        with ThreadPoolExecutor(max_workers=8) as pool:  # hashing releases the GIL
            return list(pool.map(self._picture, chosen))

    def _names(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.root):
            for file in files:
                yield (Path(folder) / file).relative_to(self.root).as_posix()

    def _picture(self, name: str) -> Picture:
        try:
            name.encode()
        except UnicodeEncodeError:
            readable = os.fsencode(name).decode("utf-8", "backslashreplace")
            return Picture(readable, "", "its name is not UTF-8: rename it")
        try:
            file = self.root / name
            if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe is to wait for its writer
                return Picture(name, "", "it is no file but a pipe, socket, device or folder")
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            return Picture(name, "", f"cannot be read: {error.strerror}")
        return Picture(name, digest, _refused(name) or _too_large(size))

    def read(self, picture: Picture) -> bytes:
        if picture.problem:
            raise UnreadableError(picture.problem)
        try:
            data = (self.root / picture.name).read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != picture.digest:
            raise SourceError(f"{picture.name} changed since it was listed: run the stage again")
        return data

    def text(self, name: str, *, above: bool = False) -> str | None:
        file = (self.root.absolute().parent if above else self.root) / name
        return file.read_text(encoding="utf-8-sig") if file.is_file() else None


class Bucket:
    """The objects of an S3 bucket under a prefix, like the files of a folder."""

    def __init__(self, url: str) -> None:
        import boto3
        from botocore.config import Config

        self.url = url
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise SourceError(f"source {url!r} names no bucket: s3://BUCKET/PREFIX")
        self.prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        self.name = PurePosixPath(prefix).name
        retries = {"mode": "standard", "max_attempts": 5}
        self._client: Any = boto3.client("s3", config=Config(retries=retries))

    def pictures(self) -> list[Picture]:
        from botocore.exceptions import BotoCoreError, ClientError

        found: list[Picture] = []
        num_files = 0
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for item in page.get("Contents", ()):
                    name = item["Key"].removeprefix(self.prefix)
                    num_files += bool(name) and not name.endswith("/")
                    if _is_picture(name):
                        problem = _refused(name) or _too_large(item["Size"])
                        found.append(Picture(name, item["ETag"], problem))
        except (BotoCoreError, ClientError) as error:
            where = self._client.meta.endpoint_url
            raise SourceError(f"cannot list {self.url} (tried {where}): {error}") from error
        if not found:
            raise _nothing_in(self.url, num_files)
        return sorted(found)

    def read(self, picture: Picture) -> bytes:
        from botocore.exceptions import ClientError

        if picture.problem:
            raise UnreadableError(picture.problem)
        try:
            answer = self._client.get_object(
                Bucket=self.bucket, Key=self.prefix + picture.name, IfMatch=picture.digest
            )
            return bytes(answer["Body"].read())
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _GONE_FOR_GOOD:
                raise UnreadableError(f"cannot be read: {code}") from error
            if code in ("PreconditionFailed", "412", "NoSuchKey"):
                changed = f"{picture.name} changed since it was listed: run the stage again"
                raise SourceError(changed) from error
            raise

    def text(self, name: str, *, above: bool = False) -> str | None:
        if above and not self.prefix:
            return None
        folder = self.prefix.removesuffix(f"{self.name}/") if above else self.prefix
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=folder + name)
        except self._client.exceptions.NoSuchKey:
            return None
        return bytes(answer["Body"].read()).decode("utf-8-sig")


def _refused(name: str) -> str:
    """Return why a file of this name is not read; "" if it may be."""
    reason = kinds.REFUSED.get(PurePosixPath(name).suffix.lower())
    return f"it is {reason}" if reason else ""


def _too_large(num_bytes: int) -> str:
    if num_bytes <= MAX_BYTES:
        return ""
    return f"too large: {num_bytes:,} bytes, at most {MAX_BYTES:,}"
