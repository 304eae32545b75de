"""A small Hugging Face hub on loopback: model info, files with checksums and ranges, and its ways to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34
REPO = "openai/tiny"


@dataclass
class Hub:
    """What the server has and how it misbehaves. `asked` lists (path, range header) of all file requests.

    `cut_after` breaks each connection off after so many bytes of a body, as often as `cuts` says. `damaged`
    names a file whose bytes are sent changed. `status` maps a path's beginning to a status and error code.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    large: frozenset[str] = frozenset()
    cut_after: int = 0
    cuts: int = 0
    damaged: str | None = None
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def info(self) -> dict[str, Any]:
        """`/api/models/<repo>?blobs=True`."""
        siblings: list[dict[str, Any]] = []
        for name, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
            if name in self.large:
                sha = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": REPO, "sha": self.commit, "siblings": siblings, "tags": [], "private": False}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            for beginning, (status, code) in hub.status.items():
                if path.startswith(beginning):
                    self._send(status, b"{}", {"X-Error-Code": code})
                    return
            info = f"/api/models/{REPO}"
            if path in (info, f"{info}/revision/main", f"{info}/revision/{hub.commit}"):
                self._send(200, json.dumps(hub.info()).encode(), {})
            elif path.startswith(f"/api/models/{REPO}/revision/"):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(f"/{REPO}/resolve/{hub.commit}/"):
                self._file(path.removeprefix(f"/{REPO}/resolve/{hub.commit}/"))
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str) -> None:
            wanted = self.headers.get("Range")
            hub.asked.append((name, wanted))
            data = hub.files[name]
            sha = hashlib.sha256(data).hexdigest()
            if name == hub.damaged:
                data = bytes([data[0] ^ 1]) + data[1:]
            headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{sha}"', "Accept-Ranges": "bytes"}
            if name in hub.large:
                headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
            status = 200
            if wanted is not None:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                data, status = data[start:], 206
            self._send(status, data, headers)

        def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if hub.cuts and 0 < hub.cut_after < len(data):
                hub.cuts -= 1
                self.wfile.write(data[: hub.cut_after])
                self.close_connection = True
            else:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hub_of(checkpoint: Path) -> Hub:
    """A hub whose repository holds a checkpoint, and beside it what the real ones hold too."""
    files = {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}
    large = frozenset(name for name in files if name.endswith(".safetensors"))
    others = {
        "README.md": b"# a model",
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "original/model.safetensors": b"the same again",
        "original/config.json": b"{}",
        "metal/model.bin": b"and again",
    }
    return Hub(files | others, large=large)
