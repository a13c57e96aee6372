"""A model on a hub, which here is a real server on this machine: headers are read, weights not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fp8scope.checkpoint.hub import read_remote
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.checkpoint.linears import linears
from fp8scope.errors import BadModel, Missing
from tests import models

REPO = "org/small"


class _Hub(ThreadingHTTPServer):
    """Serves the files of one folder as `org/small`, and counts the bytes that it sends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.server.folder / self.path.split("?")[0].rpartition("/")[2]
        prefix = f"/{REPO}/resolve/"
        if not self.path.startswith(prefix) or not path.is_file():
            self.send_response(404)
            known = self.path.startswith(prefix)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.name}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data)
            self.server.sent += len(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def _hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Hub]:
    server = _Hub(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("shard_size", ["1GB", "200KB"])
def test_headers_say_what_a_folder_says(
    shard_size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.build("llama", intermediate_size=1024)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if shard_size == "1GB" else 6)
    with _hub(tmp_path, monkeypatch) as hub:
        config, inventory = read_remote(REPO)
    local = read_inventory(tmp_path)
    assert inventory.shapes() == local.shapes()
    assert config == json.loads((tmp_path / "config.json").read_text())
    assert linears(inventory, config) == linears(local, config)
    if shard_size == "1GB":
        assert hub.sent < 0.2 * local.nbytes()


def test_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _hub(tmp_path, monkeypatch), pytest.raises(BadModel, match="the hub has no model a/b"):
        read_remote("a/b")


def test_a_model_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    with _hub(tmp_path, monkeypatch), pytest.raises(BadModel, match="has no safetensors"):
        read_remote(REPO)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _hub(tmp_path, monkeypatch):
        pass
    with pytest.raises(Missing, match="cannot be fetched from the hub"):
        read_remote(REPO)
