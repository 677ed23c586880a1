"""The paper's tables: their rows, columns and numbers, and the protocol that each number has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

SIZE = 512  # pixels of the faces that the paper restores
_FILE = Path(__file__).with_name("numbers.json")

SetName = Literal["celeba-test", "lfw-test", "celebchild"]


@dataclass(frozen=True)
class Metric:
    """A metric as the paper's tables have it.

    `entries` are the names in `components.metrics.entries`: first the one whose protocol is the
    paper's (METHOD, sections 7 and 9), then the same metric by other protocols. A cost has none.
    """

    title: str
    unit: str
    better: Literal["higher", "lower", ""]
    digits: int
    entries: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = {
    "psnr": Metric("PSNR", "dB", "higher", 2, ("psnr",)),
    "ssim": Metric("SSIM", "", "higher", 4, ("ssim",)),
    "lpips": Metric("LPIPS", "", "lower", 4, ("lpips",)),
    "dists": Metric("DISTS", "", "lower", 4, ("dists",)),
    "topiq_fr": Metric("TOPIQ", "", "higher", 4, ("topiq_fr",)),
    "deg": Metric("Deg.", "°", "lower", 2, ("deg_vqfr", "identity_angle")),
    "lmd": Metric("LMD", "px", "lower", 3, ("lmd_awing", "lmd_insightface", "lmd_pfld")),
    "fid": Metric("FID", "", "lower", 2, ("fid_vqfr", "fid_clean", "fid_folders")),
    "clipiqa": Metric("CLIP-IQA", "", "higher", 4, ("clipiqa",)),
    "qalign": Metric("Q-Align", "", "higher", 3, ("qalign",)),
    "liqe": Metric("LIQE", "", "higher", 3, ("liqe",)),
    "musiq": Metric("MUSIQ", "", "higher", 2, ("musiq",)),
    "steps": Metric("Steps", "", "lower", 0),
    "seconds": Metric("Time", "s", "lower", 3),
    "parameters_m": Metric("Parameters", "M", "lower", 1),
    "macs_g": Metric("MACs", "G", "lower", 0),
}


@dataclass(frozen=True)
class PublishedSet:
    """A published set of faces, and how many it has."""

    name: SetName
    title: str
    faces: int


@dataclass(frozen=True)
class Column:
    """One metric on one set; a cost has no set."""

    name: str
    metric: Metric
    faces: PublishedSet | None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    `method` is the name by which results of it are given. `model` is the trained folder of this
    project that stands for it, `ablation` its place among the results of an ablation: the
    ablation's name, the variant, the model.
    """

    title: str
    method: str
    values: tuple[float | None, ...]
    model: str | None = None
    ablation: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table, or one part of a table. `takes_others`: further methods may be rows of it."""

    number: int
    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    takes_others: bool

    @property
    def is_cost(self) -> bool:
        """Return whether it is about cost, not about quality."""
        return all(column.faces is None for column in self.columns)


@cache
def tables() -> tuple[PaperTable, ...]:
    """Read the paper's tables, in its order."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    sets = {name: PublishedSet(name, **facts) for name, facts in content["sets"].items()}
    return tuple(_table(table, sets) for table in content["tables"])


def source() -> str:
    """Return where the numbers were published."""
    return str(json.loads(_FILE.read_text(encoding="utf-8"))["source"])


def chosen(only: str | None) -> list[PaperTable]:
    """Return the tables of these numbers, `1,3`; all without.

    Raises: ValueError for a number that is not among them.
    """
    known = list(dict.fromkeys(str(table.number) for table in tables()))
    wanted = known if only is None else [number.strip() for number in only.split(",")]
    if strange := [number for number in wanted if number not in known]:
        raise ValueError(f"--only {only}: no table {strange[0]!r}; there are {', '.join(known)}")
    return [table for table in tables() if str(table.number) in wanted]


def _table(content: Mapping[str, Any], sets: Mapping[str, PublishedSet]) -> PaperTable:
    columns = tuple(
        Column(one["metric"], METRICS[one["metric"]], sets[one["set"]] if "set" in one else None)
        for one in content["columns"]
    )
    return PaperTable(
        number=content["number"],
        key=content["key"],
        caption=content["caption"],
        columns=columns,
        rows=tuple(_row(row) for row in content["rows"]),
        takes_others=content["takes_others"],
    )


def _row(content: Mapping[str, Any]) -> Row:
    title = content.get("title", content["name"])
    place = content.get("ablation")
    ablation = None
    if place is not None:
        name, variant, model = place.split("/")
        ablation = (name, variant, model)
    return Row(
        title=title,
        method=content.get("method", title),
        values=tuple(content["values"]),
        model=content.get("model"),
        ablation=ablation,
    )
