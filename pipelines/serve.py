"""The endpoint for Ray Serve on a running cluster: `serve run pipelines.serve:app max_faces=4`.

Parameters come from the section `serve` of `params.yaml`, if there is one. Arguments of
`serve run`, or `args` of a Serve file, replace single keys.
"""

from pathlib import Path
from typing import Any

from ray.serve import Application

from components.cluster import Workplace
from components.params import PARAMS_FILE, read
from components.serving.application import build
from components.serving.params import ServeParams
from components.storage import data_root


def app(arguments: dict[str, Any]) -> Application:
    """Build the application. Raises: ParamsError naming each bad key."""
    section = read().get("serve", {}) if PARAMS_FILE.is_file() else {}
    params = ServeParams.parse("serve", {"serve": {**section, **arguments}})
    # Settings of S3 come from the nodes' own environment: those of this process would be lost with
    # it, which Serve ends when the application is built.
    return build(params, Workplace(Path.cwd() if data_root() is None else None, []))
