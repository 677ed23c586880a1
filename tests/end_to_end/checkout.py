"""A copy of the project in a folder of its own, where tests run what people run."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LINE = ["components", "pipelines", "conf", "dvc.yaml", ".dvcignore", ".dvc/config"]


class Checkout:
    """What a run of the line needs, without git."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "PATH": f"{BIN}:{environment['PATH']}"}
        for name in LINE:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / name, target, ignore=ignored)
            else:
                shutil.copy(REPOSITORY / name, target)
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")

    def commit(self, *without: str) -> None:
        """Put what is there under git, as in a clone of the project, but not these names."""
        (self.folder / ".dvc/config.local").unlink()
        (self.folder / ".gitignore").write_text("/data\n/models\n/reports\n/.hdrface\n*.pyc\n")
        (self.folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        git = ("git", "-c", "user.name=someone", "-c", "user.email=someone@example.org")
        add = ["add", "-A", "--", ".", *(f":!{name}" for name in without)]
        for words in (["init", "-q"], add, ["commit", "-qm", "the line"]):
            subprocess.run([*git, *words], cwd=self.folder, check=True)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate()
        return process.returncode, output

    def succeed(self, *command: str) -> str:
        """Run a command that must end well, and give what it printed."""
        code, output = self.run(*command)
        assert code == 0, output
        return output

    def hdrface(self, *words: str) -> str:
        return self.succeed(sys.executable, "-m", "pipelines.cli", *words)
