"""Run a command whose processes share one Ray: `python -m components.cluster dvc repro`."""

import sys

from components.cluster.sessions import run_inside

sys.exit(run_inside(sys.argv[1:]))
