"""`hdrface submit`: run a command on a Ray cluster."""

from typing import Annotated

import typer

from pipelines.commands.arguments import Address


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
    from components.jobs import round_trip

    if bool(command) == bool(attach) or (attach and no_wait):
        raise ValueError("give a command after '--', or --attach ID alone")
    logs.configure()
    if attach:
        raise typer.Exit(round_trip.follow(attach, address))
    if no_wait:
        print(round_trip.start(command or (), address))
    else:
        raise typer.Exit(round_trip.run(command or (), address))
