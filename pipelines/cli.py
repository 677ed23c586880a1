"""`hdrface`: what people type. Results go to stdout, everything else to stderr.

A command imports what it needs when it runs: `--help` must not wait for torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.tracking.outages import TrackingError


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
keys_app = _group("Work with the API keys of an endpoint.")
app.add_typer(config_app, name="config")
app.add_typer(tables_app, name="tables")
app.add_typer(keys_app, name="keys")

Profile = Annotated[str, typer.Argument(metavar="PROFILE", help="A file in conf/profile.")]
Registered = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME/VERSION or NAME@ALIAS, as hdrface@champion.")
]
TrainedModel = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="A trained folder, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model.",
    ),
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
    model: TrainedModel,
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
    from components import logs
    from pipelines import evaluate_folder

    logs.configure()
    evaluate_folder.run(model, hq, seed=seed, json_file=json, identity_network=identity_network)


@app.command()
def restore(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or patterns in quotes.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="For the results.")],
    model: TrainedModel,
    detector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file: SCRFD or YuNet.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Each picture is one aligned face.")
    ] = False,
    only_center_face: Annotated[
        bool, typer.Option("--only-center-face", help="Leave all other faces.")
    ] = False,
    min_face: Annotated[int, typer.Option(help="Leave narrower faces, in pixels.")] = 16,
    fidelity: Annotated[float, typer.Option(help="0 to 1; lower invents more (qwen).")] = 1.0,
    color_fix: Annotated[
        str | None, typer.Option(help="none, wavelet or adain; otherwise the backbone decides.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Enlarge the whole picture, 1 to 4.")] = 1.0,
    upscaler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A super-resolution checkpoint for that.")
    ] = None,
    identity_network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file, for identity angles.")
    ] = None,
    max_angle: Annotated[
        float | None, typer.Option(help="Flag a face whose identity turns by more degrees.")
    ] = None,
    leave_flagged: Annotated[
        bool, typer.Option("--leave-flagged", help="Leave flagged faces as they were.")
    ] = False,
    file_format: Annotated[
        str | None, typer.Option("--format", help="jpeg, png or webp; otherwise the input's.")
    ] = None,
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP, 1 to 100.")] = 95,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose result is there.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Faces that are restored at once.")] = 8,
) -> None:
    """Restore the faces of photographs with a trained model, and write a record of each face."""
    from components import logs
    from components.photographs.restoration import RestoreOptions
    from pipelines import restore_photographs as command

    logs.configure()
    results = command.run(
        inputs,
        command.checked(
            command.Output,
            folder=out,
            format=file_format,
            quality=quality,
            skip_existing=skip_existing,
        ),
        command.Tools(model, detector, identity_network, upscaler, batch_size),
        command.checked(
            RestoreOptions,
            aligned=aligned,
            only_center_face=only_center_face,
            min_face=min_face,
            fidelity=fidelity,
            color_fix=color_fix,
            scale=scale,
            max_angle=max_angle,
            leave_flagged=leave_flagged,
        ),
    )
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


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
    from components import logs
    from components.degradation.recipe import DegradationParams
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
    from components import logs
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


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine need API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.")] = 8000,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Instead of what params.yaml has under serve."),
    ] = None,
) -> None:
    """Serve restoration over HTTP, as the section serve of params.yaml says."""
    from components import logs
    from pipelines import serve as endpoint

    logs.configure()
    endpoint.run(endpoint.load(overrides or ()), host=host, port=port)


KeyFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="As serve.keys names it.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Of whom the key is for.")]
KEYS = Path("keys.json")


@keys_app.command("add")
def keys_add(name: KeyName, file: KeyFile = KEYS) -> None:
    """Make a key and print it, once; the file keeps its hash."""
    from components.serving import keys

    print(keys.add(file, name))


@keys_app.command("remove")
def keys_remove(name: KeyName, file: KeyFile = KEYS) -> None:
    """Forget a key; a running endpoint refuses it from then on."""
    from components.serving import keys

    keys.remove(file, name)


@keys_app.command("list")
def keys_list(file: KeyFile = KEYS) -> None:
    """Say who has a key, and since when."""
    from components.serving import keys

    for name, entry in keys.read(file).items():
        print(f"{name}\t{entry.get('made', '')}")


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
    from components.tables import Table

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
