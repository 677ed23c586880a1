"""Push the outs of a `dvc.lock` to DVC's default remote, while `dvc repro` runs in the same folder.

    python -m components.jobs.push_outs FOLDER < dvc.lock

`dvc push` would hold the project's lock for all that time, and a `dvc repro` whose stage ends then
waits three seconds for the lock and fails. Objects in the cache never change, so reading them needs
no lock. What is not in the cache (outs that DVC does not cache, or that were never pulled) is left
out.
"""

import sys
from pathlib import Path
from typing import Any

import yaml


def push(folder: Path, lock: bytes) -> None:
    """Push every object of the cache that a lock's outs name, with the contents of folders.

    Raises: OSError if some could not be pushed, and what DVC and its remote raise.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index
    from dvc_data.hashfile.transfer import transfer

    with Repo(str(folder)) as repo:
        cache = repo.cache.local
        cached = [found for found in _outs(lock) if cache.exists(found.value)]
        if not cached:
            return
        remote = repo.cloud.get_remote_odb(command="push")
        index = get_index(remote)
        # With `shallow`, only the list of a folder would be pushed, not its files.
        done = transfer(cache, remote, cached, dest_index=index, cache_odb=cache, shallow=False)
        if failed := done.failed:
            raise OSError(f"{len(failed)} objects of the cache could not be pushed")


def _outs(lock: bytes) -> set[Any]:
    from dvc_data.hashfile.hash_info import HashInfo

    stages = (yaml.safe_load(lock) or {}).get("stages", {}).values()
    outs = (out for stage in stages for out in stage.get("outs", ()))
    return {HashInfo("md5", out["md5"]) for out in outs if out.get("hash") == "md5"}


if __name__ == "__main__":
    push(Path(sys.argv[1]), sys.stdin.buffer.read())
