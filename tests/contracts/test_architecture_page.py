"""The map in docs/architecture.md is of this house: every path is there, every room is named."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/architecture.md").read_text()
MAP, _, _ = PAGE.partition("\n# ")
ROOMS = sorted(
    entry.name
    for entry in (REPOSITORY / "components").iterdir()
    if (entry / "__init__.py").is_file()
)


def section(title: str) -> str:
    return MAP.split(f"\n## {title}")[1].split("\n## ")[0]


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:components|pipelines|conf|tests|infra)/[\w./-]*)`", PAGE)
    assert len(paths) > 50
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_every_link_on_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", PAGE)
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_the_map_names_the_rooms_that_there_are() -> None:
    _, _, listed = section("The rooms").partition("\n    components/\n")
    assert sorted(re.findall(r"^      (\w+)/ ", listed, re.MULTILINE)) == ROOMS


@pytest.mark.parametrize("way", ["The way of a face", "The way of a photograph"])
def test_a_way_has_at_most_twenty_steps_and_each_names_its_place(way: str) -> None:
    steps = re.findall(r"^\d+\. .*$", section(way), re.MULTILINE)
    assert 10 <= len(steps) <= 20
    assert [step for step in steps if not re.search(r"`(components|pipelines)/", step)] == []
