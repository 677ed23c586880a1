"""Jobs on a Ray cluster: submit one to its job server, follow it, stop it, list them."""

import asyncio
import contextlib
import http.client
import io
import json
import logging
import os
import platform
import secrets
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from components.jobs import results, working_tree
from components.jobs.working_tree import Tree
from components.storage import ROOT_VARIABLE, data_root
from components.tracking.client import URI_VARIABLE, uri

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# Where Ray itself looks for the address of its job server, in this order.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TIMEOUT_S = 5.0  # of a question; Ray's own client would wait for minutes
_ANSWER_TIMEOUT_S = 15.0  # of other calls: for a connection, and for each part of an answer
_SEND_TIMEOUT_S = 60.0  # the server answers after it has stored what it was sent
_HEARTBEAT_S = 5.0  # while a log is silent, the server is asked this often whether it is there
_SIGN_OF_LIFE = "/api/version"
_STOP_TIMEOUT_S = 30.0  # Ray kills a job three seconds after it was told to end
# What these log also comes as an exception, or does not help the person who submits.
_TALKATIVE = (
    "ray",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A job of the cluster. `started_at` is in seconds since 1970, None before it starts."""

    name: str
    state: str
    started_at: float | None
    commit: str | None
    dirty: bool
    command: str


def find_address(address: str | None) -> str:
    """Find the URL of the job server, in the environment if it is not given.

    Raises: ValueError if there is none, or it is not the URL of a dashboard.
    """
    origin = "--address"
    for variable in ADDRESS_VARIABLES:
        if not address:
            origin, address = variable, os.environ.get(variable)
    if not address:
        raise ValueError(
            "no cluster is named: give --address http://HOST:8265 or set RAY_API_SERVER_ADDRESS"
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{origin} = {address} is not the address of a Ray dashboard, which looks like "
            "http://HOST:8265"
        )
    return address.rstrip("/")


def connect(address: str) -> "JobSubmissionClient":
    """Open the job server at an address from `find_address`, or raise an error within seconds.

    Raises: ValueError if nothing answers, it is not Ray, it wants another token, or it has another
        version of Ray or Python.
    """
    _check_is_ray(address)
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ[ADDRESS_VARIABLES[0]] = address  # Ray prefers this to the argument

    class Client(JobSubmissionClient):
        """Ray's client, with timeouts."""

        def _do_request(self, method: str, *arguments: Any, **options: Any) -> Any:
            patience = _ANSWER_TIMEOUT_S if method == "GET" else _SEND_TIMEOUT_S
            if data := options.pop("data", None):
                options["data"] = io.BytesIO(data)  # sent in pieces, and the timeout is for each
            return super()._do_request(method, *arguments, **{"timeout": patience, **options})

    with _in_words(address):
        client = Client(address)
        _check_versions(client)
    return client


def _check_is_ray(address: str) -> None:
    url = f"{address}/api/version"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            is_ray = "ray_version" in json.load(answer)
    except urllib.error.HTTPError as error:
        is_ray = error.code in (401, 403)  # a token is wanted: the client has it
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"nothing answers at {address} ({reason}): is the cluster up, and its port 8265 "
            "reachable or forwarded?"
        ) from error
    except (http.client.HTTPException, ValueError, TypeError):
        is_ray = False
    if not is_ray:
        raise ValueError(
            f"what answers at {address} is not a Ray dashboard: check host and port (8265)"
        )


def _check_versions(client: "JobSubmissionClient") -> None:
    import ray

    here, there = ray.__version__, _ask(client, "/api/version")["ray_version"]
    if here != there:
        advice = "use an image made from this requirements.lock"
        raise ValueError(_about_version("Ray", client, there, here, advice))
    there = _ask(client, "/api/v0/cluster_metadata")["data"]["pythonVersion"]
    here = platform.python_version()
    if here.split(".")[:2] != there.split(".")[:2]:
        advice = f"make .venv with Python {there}, or use an image with Python {here}"
        raise ValueError(_about_version("Python", client, there, here, advice))


def _ask(client: "JobSubmissionClient", page: str) -> Any:
    """Get a page for which Ray's client has no call of its own, within seconds."""
    return client._do_request("GET", page, timeout=_TIMEOUT_S).json()


def _about_version(
    name: str, client: "JobSubmissionClient", there: str, here: str, advice: str
) -> str:
    return f"{name} is {there} on the cluster at {client.get_address()}, {here} here: {advice}"


@contextlib.contextmanager
def _in_words(address: str, advice: str = "") -> Iterator[None]:
    """Raise a ValueError of one line for what Ray's client raises in the block."""
    import aiohttp  # which the client is made of
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ValueError(_about_token(address, str(error))) from None
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        # A server's error comes with its traceback; the last line says what it was.
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"Ray at {address}: {said}{advice}") from error


def _about_token(address: str, said: str) -> str:
    if said.startswith("Authentication failed"):
        return (
            f"the cluster at {address} refuses the token: put the cluster's into RAY_AUTH_TOKEN or "
            "~/.ray/auth_token"
        )
    return (
        f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and put the token "
        "into RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def submit(client: "JobSubmissionClient", command: Sequence[str], source: Tree) -> str:
    """Send a tree to the cluster, start a command in it, and return the job's name.

    The job's metadata name the commit, and say whether tracked files differ from it.

    Raises: ValueError if the tree is too large (then nothing is sent), or Ray refuses it.
    """
    job = f"hdrface-{secrets.token_hex(4)}"
    commit, dirty = source.commit["commit"], source.commit["dirty"]
    metadata = {"git_commit": commit, "git_dirty": json.dumps(dirty)} if commit else {}
    metadata["tree"] = results.digest(source.folder, list(source.files))
    metadata["lock"] = results.lock_hash(source.folder)
    metadata["command"] = shlex.join(command)
    settings = _settings()
    if ROOT_VARIABLE in settings:
        metadata["root"] = settings[ROOT_VARIABLE]
    command = ["python", "-m", "components.jobs.runner", job, *command]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.zip"
        size = working_tree.pack(source, archive, job)
        log.info(
            "sending %d files, %.1f MB, %s",
            len(source.files),
            size / 1e6,
            f"commit {commit[:9]}{' and changes' if dirty else ''}" if commit else "without git",
        )
        with _in_words(client.get_address()):
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job,
                metadata=metadata,
                runtime_env={"working_dir": str(archive), "env_vars": settings},
            )
    return job


def _settings() -> dict[str, str]:
    """Return the settings that a job gets. Raises: ValueError if they contain credentials."""
    settings = {}
    if (root := data_root()) is not None:
        settings[ROOT_VARIABLE] = root.url
    if (server := uri()) is not None:
        settings[URI_VARIABLE] = server
    return settings


def metadata(client: "JobSubmissionClient", job: str) -> dict[str, str]:
    """Read the metadata that a job was submitted with. Raises: ValueError as `follow`."""
    return dict(_details(client, job).metadata or {})


def follow(client: "JobSubmissionClient", job: str, write: Callable[[str], object]) -> int:
    """Pass the log of a job to `write`, from its beginning until the job ends.

    Returns: the exit code of its command, as a shell would give it; 1 if it failed without one.
    Raises: ValueError if there is no such job, or the connection is lost.
    """
    from aiohttp import ClientError

    if (details := _details(client, job)).status.is_terminal():
        with _in_words(client.get_address()):
            write(client.get_job_logs(job))  # tailing a complete log takes Ray six seconds longer
        return _exit_code(job, details)
    log_so_far = _Log(write)
    advice = f"; {job} continues, without its log here: attach to it again"
    while True:
        broke_off = False
        try:
            asyncio.run(_tail(client, job, log_so_far))
        except (OSError, ClientError):  # the next call shows whether it is gone
            broke_off = True
        if (details := _details(client, job, advice)).status.is_terminal():
            break
        time.sleep(1)
    if broke_off:
        with _in_words(client.get_address(), advice):
            log_so_far.begin()
            log_so_far.add(client.get_job_logs(job))
    return _exit_code(job, details)


class _Log:
    """Passes on a log that may arrive in several attempts, each from its beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._written, self._seen = write, 0, 0

    def begin(self) -> None:
        self._seen = 0

    def add(self, text: str) -> None:
        known = max(0, self._written - self._seen)
        self._seen += len(text)
        if fresh := text[known:]:
            self._write(fresh)
            self._written += len(fresh)


async def _tail(client: "JobSubmissionClient", job: str, log_so_far: _Log) -> None:
    """Follow a log as Ray's `tail_job_logs`, but end when the network is lost without a sign.

    The sign of life is a separate request: Ray's server answers no ping on a log's connection.
    Ray's own call has no time limit, also not for closing.
    """
    import aiohttp

    url = f"{client.get_address()}/api/jobs/{job}/logs/tail"
    log_so_far.begin()
    farewell = aiohttp.ClientWSTimeout(ws_close=1.0)  # to a network that is gone
    async with (
        aiohttp.ClientSession(cookies=client._cookies, headers=client._headers) as session,
        session.ws_connect(url, timeout=farewell, ssl=client._ssl_context) as log_socket,
    ):
        waiting = asyncio.create_task(log_socket.receive())
        while True:
            if not (await asyncio.wait({waiting}, timeout=_HEARTBEAT_S))[0]:
                await asyncio.to_thread(_ask, client, _SIGN_OF_LIFE)
                continue
            if (message := waiting.result()).type != aiohttp.WSMsgType.TEXT:
                break
            log_so_far.add(message.data)
            waiting = asyncio.create_task(log_socket.receive())
        if log_socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
            raise ConnectionResetError(f"the log of {job} broke off")


def stop(client: "JobSubmissionClient", job: str) -> int:
    """Stop a job, and return its exit code as `follow` does.

    Raises: ValueError if there is no such job, or it does not end in 30 seconds.
    """
    with _in_words(client.get_address()):
        client.stop_job(job)
    end = time.monotonic() + _STOP_TIMEOUT_S
    while not (details := _details(client, job)).status.is_terminal():
        if time.monotonic() > end:
            raise ValueError(f"{job} was told to stop, but still runs: see Ray's dashboard")
        time.sleep(0.5)
    return _exit_code(job, details)


def _details(client: "JobSubmissionClient", job: str, advice: str = "") -> Any:
    with _in_words(client.get_address(), advice):
        if job in {details.submission_id for details in client.list_jobs()}:
            return client.get_job_info(job)
    raise ValueError(f"no job '{job}' at {client.get_address()}: 'hdrface jobs' lists them")


def _exit_code(job: str, details: Any) -> int:
    state, code = str(details.status), details.driver_exit_code
    if code is not None:
        return 128 - code if code < 0 else int(code)  # a shell's number for "ended by signal"
    if state == "SUCCEEDED":
        return 0
    said = (details.message or "Ray gives no reason").strip().splitlines()[-1]
    log.error("%s is %s: %s", job, state, said)
    return 1


def find_jobs(client: "JobSubmissionClient") -> list[Job]:
    """List the submitted jobs that the cluster remembers, newest first.

    Raises: ValueError if the connection is lost.
    """
    with _in_words(client.get_address()):
        found = [details for details in client.list_jobs() if details.submission_id]
    jobs = [
        Job(
            name=str(details.submission_id),
            state=str(details.status),
            started_at=details.start_time / 1000 if details.start_time else None,
            commit=(details.metadata or {}).get("git_commit"),
            dirty=(details.metadata or {}).get("git_dirty") == "true",
            command=(details.metadata or {}).get("command", details.entrypoint),
        )
        for details in found
    ]
    return sorted(jobs, key=lambda job: job.started_at or float("inf"), reverse=True)
