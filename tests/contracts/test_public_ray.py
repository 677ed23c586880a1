"""Ray may rename what it keeps to itself in any minor version; the product is pinned to none."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ALLOWED = "components/cluster/autoscaler.py"
_PRIVATE = re.compile(r"\bray\.([\w.]+\.)?_\w+|\bray\.core\.generated\b")


def private_names(code: str) -> set[str]:
    """Return Ray's private modules and attributes that a module names, in strings too."""
    found = {match.group() for text in _names(ast.parse(code)) for match in _PRIVATE.finditer(text)}
    return {name for name in found if not name.rpartition(".")[2].startswith("__")}


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_one_file_alone_names_what_ray_keeps_to_itself(repository: Path) -> None:
    files = [*repository.glob("components/**/*.py"), *repository.glob("pipelines/**/*.py")]
    assert len(files) > 100
    naming = {
        str(file.relative_to(repository)): names
        for file in files
        if (names := private_names(file.read_text(encoding="utf-8")))
    }
    assert list(naming) == [ALLOWED], naming
    assert naming[ALLOWED] == {"ray._raylet", "ray.core.generated"}


def test_every_form_of_a_private_name_is_found() -> None:
    assert private_names("from ray._private.state import x") == {"ray._private"}
    assert private_names("from ray import _raylet") == {"ray._raylet"}
    assert private_names("import ray.data._internal.progress as bars") == {"ray.data._internal"}
    assert private_names("log = getLogger('ray.train._internal')") == {"ray.train._internal"}
    assert private_names("import ray\nray._private.worker.init()") == {"ray._private"}
    assert private_names("from ray.core import generated") == {"ray.core.generated"}
    assert private_names("from ray.train.v2.api import callback; ray.__version__") == set()
