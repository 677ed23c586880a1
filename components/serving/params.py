"""The parameters of the endpoint: the section `serve` of `params.yaml`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from omegaconf import OmegaConf
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, StringConstraints

from components.params import Params, read
from components.weights.precision import InferencePrecision

Fraction = Annotated[float, Field(ge=0, le=1)]
# Neither a scheme nor a port: an IPv6 address has no brackets.
Host = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:.]+)$")]


class Replicas(Params):
    """How many processes a part has, and what each needs."""

    min: PositiveInt = 1
    max: PositiveInt = 1
    cpus: NonNegativeFloat = 1
    gpus: NonNegativeFloat = 0


class JobLimits(Params):
    """What jobs may cost, and how long their results are kept."""

    # A folder of this machine, or an s3:// prefix or a folder that every node of a cluster sees.
    # Two endpoints may not share it.
    folder: str = "data/jobs"
    keep_s: PositiveFloat = 86_400  # after a job is finished; an unfinished one ends after it, too
    max_files: PositiveInt = 100  # of one job
    max_upload_mb: PositiveFloat = 256  # of one job
    max_jobs: PositiveInt = 8  # of one key
    max_mb: PositiveFloat = 1024  # of one key: files that wait, and results

    @property
    def upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1e6)

    @property
    def kept_bytes(self) -> int:
        return int(self.max_mb * 1e6)


class ServeParams(Params):
    """The section `serve`."""

    # By name: a trained folder, models:/NAME@ALIAS or models:/NAME/VERSION. The first one is the
    # default of requests.
    models: dict[str, str]
    look_every_s: PositiveFloat  # how often to look for a new version of each model
    self_test_psnr: NonNegativeFloat  # dB; below it, a model fails its self-test and is not used
    detector: Path | None
    min_score: Fraction
    identity_network: Path | None
    # A file of `hdrface keys`. None: no key is needed, and only this machine may send requests.
    keys: Path | None
    # Names and addresses that clients reach the server by, beside those of loopback. Requests with
    # another Host header are refused: DNS may lead anybody's name to this machine.
    hosts: tuple[Host, ...] = ()
    # Requests for restorations that one key may send in a minute. None: any number.
    requests_per_minute: PositiveInt | None = None
    max_upload_mb: PositiveFloat
    max_pixels: PositiveInt
    max_faces: PositiveInt
    timeout_s: PositiveFloat
    max_queued: PositiveInt  # requests that may wait for a part; more are refused with 429
    max_batch: PositiveInt  # faces
    batch_wait_s: NonNegativeFloat
    # bf16: half of the memory, and fast on GPUs that have it. int8: less memory still, for versions
    # that passed `hdrface check`.
    precision: InferencePrecision = "float32"
    # Compile networks for batches of 1, 2, 4, ... max_batch faces, which takes minutes for each
    # version of a model.
    compile: bool = False
    page: bool
    jobs: JobLimits = JobLimits()
    ingress: Replicas
    finder: Replicas
    model: Replicas

    @property
    def upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1e6)


def load(overrides: Sequence[str] = ()) -> ServeParams:
    """Read the section, with single values replaced (`model.gpus=1`). Raises: ParamsError."""
    section = OmegaConf.create(read().get("serve", {}))
    changes = OmegaConf.from_dotlist(list(overrides))
    if "models" in changes:  # these models replace the others, they are not added
        section.models = {}
    changed = OmegaConf.merge(section, changes)
    return ServeParams.parse("serve", {"serve": OmegaConf.to_container(changed)})
