"""`hdrface`: what people type. Results go to stdout, everything else to stderr.

A command imports what it needs when it runs: `--help` must not wait for torch.
"""

import sys

from components.console import printable
from components.tracking.outages import TrackingError
from pipelines.commands import (
    ablate,
    check,
    config,
    degrade,
    evaluate,
    export,
    importing,
    inspect,
    jobs,
    keys,
    lineage,
    plan,
    promote,
    restore,
    results,
    rollback,
    serve,
    submit,
    tables,
)
from pipelines.commands.arguments import group

app = group("Blind face restoration in one diffusion step, from a folder of faces to a model.")
for command in (
    evaluate.evaluate,
    check.check,
    restore.restore,
    degrade.degrade,
    export.export,
    inspect.inspect,
    plan.plan,
    results.results,
    ablate.ablate,
    promote.promote,
    rollback.rollback,
    lineage.lineage,
    submit.submit,
    serve.serve,
    jobs.jobs,
):
    app.command()(command)
app.command("import")(importing.import_published)  # `import` is no name in Python
for name, commands in {"config": config.app, "tables": tables.app, "keys": keys.app}.items():
    app.add_typer(commands, name=name)


def main() -> None:
    """Run a command. A user's mistake is told in words on stderr, with exit code 2."""
    try:
        app()
    except (ValueError, OSError, TrackingError) as error:
        told = printable(error, keep="\n")
        print(f"hdrface: {told}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
