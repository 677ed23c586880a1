"""`hdrface`: what people type. Results go to stdout, everything else to stderr.

A command imports what it needs when it runs: `--help` must not wait for torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.runtime.outages import TrackingError


def _group(description: str) -> typer.Typer:
    return typer.Typer(
        help=description,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # Rich costs a tenth of a second, also for --help
        pretty_exceptions_enable=False,
    )


app = _group("Blind face restoration in one diffusion step, from a folder of faces to a model.")
config_app = _group("Compose params.yaml from a profile, or check it.")
tables_app = _group("Work with the tables that stages write.")
app.add_typer(config_app, name="config")
app.add_typer(tables_app, name="tables")

Profile = Annotated[str, typer.Argument(metavar="PROFILE", help="A file in conf/profile.")]
Registered = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME/VERSION or NAME@ALIAS, as hdrface@champion.")
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="http://HOST:8265; otherwise RAY_API_SERVER_ADDRESS or RAY_ADDRESS says it.",
    ),
]


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="A trained folder, an MLflow run's id, or models:/NAME@ALIAS."
        ),
    ],
    hq: Annotated[Path, typer.Option(metavar="DIR", help="Aligned faces of high quality.")],
    seed: Annotated[int, typer.Option(help="Of the degradations.")] = 42,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the numbers of every face here.")
    ] = None,
    identity_network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file, for the identity angle.")
    ] = None,
) -> None:
    """Degrade a folder of faces, restore them with a trained model, and score it."""
    from components.runtime import logs
    from pipelines import evaluate_folder

    logs.configure()
    evaluate_folder.run(model, hq, seed=seed, json_file=json, identity_network=identity_network)


@app.command()
def degrade(
    source: Annotated[str, typer.Argument(metavar="IN", help="A folder, or s3://bucket/prefix.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    seed: Annotated[int, typer.Option(help="Of the degradations.")] = 42,
    variants: Annotated[int, typer.Option(help="Degraded twins of a picture.")] = 1,
    params: Annotated[
        Path, typer.Option(metavar="FILE", help="Whose degrade.recipe is used.")
    ] = Path("params.yaml"),
) -> None:
    """Degrade the pictures of a folder, as params.yaml says, into another folder."""
    from components.degradation.recipe import DegradationParams
    from components.runtime import logs
    from pipelines import degrade_folder

    logs.configure()
    recipe = DegradationParams.load("degrade.recipe", params)
    done = degrade_folder.run(source, target, recipe=recipe, seed=seed, variants=variants)
    print(f"{target}: {done.num_pictures} pictures, {len(done.rejected)} rejected")


@app.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A trained folder, or one of pretrained weights.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what a trained folder contains: backbone, condition, sizes, lineage, licences."""
    from pipelines import inspect as command

    command.run(folder, as_json)


@app.command()
def results(
    gate: Annotated[
        bool,
        typer.Option("--gate", help="Fail unless every model restores better than it was given."),
    ] = False,
) -> None:
    """Print the table of results and where the report lies."""
    from pipelines.results import failures, load, print_table

    summary = load()
    print_table(summary)
    if gate and (failed := failures(summary)):
        print("\n".join(failed), file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def promote(model: Registered) -> None:
    """Make a registered version the champion, whatever the rule in params.yaml says."""
    from pipelines import promote as command

    print(command.promote(model))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Of the registered model.")] = "hdrface",
) -> None:
    """Make the champion before the present one the champion again."""
    from pipelines import promote as command

    print(command.rollback(name))


@app.command()
def lineage(model: Registered) -> None:
    """Trace a registered version back: run, commit, inputs with hashes, faces, licences."""
    from pipelines import lineage as command

    command.run(model)


@app.command()
def submit(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND...", help="Run in the tree's copy.")
    ] = None,
    address: Address = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id instead of following its log.")
    ] = False,
    attach: Annotated[
        str | None, typer.Option(metavar="ID", help="Follow a job that is there already.")
    ] = None,
) -> None:
    """Run a command on a Ray cluster, in a copy of this checkout, and follow its log.

    What git tracks goes there, with what is new and not ignored; data does not. With HDRFACE_ROOT
    set, dvc.lock, metrics and report come back, and 'dvc pull' brings what stages made.
    """
    from components.runtime import logs
    from pipelines import submit as jobs

    if bool(command) == bool(attach) or (attach and no_wait):
        raise ValueError("give a command after '--', or --attach ID alone")
    logs.configure()
    if attach:
        raise typer.Exit(jobs.attach(attach, address))
    if no_wait:
        print(jobs.start(command or (), address))
    else:
        raise typer.Exit(jobs.run(command or (), address))


@app.command("jobs")
def list_jobs(address: Address = None) -> None:
    """List the jobs that were submitted to a Ray cluster, the newest first."""
    from pipelines.submit import print_jobs

    print_jobs(address)


@config_app.command("use")
def config_use(
    profile: Profile,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="As in Hydra's grammar.")
    ] = None,
) -> None:
    """Write params.yaml from a profile, with single values changed."""
    from pipelines.config import use

    use(profile, overrides or ())


@config_app.command("check")
def config_check(
    profile: Annotated[
        str | None, typer.Option(help="A profile of conf/ instead of params.yaml.")
    ] = None,
) -> None:
    """Check every section; name every bad key with its value."""
    from pipelines.config import check

    check(profile)
    print("every key is good", file=sys.stderr)


@tables_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A table.")],
) -> None:
    """Compare the hash of every shard of a table with its manifest."""
    from components.runtime.tables import Table

    table = Table.open(folder)
    table.verify()
    print(f"{folder}: {table.num_rows} rows in {len(table.shards)} shards are as written")


def main() -> None:
    """Run a command. A user's mistake is told in words on stderr, with exit code 2."""
    try:
        app()
    except (ValueError, OSError, TrackingError) as error:
        print(f"hdrface: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
