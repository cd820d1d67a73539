"""Fetching a file from an HTTP server in this process: complete, resumed, changed, removed, unreachable."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import io
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recorder
from test_convert import won_stack

from musictagger.errors import ModelError
from musictagger.models.published import catalogue
from musictagger.models.published.catalogue import WebFile
from musictagger.models.published.fetch import Wanted, fetch
from musictagger.models.published.pull import import_file, pull
from musictagger.models.weights import load_model
from musictagger.progress import SILENT, Progress

CONTENT = bytes(range(256)) * 1000


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; ends the connection after `cut_after` bytes; supports ranges if `ranges` is set."""

    cut_after = len(CONTENT)
    ranges = True
    status = 200
    content = CONTENT
    asked: list[str]
    gate: threading.Event
    """Nothing is sent until it is set."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"] or ""
        self.server.asked.append(wanted)
        self.server.gate.wait(20)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and self.server.ranges else 0
        content = self.server.content
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut_after])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.gate = [], threading.Event()
    server.gate.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def wanted(server: Server, content: bytes = CONTENT) -> Wanted:
    url = f"http://127.0.0.1:{server.server_port}/models/best.pth"
    return Wanted("won", WebFile(url, hashlib.sha256(content).hexdigest(), len(content)), "bring it here")


def get(what: Wanted, folder: Path, progress: Progress = SILENT) -> Path:
    return fetch(what, folder, progress)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    progress = Recorder()
    path = get(wanted(server), tmp_path, progress)
    assert path.read_bytes() == CONTENT
    assert progress.stages == [("fetching won", len(CONTENT), "bytes")]
    assert progress.done[-1] == len(CONTENT)
    assert get(wanted(server), tmp_path) == path
    assert server.asked == [""]
    assert list(tmp_path.iterdir()) == [path]


def test_an_incomplete_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(ModelError, match=r"after 100000 of 256000 bytes; run .* again to resume it"):
        get(wanted(server), tmp_path)
    server.cut_after = len(CONTENT)
    progress = Recorder()
    assert get(wanted(server), tmp_path, progress).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-"]
    assert progress.done[0] > 100_000


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(ModelError):
        get(wanted(server), tmp_path)
    server.cut_after, server.ranges = len(CONTENT), False
    assert get(wanted(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT * 2])
def test_another_file_is_refused_and_not_kept(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content, server.cut_after = content, len(content)
    with pytest.raises(ModelError, match=r"is not the file that was verified .*SHA-256.*nothing was installed"):
        get(wanted(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_detected(server: Server, tmp_path: Path) -> None:
    server.content, server.cut_after = CONTENT[::-1], 100_000
    with pytest.raises(ModelError):
        get(wanted(server), tmp_path)
    server.content, server.cut_after = CONTENT, len(CONTENT)
    with pytest.raises(ModelError, match="SHA-256"):
        get(wanted(server), tmp_path)
    assert get(wanted(server), tmp_path).read_bytes() == CONTENT


def test_a_file_removed_from_the_server_gives_a_readable_message(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ModelError, match=r"best\.pth answers 404 Not Found; .*bring it here") as caught:
        get(wanted(server), tmp_path)
    assert "\n" not in str(caught.value) and "no network" not in str(caught.value)


def test_a_part_beyond_the_end_is_dropped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(ModelError):
        get(wanted(server), tmp_path)
    server.status = 416
    with pytest.raises(ModelError, match="416"):
        get(wanted(server), tmp_path)
    server.status, server.cut_after = 200, len(CONTENT)
    assert get(wanted(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ""


def test_without_network_the_message_gives_advice(server: Server, tmp_path: Path) -> None:
    nowhere = WebFile("http://127.0.0.1:1/best.pth", "0" * 64, 10)
    with pytest.raises(ModelError, match=r"no network\? Run `musictagger weights pull won`.*bring it here") as caught:
        get(Wanted("won", nowhere, "bring it here"), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)),
        OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)),
        ssl.SSLError("record layer failure"),
        ConnectionResetError("reset"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
    ],
)
def test_a_lost_connection_is_not_a_disk_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    urlopen = urllib.request.urlopen

    def breaking(request: urllib.request.Request, timeout: float) -> Any:
        answer = urlopen(request, timeout=timeout)
        blocks = iter([answer.read(100)])

        def read(size: int) -> bytes:
            for block in blocks:
                return bytes(block)
            raise error

        answer.read = read
        return answer

    with monkeypatch.context() as patch, pytest.raises(ModelError) as caught:
        patch.setattr(urllib.request, "urlopen", breaking)
        get(wanted(server), tmp_path)
    message = str(caught.value)
    assert f"{error} after 100 of 256000 bytes; run" in message and "written" not in message
    assert get(wanted(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=100-"


def test_an_interruption_keeps_the_part(server: Server, tmp_path: Path) -> None:
    class Interrupt(Recorder):
        def advance(self, done: int, **metrics: float) -> None:
            if done > 100_000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(wanted(server), tmp_path, Interrupt())
    assert next(tmp_path.iterdir()).stat().st_size > 100_000
    assert get(wanted(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1].startswith("bytes=")


# --- a model from the web ----------------------------------------------------------------------------------------


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> catalogue.CatalogueEntry:
    """Replace won-msd-fcn by a small FCN on this server."""
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(50, 2), "dense.bias": torch.randn(50)}
    content = io.BytesIO()
    torch.save(state, content)
    server.content, server.cut_after = content.getvalue(), len(content.getvalue())
    entry = dataclasses.replace(catalogue.entry("won-msd-fcn"), source=wanted(server, server.content).source)
    monkeypatch.setattr(catalogue, "entries", lambda: {"won-msd-fcn": entry})
    return entry


@pytest.mark.usefixtures("published")
def test_the_second_of_two_simultaneous_pulls_uses_the_first_download(server: Server, tmp_path: Path) -> None:
    server.gate.clear()
    first: list[Path] = []
    thread = threading.Thread(target=lambda: first.append(pull("won-msd-fcn", tmp_path)))
    thread.start()
    while thread.is_alive() and not server.asked:
        time.sleep(0.01)

    class Opener(Recorder):
        def say(self, text: str) -> None:
            super().say(text)
            server.gate.set()

    progress = Opener()
    second = pull("won-msd-fcn", tmp_path, progress=progress)
    thread.join()
    assert progress.lines == ["another process is installing won-msd-fcn; waiting for it"]
    assert first == [second]
    assert server.asked == [""]
    assert load_model(second).card.backbone == "fcn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["won-msd-fcn.json", "won-msd-fcn.safetensors"]


def test_a_part_that_cannot_be_written_is_a_disk_error(published: catalogue.CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / f".{published.source.sha256[:16]}.pth.part").mkdir()
    with pytest.raises(ModelError, match="cannot be written: Is a directory"):
        pull("won-msd-fcn", tmp_path)


@pytest.mark.usefixtures("published")
def test_pull_continues_where_it_stopped_and_leaves_only_the_model(server: Server, tmp_path: Path) -> None:
    whole, server.cut_after = server.cut_after, 0
    with pytest.raises(ModelError, match=r"no network.*weights import FILE --format won --name won-msd-fcn"):
        pull("won-msd-fcn", tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.cut_after = 1000
    with pytest.raises(ModelError, match=r"after 1000 of .*weights pull won-msd-fcn` again"):
        pull("won-msd-fcn", tmp_path)
    server.cut_after = whole
    weights = pull("won-msd-fcn", tmp_path)
    assert server.asked == ["", "", "bytes=1000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["won-msd-fcn.json", "won-msd-fcn.safetensors"]
    card = load_model(weights).card
    assert (card.backbone, card.config["channels"]) == ("fcn", [3, 4, 4, 4, 2])
    assert card.licence.startswith("MIT")


def test_the_published_file_copied_by_hand_is_the_same_model(
    server: Server, published: catalogue.CatalogueEntry, tmp_path: Path
) -> None:
    (tmp_path / "best_model.pth").write_bytes(server.content)
    imported = import_file(tmp_path / "best_model.pth", "won", "won-msd-fcn", tmp_path / "a")
    pulled = pull("won-msd-fcn", tmp_path / "b")
    assert imported.read_bytes() == pulled.read_bytes()
    assert imported.with_suffix(".json").read_bytes() == pulled.with_suffix(".json").read_bytes()
