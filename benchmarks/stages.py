"""How long each stage of the demo takes, and how much of that is the start of processes.

Runs the line twice in a copy of the sources, as `make demo` does, with one shared Ray: with `smoke`
parameters, where hardly anything is computed, so that a stage's time is its start; then `tiny`.
DVC runs one stage at a time; what it needs itself (hashing, locking) counts to its stage.

    python -m benchmarks.stages [FACES]     # FACES: a folder of aligned faces; the samples without
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("components", "pipelines", "conf", "dvc.yaml", ".dvcignore", ".dvc/config")
STAGE = re.compile(r"Running stage '(?P<name>[^']+)'")


def copy_sources(folder: Path) -> None:
    """Copy what a run needs into a folder of its own, without git and without outputs."""
    for name in SOURCES:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")


def time_stages(folder: Path, profile: list[str]) -> tuple[dict[str, float], float]:
    """Run the whole line; return each stage's wall time and that of the run, in seconds."""
    python = sys.executable
    subprocess.run(
        [python, "-m", "pipelines.cli", "config", "use", *profile], cwd=folder, check=True
    )
    command = [python, "-m", "components.cluster", python, "-m", "dvc", "repro"]
    started = time.perf_counter()
    begun: list[tuple[str, float]] = []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if found := STAGE.search(line):
                begun.append((found["name"], time.perf_counter()))
    ended = time.perf_counter()
    if run.returncode:
        raise RuntimeError(f"the line failed in {begun[-1][0] if begun else 'the beginning'}")
    ends = [moment for _, moment in begun[1:]] + [ended]
    stages = {name: end - start for (name, start), end in zip(begun, ends, strict=True)}
    return stages, ended - started


def main() -> None:
    before = machine.facts()
    options = [f"faces.source={Path(folder).resolve()}" for folder in sys.argv[1:2]]
    options += ["faces.aligned=true"] if options else []
    runs = {}
    for profile in ("smoke", "tiny"):
        with tempfile.TemporaryDirectory(prefix="hdrface-stages-") as folder:
            copy_sources(Path(folder))
            runs[profile] = time_stages(Path(folder), [profile, *options])
    starts, (stages, total_s) = runs["smoke"][0], runs["tiny"]
    rows = {
        name: {
            "seconds": round(seconds, 1),
            # `smoke` leaves some stages out.
            "of_which_start": round(starts[name], 1) if name in starts else None,
        }
        for name, seconds in stages.items()
    }
    start_s = sum(row["of_which_start"] or 0 for row in rows.values())
    for name, row in rows.items():
        start_of = row["of_which_start"]
        start = "not measured" if start_of is None else f"{start_of:.1f} s"
        print(f"{name:24} {row['seconds']:7.1f} s, start {start}")
    print(f"{'all':24} {total_s:7.1f} s, start {start_s:6.1f} s")
    results = {"stages": rows, "total_s": round(total_s, 1), "start_s": round(start_s, 1)}
    machine.save("stages", before, results)


if __name__ == "__main__":
    main()
