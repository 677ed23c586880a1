"""Where a result comes from: hashes of the code, the commit and the data behind it."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds `components` and `pipelines`
_PACKAGES = ("components", "pipelines")
# These move and check things and make nothing: a better progress line must not rerun a stage.
# Files, and folders with a slash at their end.
MAKE_NOTHING = (
    "components/ahead.py",
    "components/assets/",
    "components/cluster/",
    "components/console.py",
    "components/experiments.py",
    "components/files.py",
    "components/git.py",
    "components/hashes.py",
    "components/history.py",
    "components/jobs/",
    "components/lineage.py",
    "components/logs.py",
    "components/params.py",
    "components/progress.py",
    "components/ray_training/",
    "components/storage.py",
    "components/stores.py",
    "components/tables/",
    "components/tracking/",
    "components/weights/shared.py",
    "pipelines/stage.py",
)


def fingerprint(**parts: Any) -> str:
    """Hash named parts, each a JSON value; the order of keys does not matter."""
    text = json.dumps(
        parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def source_hashes(module: str, root: Path = ROOT) -> dict[str, str]:
    """Hash the sources that `module` (`pipelines.degrade`) imports, itself included.

    Follows every import of `components` and `pipelines`, also those inside functions, without
    importing anything. What is hashed is the syntax tree without docstrings: neither a comment nor
    a line break makes another result. A file with nothing but a docstring is left out.

    Raises: ModuleNotFoundError if `module` is not among the sources below `root`.
    """
    if _file_of(module, root) is None:
        raise ModuleNotFoundError(f"no source of '{module}' below {root}")
    hashes: dict[str, str] = {}
    waiting = list(_with_packages(module))
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        file = _file_of(name, root)
        if file is None:
            continue  # `from components.fusion.sdfm import SDFM`: a name in a module, not a module
        relative = file.relative_to(root).as_posix()
        if relative.startswith(MAKE_NOTHING):
            continue
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        state = file.stat()
        imported, hashed = _read(file, package, state.st_mtime_ns, state.st_size)
        waiting.extend(sorted(imported - seen))
        seen |= imported
        if hashed is not None:
            hashes[relative] = hashed
    return dict(sorted(hashes.items()))


@functools.lru_cache(maxsize=4096)
def _read(
    file: Path,
    package: str,
    modified_ns: int,  # noqa: ARG001 - these two tell the versions of a file apart
    size: int,  # noqa: ARG001
) -> tuple[frozenset[str], str | None]:
    """Return what a file imports of ours, and the hash of its code, if it has any.

    A process asks for hundreds of files again and again; parsing them takes a second or two.
    """
    tree = ast.parse(file.read_bytes(), filename=str(file))
    imported = _imports(tree, package)
    ours = frozenset(name for name in imported if name.split(".")[0] in _PACKAGES)
    _strip_docstrings(tree)
    return ours, hashlib.sha256(_text(tree).encode()).hexdigest() if tree.body else None


def _file_of(module: str, root: Path) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next(
        (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None
    )


def _with_packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Find every module that may be imported, and the packages above it: Python runs those too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _with_packages(name)


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]


def _text(node: object) -> str:
    """Return a syntax tree as text, the same on every Python; that of `ast.dump` differs.

    A newer Python has fields that an older one lacks. They are empty where the source does not use
    them, so empty fields are left out.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)  # `repr` escapes other letters on another Python
    if isinstance(node, ast.JoinedStr):  # 3.12.1 ends f"{x:{y}}" with an empty string
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    fields = [
        f"{name}={_text(value)}"
        for name, value in ast.iter_fields(node)
        if value is not None and value != []
    ]
    return f"{type(node).__name__}({', '.join(fields)})"


def dvc_hashes(stage: str, root: Path = Path()) -> dict[str, str]:
    """Return DVC's hash of each file and folder that a stage depends on; empty outside a project.

    DVC remembers hashes, so data that did not change since the last stage is not read again.
    `dvc.lock` would be too old here: while a stage runs, it still describes the stage's last run.

    Raises: dvc's StageNotFound if `dvc.yaml` has no such stage.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
    except NotDvcRepoError:
        return {}
    with repo:
        return {
            dependency.def_path: dependency.get_hash().value
            for found in repo.stage.collect(f"{root / 'dvc.yaml'}:{stage}")
            for dependency in found.deps
            if not isinstance(dependency, ParamsDependency)
        }


def locked_stages(out: Path, root: Path = Path()) -> dict[str, Any]:
    """Return the entries of `dvc.lock` that led to an output, with its own stage last.

    Empty outside a DVC project. `out` is relative to `root`.

    Raises: ValueError if the lock does not describe what lies there.
    """
    from dvc.exceptions import NotDvcRepoError, OutputNotFoundError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
    except NotDvcRepoError:
        return {}
    remedy = "run 'dvc repro', which makes it again or finds it unchanged"
    with repo:
        try:
            (found,) = repo.find_outs_by_path(str(root / out))
        except OutputNotFoundError as error:
            raise ValueError(f"no stage of dvc.yaml makes {out}: {remedy}") from error
        if found.changed_checksum():
            raise ValueError(f"dvc.lock does not describe what lies in {out}: {remedy}")
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return dict(_leading_to(out.as_posix(), stages))


def inputs_of(stages: Mapping[str, Any]) -> dict[str, str]:
    """Return the path and DVC's hash of everything that entries of `dvc.lock` depend on."""
    return {
        dependency["path"]: next(
            (dependency[kind] for kind in ("md5", "etag", "checksum") if kind in dependency), ""
        )
        for stage in stages.values()
        for dependency in stage.get("deps", ())
    }


def is_source(path: str) -> bool:
    """Return whether a stage's input is code, which the commit names, and not data."""
    return path.split("/")[0] in _PACKAGES


def _leading_to(path: str, stages: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Find the stage that makes a path, after the stages it reads from; one may come twice."""
    for name, stage in stages.items():
        if any(_is_within(path, out["path"]) for out in stage.get("outs", ())):
            for dependency in stage.get("deps", ()):
                yield from _leading_to(dependency["path"], stages)
            yield name, stage


def _is_within(path: str, other: str) -> bool:
    return Path(path).is_relative_to(other) or Path(other).is_relative_to(path)
