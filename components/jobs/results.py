"""What a job sends home, and how its results come into the tree that it was sent from.

    ROOT/dvc/               outs of finished stages: DVC's own remote
    ROOT/jobs/JOB/          dvc.lock, params.yaml, metrics/, the report, after each finished stage
    ROOT/jobs/JOB/experiments.bundle  a git bundle of what 'dvc exp run' has made
    ROOT/jobs/last-PROJECT  the project's last job: the next one continues from its dvc.lock

The first commit of its history is the name of a project.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from components import files, git
from components.jobs import push_outs
from components.storage import Storage, open_storage

LOCK = "dvc.lock"
PARAMS = "params.yaml"
_ALWAYS = (LOCK, PARAMS, "reports/index.html")
_METRICS = "metrics"
_SENT_LOCK = "sent.lock"  # the dvc.lock that the job began with
_BUNDLE = "experiments.bundle"
_OWN = (_SENT_LOCK, _BUNDLE)  # in a job's folder, but not files of the tree
_EXPERIMENT = "refs/exps/??/*/*"  # COMMIT/NAME; DVC's other refs are temporary
_REMOTE = "hdrface"
BESIDE = ".hdrface/jobs"  # where results lie that do not fit the tree

log = logging.getLogger(__name__)


def is_result(name: str) -> bool:
    """Return whether a file of a tree is a result of jobs, not an input."""
    return name in (LOCK, "reports/index.html") or name.startswith(f"{_METRICS}/")


def digest(folder: Path, names: list[str]) -> str:
    """Hash the input of a job: every file that is sent, except results."""
    found = hashlib.sha256()
    for name in sorted(name for name in names if not is_result(name)):
        found.update(f"{name}\0".encode())
        found.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return found.hexdigest()


def use_remote(folder: Path, root: Storage) -> None:
    """Make ROOT/dvc the default DVC remote of a checkout that has none of its own.

    It is written into `.dvc/config.local`, and again when the root has another address.

    Raises: ValueError with DVC's last line if that fails.
    """
    if not (folder / ".dvc").is_dir():
        return
    url = f"{root.url}/dvc"
    default = _dvc(folder, "config", "core.remote").stdout.strip()
    known = _dvc(folder, "config", f"remote.{_REMOTE}.url").stdout.strip()
    if default not in ("", _REMOTE) or (default, known) == (_REMOTE, url):
        return
    words = ("remote", "add", "--local", "--default", "--force", _REMOTE, url)
    if (done := _dvc(folder, *words)).returncode:
        raise ValueError(f"dvc remote add in {folder}: {_last_line(done.stderr)}")
    log.info("DVC's default remote here is now %s (.dvc/config.local)", url)


def go_on(folder: Path, root: Storage, job: str) -> None:
    """Prepare a job: fetch what the project's jobs have finished, so that it is not made again.

    The last job's `dvc.lock` replaces this one if that job began with it; otherwise this one stays,
    and stages that it lacks are added. DVC still runs whatever has changed.
    """
    project, place = _project_of(folder), root / "jobs" / job
    place.write(_SENT_LOCK, _lock(folder))
    last = _last_job(root, project)
    if last is not None:
        _merge_lock(folder, last)
    if _lock(folder):
        # A job that finishes nothing still passes on what it found.
        for name in _results(folder):
            place.write(name, (folder / name).read_bytes())
        # Not `dvc pull`: if one object is missing in the remote, it fetches none.
        if (done := _dvc(folder, "fetch", "--quiet")).returncode:
            log.warning(
                "dvc fetch: %s; what is missing will be made again", _last_line(done.stderr)
            )
        _dvc(folder, "checkout", "--quiet", "--allow-missing", "--force")
    root.write(f"jobs/last-{project}", job.encode())


def _last_job(root: Storage, project: str) -> Storage | None:
    try:
        return root / "jobs" / root.read(f"jobs/last-{project}").decode()
    except FileNotFoundError:
        return None


def _merge_lock(folder: Path, last: Storage) -> None:
    here = _lock(folder)
    try:
        lock = last.read(LOCK)
    except FileNotFoundError:
        return  # it finished nothing
    goes_on = here == last.read(_SENT_LOCK)
    if not goes_on:
        merged = yaml.safe_load(lock)
        merged["stages"] |= (yaml.safe_load(here) or {}).get("stages", {})
        lock = yaml.safe_dump(merged, sort_keys=False).encode()
    files.write_bytes(folder / LOCK, lock)
    # DVC's remote has no metrics: they are in git and in the job's folder.
    for name in last.sizes():
        if name.startswith(f"{_METRICS}/") and (goes_on or not (folder / name).exists()):
            files.write_bytes(folder / name, last.read(name))


def send(folder: Path, root: Storage, job: str) -> None:
    """Push the outs of finished stages, then send `dvc.lock` and the other results.

    Raises: OSError if the remote or the data root refuses them.
    """
    lock = _lock(folder)
    if lock and (folder / ".dvc").is_dir():
        _push(folder, lock)
    place = root / "jobs" / job
    for name in _results(folder):
        # The lock from before the push: another stage may have ended since.
        place.write(name, lock if name == LOCK else (folder / name).read_bytes())


def _push(folder: Path, lock: bytes) -> None:
    # In a separate process: whatever DVC and its remote raise ends only that one.
    command = [sys.executable, "-m", push_outs.__name__, str(folder.absolute())]
    done = subprocess.run(command, input=lock, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"DVC's outs are not pushed: {_last_line(done.stderr.decode())}")


def send_experiments(folder: Path, root: Storage, job: str) -> None:
    """Push the outs of all DVC experiments, if there are any, then their commits as a bundle.

    Raises: OSError as `send`.
    """
    listed = git.run(folder, "for-each-ref", "--format=%(refname)", _EXPERIMENT)
    found = listed.stdout.decode().split()
    if not found:
        return
    for ref in found:
        if lock := git.run(folder, "show", f"{ref}:{LOCK}").stdout:
            _push(folder, lock)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / _BUNDLE
        # The receiver has the commit that they are based on.
        done = git.run(folder, "bundle", "create", "--quiet", str(bundle), *found, "^HEAD")
        if done.returncode:
            raise OSError(f"git bundle: {_last_line(done.stderr.decode())}")
        (root / "jobs" / job).put(bundle, _BUNDLE)


def _land_experiments(folder: Path, place: Storage, job: str) -> None:
    if place.size(_BUNDLE) is None:
        return
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / _BUNDLE
        place.get(_BUNDLE, bundle)
        done = git.run(folder, "fetch", "--quiet", str(bundle), "+refs/exps/*:refs/exps/*")
    if done.returncode:
        said = _last_line(done.stderr.decode())
        log.warning("the experiments of %s stay in %s/%s: %s", job, place.url, _BUNDLE, said)
    else:
        log.info("the experiments of %s are here: 'dvc exp show' lists them", job)


def _results(folder: Path) -> Iterator[str]:
    metrics = (path for path in (folder / _METRICS).rglob("*") if path.is_file())
    yield from (path.relative_to(folder).as_posix() for path in metrics)
    yield from (name for name in reversed(_ALWAYS) if (folder / name).is_file())


def land(folder: Path, job: str, names: list[str], sent: Mapping[str, str]) -> None:
    """Write a job's results into the tree that it was sent from, or beside a tree that has changed.

    Args:
        folder: the tree.
        job: the job's name.
        names: the files of the tree that a job would be sent now.
        sent: the job's metadata: `root` is its data root, `tree` and `lock` hash what was sent.

    Raises: OSError if the data root cannot be reached.
    """
    root = open_storage(sent["root"])
    if root.is_folder and not Path(root.path).is_dir():
        raise FileNotFoundError(f"{root.url} is not mounted on this machine")
    place = root / "jobs" / job
    _land_experiments(folder, place, job)
    results = {name: place.read(name) for name in place.sizes() if name not in _OWN}
    if not results:
        log.info("%s has finished no stage", job)
        return
    target = folder if _is_as_sent(folder, names, sent, results) else folder / BESIDE / job
    for name, data in results.items():
        # Not in place: DVC may have linked the older report to its cache.
        files.write_bytes(target / name, data)
    if target == folder:
        use_remote(folder, root)
        log.info("%d results of %s are here; 'dvc pull' brings the rest", len(results), job)
    else:
        # git ignores the folder, so it is not sent with jobs.
        (folder / BESIDE).with_name(".gitignore").write_text("*\n")
        log.warning(
            "this tree has changed since it was sent: the results of %s are in %s", job, target
        )


def _is_as_sent(
    folder: Path, names: list[str], sent: Mapping[str, str], results: Mapping[str, bytes]
) -> bool:
    here = {name: (folder / name).is_file() and (folder / name).read_bytes() for name in results}
    if here == results:
        return True  # they came before
    if digest(folder, names) != sent["tree"]:
        return False
    return lock_hash(folder) in (sent["lock"], hashlib.sha256(results.get(LOCK, b"")).hexdigest())


def lock_hash(folder: Path) -> str:
    """Hash `dvc.lock`; without one, hash nothing."""
    return hashlib.sha256(_lock(folder)).hexdigest()


def _lock(folder: Path) -> bytes:
    file = folder / LOCK
    return file.read_bytes() if file.is_file() else b""


def _project_of(folder: Path) -> str:
    done = git.run(folder, "rev-list", "--max-parents=0", "HEAD")
    return done.stdout.decode().split()[-1][:16] if done.returncode == 0 else "without-git"


def _last_line(said: str) -> str:
    return (said.strip() or "no message").splitlines()[-1]


def _dvc(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    log.debug("dvc %s: %s", words[0], done.stderr.strip())
    return done
