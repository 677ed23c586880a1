import subprocess
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import unzip_package

from components import git
from components.jobs import working_tree


@pytest.mark.parametrize("dirty", [False, True])
def test_a_job_knows_its_commit_and_whether_files_differ_from_it(
    dirty: bool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    script = source / "script.sh"
    script.write_text("true\n")
    script.chmod(0o755)
    who = ("-c", "user.name=a", "-c", "user.email=b@c")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=source, check=True)
    if dirty:
        script.write_text("false\n")

    tree = working_tree.tree(source)
    working_tree.pack(tree, tmp_path / "job.zip", "a-job")
    unzip_package(
        str(tmp_path / "job.zip"),
        str(tmp_path / "job"),
        remove_top_level_directory=False,
        unlink_zip=False,
    )

    assert tree.commit["commit"]
    assert git.commit(tmp_path / "job") == {"commit": tree.commit["commit"], "dirty": dirty}
