"""The commands that the README, the pages of docs/ and the Makefile name exist."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())
PAGES = ("README.md", *(str(page.relative_to(REPOSITORY)) for page in REPOSITORY.glob("docs/*.md")))


def commands(file: str) -> list[str]:
    """Give the lines of a page's code blocks, and its code in the text, that are commands."""
    text = (REPOSITORY / file).read_text()
    blocks = "\n".join(re.findall(r"^(?:```\w*\n(.*?)^```)", text, re.MULTILINE | re.DOTALL))
    indented = "\n".join(re.findall(r"^    (.*)$", text, re.MULTILINE))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", text))
    lines = f"{blocks}\n{indented}\n{inline}".splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def test_the_first_commands_of_the_readme_are_the_demo_and_the_tests() -> None:
    makes = [line for line in commands("README.md") if line.startswith("make ")]
    assert [line.split()[1] for line in makes[:2]] == ["demo", "test"]


def test_every_make_target_that_a_page_names_exists() -> None:
    named = {
        line.split()[1] for page in PAGES for line in commands(page) if line.startswith("make ")
    }
    assert named <= TARGETS


def test_every_hdrface_command_that_a_page_names_exists() -> None:
    named = [
        line.split()[1:]
        for page in PAGES
        for line in commands(page)
        if re.match("hdrface [a-z]", line)  # `hdrface X` is any of them
    ]
    assert named
    for words in named:
        path = [word for word in words if re.fullmatch(r"[a-z]+", word)]
        group = path[:2] if path[0] in {"config", "tables"} else path[:1]
        assert CliRunner().invoke(app, [*group, "--help"]).exit_code == 0, words


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_can_be_planned(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
