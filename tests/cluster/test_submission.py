"""What a submitted job meets on a real cluster: other packages, a network that goes away."""

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.cluster.ray_nodes import Nodes, ray_nodes
from tests.end_to_end.checkout import Checkout

pytestmark = [pytest.mark.cluster]

OTHER = "iniconfig==2.0.0"  # small, of Python alone, and here in another version
LOOK = """
import ray
from importlib.metadata import version
import iniconfig
ray.init(address="auto", log_to_driver=False)
there = ray.remote(lambda: (version("iniconfig"), version("numpy")))
print("HERE", version("iniconfig"), version("numpy"))
print("THERE", *ray.get(there.remote()))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("home"), os.environ)
    checkout.commit()
    return checkout


@pytest.fixture(scope="module")
def nodes(home: Checkout) -> Iterator[Nodes]:
    with ray_nodes(os.environ, [home.folder]) as found:
        found.start_head({})
        yield found


def test_a_job_has_the_packages_of_its_own_lock(nodes: Nodes, home: Checkout) -> None:
    (home.folder / "requirements.lock").write_text(f"{OTHER} \\\n    --hash=sha256:{'0' * 64}\n")
    with nodes.hdrface(home.folder, "submit", "--", "python", "-c", LOOK) as process:
        out, _ = process.communicate(timeout=300)
    (home.folder / "requirements.lock").unlink()
    from importlib.metadata import version

    assert process.returncode == 0, out
    assert f"the cluster lacks 1 packages of requirements.lock: {OTHER}" in out
    assert f"HERE 2.0.0 {version('numpy')}" in out
    assert f"THERE 2.0.0 {version('numpy')}" in out


def test_a_network_that_goes_without_a_word_ends_the_following(
    nodes: Nodes, home: Checkout
) -> None:
    proxy = Silencer(nodes.address)
    command = ("submit", "--address", proxy.address, "--", "sh", "-c", "echo begun; sleep 120")
    with nodes.hdrface(home.folder, *command, RAY_API_SERVER_ADDRESS=proxy.address) as process:
        assert process.stdout is not None
        while "begun" not in (line := process.stdout.readline()) or "entrypoint" in line:
            assert line, "the log ended"
        proxy.is_silent.set()
        silent_since = time.monotonic()
        out, _ = process.communicate(timeout=150)
    assert time.monotonic() - silent_since < 45
    assert process.returncode == 2
    assert "continues, without its log here: attach to it again" in out
    assert "Traceback" not in out


class Silencer:
    """A TCP proxy that, told to be silent, keeps its connections and forwards nothing."""

    def __init__(self, upstream: str) -> None:
        self._upstream = ("127.0.0.1", int(upstream.rpartition(":")[2]))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.is_silent = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with selectors.DefaultSelector() as ready, client, server:
            for each in other:
                ready.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if not self.is_silent.is_set():
                        other[key.fileobj].sendall(data)  # type: ignore[index]
