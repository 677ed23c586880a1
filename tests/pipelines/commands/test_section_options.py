"""Options of a command that are made from the schema of a section."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from components.params import Params
from components.photographs.options import OutputOptions, RestoreOptions, Tools
from pipelines import cli
from pipelines.commands.section_options import with_section_options


class Paint(Params):
    color: Literal["red", "blue"] = Field("red", description="Colour of the wall.")
    coats: int = Field(2, ge=1, le=9, description="Number of coats.")
    primer: Path | None = Field(None, description="File with the primer.")


class Brush(Params):
    width_cm: float | None = Field(None, gt=0, description="Width of the brush.")
    is_round: bool = Field(False, description="Use a round brush.")


painted: list[Any] = []


@with_section_options
def paint(wall: Annotated[str, typer.Argument()], brush: Brush, paint: Paint) -> None:
    """Paint a wall."""
    painted[:] = [wall, brush, paint]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(paint)
    return app


def test_the_command_gets_checked_sections(app: typer.Typer) -> None:
    words = ["north", "--is-round", "--width-cm", "2.5", "--color", "blue", "--primer", "a/b"]
    assert CliRunner().invoke(app, words).exit_code == 0
    brush = Brush(width_cm=2.5, is_round=True)
    assert painted == ["north", brush, Paint(color="blue", primer=Path("a/b"))]
    assert CliRunner().invoke(app, ["south"]).exit_code == 0
    assert painted == ["south", Brush(), Paint()]


def test_the_help_page_shows_descriptions_bounds_choices_and_defaults(app: typer.Typer) -> None:
    page = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    for text in (
        "Paint a wall.",
        "--color red|blue Colour of the wall. [default: red]",
        "--coats <int> Number of coats. From 1 to 9. [default: 2]",
        "--primer FILE File with the primer.",
        "--width-cm <float> Width of the brush. At least 0.",
        "--is-round Use a round brush.",
    ):
        assert text in page


def test_every_wrong_option_is_named_with_its_value(app: typer.Typer) -> None:
    words = ["north", "--width-cm", "-1", "--color", "lab", "--coats", "10"]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, ValueError)
    first, second, third = str(error).split("; ")
    assert first.startswith("--width-cm -1: Input should be greater than 0")
    assert second.startswith("--color lab: Input should be 'red' or 'blue'")
    assert third.startswith("--coats 10: Input should be less than or equal to 9")


def test_restore_offers_every_field_of_its_schema_with_its_description() -> None:
    page = " ".join(CliRunner().invoke(cli.app, ["restore", "--help"]).stdout.split())
    for section in (Tools, RestoreOptions, OutputOptions):
        for name, field in section.model_fields.items():
            assert f"--{name.replace('_', '-')} " in page
            assert field.description, name
            assert field.description in page
