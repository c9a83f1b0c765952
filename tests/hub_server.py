"""A Hugging Face hub on the loopback: the routes that `huggingface_hub` asks, over real files.

Repositories have commits, refs, pull requests and discussions; their big files are served as the
hub serves them, by a redirect to another address that answers ranges. Everything asked is noted.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BIG = re.compile(r".*\.(safetensors|bin|pt|model)")  # what the hub keeps in its large file storage
DATE = "2024-01-01T00:00:00.000Z"


@dataclass
class Commit:
    files: dict[str, bytes]
    parent: str | None


@dataclass
class Repository:
    """A model repository; commits are named by a hash of what is in them."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: list[dict[str, Any]] = field(default_factory=list)
    gated: bool = False
    closed: bool = False  # to discussions

    def commit(self, files: dict[str, bytes], ref: str = "main", name: str | None = None) -> str:
        """Put a whole tree on top of a ref; returns the commit."""
        parent = self.refs.get(ref)
        content = repr((parent, sorted(files.items()), ref)).encode()
        name = name or hashlib.sha1(content).hexdigest()
        self.commits[name] = Commit(files, parent)
        self.refs[ref] = name
        return name

    def request(
        self, files: dict[str, bytes], author: str, *, status: str = "open", name: str | None = None
    ) -> str:
        """Open a pull request that adds files to main; returns its commit."""
        number = len(self.discussions) + 1
        ref = f"refs/pr/{number}"
        self.refs[ref] = self.refs["main"]
        main = self.commits[self.refs["main"]].files
        commit = self.commit(main | files, ref, name)
        self.discuss(author, status=status, pull_request=True)
        return commit

    def discuss(self, author: str, *, status: str = "open", pull_request: bool = False) -> None:
        self.discussions.append(
            {
                "num": len(self.discussions) + 1,
                "title": "Adding `safetensors` variant of this model",
                "author": {"name": author},
                "status": status,
                "isPullRequest": pull_request,
                "createdAt": DATE,
            }
        )

    def history(self, commit: str | None) -> Iterator[str]:
        while commit is not None:
            yield commit
            commit = self.commits[commit].parent

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as a commit takes them."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class Hub:
    """The server's whole state; tests change it as they like."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # method and path of everything asked
    ranges: list[str] = field(default_factory=list)  # the ranges that downloads went on with
    cut_after: int | None = None  # bytes of a big file after which the connection breaks, once
    storage_down: bool = False  # big files cannot be had
    down: bool = False

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        return {
            path.rsplit("/", 1)[1]
            for method, path in (request.split(" ", 1) for request in self.requests)
            if method == "GET" and ("/resolve/" in path or "/storage/" in path)
        }


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub  # type: ignore[attr-defined]
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.down:
            return self._fail(503)
        if found := re.fullmatch(r"/storage/(.+)/(\w{40})/(.+)", path):
            return self._send_file(found[1], found[2], found[3])
        found = re.match(r"/(api/models/)?([\w.-]+/[\w.-]+|[\w.-]+(?=$|/revision))", path)
        name = found[2] if found else ""
        if name in self.hub.renamed:
            new = self.path.replace(name, self.hub.renamed[name], 1)
            return self._answer(307, b"", {"Location": new})
        repository = self.hub.repositories.get(name)
        if found is None or repository is None:
            return self._fail(401, "RepoNotFound")
        rest = path[found.end() :]
        if found[1]:
            return self._api(name, repository, rest, parse_qs(address.query))
        return self._resolve(name, repository, rest)

    def _api(
        self, name: str, repository: Repository, rest: str, query: dict[str, list[str]]
    ) -> None:
        if rest == "/discussions":
            return self._discussions(name, repository, query)
        found = re.fullmatch(r"(?:/(revision|tree|commits)/(refs/pr/\d+|[^/]+)(/.+)?)?", rest)
        commit = repository.find((found and found[2]) or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        if found and found[3]:  # a folder of the tree, and there are none
            return self._fail(404, "EntryNotFound")
        files = repository.commits[commit].files
        if found and found[1] == "commits":
            return self._json(
                [
                    {"id": each, "title": "", "message": "", "authors": [], "date": DATE}
                    for each in repository.history(commit)
                ]
            )
        if found and found[1] == "tree":
            return self._json(
                [{"type": "file", "path": path} | _entry(files[path]) for path in sorted(files)]
            )
        blobs = "blobs" in query
        siblings = [
            {"rfilename": path} | ({"size": len(files[path])} if blobs else {})
            for path in sorted(files)
        ]
        return self._json({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    def _discussions(self, name: str, repository: Repository, query: dict[str, list[str]]) -> None:
        if repository.closed:
            return self._fail(403)
        found = [
            item | {"repo": {"name": name, "type": "model"}} for item in repository.discussions
        ]
        return self._json({"discussions": found, "count": len(found), "start": 0})

    def _resolve(self, name: str, repository: Repository, rest: str) -> None:
        found = re.fullmatch(r"/resolve/(refs/pr/\d+|[^/]+)/(.+)", rest)
        commit = repository.find(found[1]) if found else None
        if found is None or commit is None:
            return self._fail(404, "RevisionNotFound")
        if repository.gated:
            return self._fail(403, "GatedRepo")
        content = repository.commits[commit].files.get(found[2])
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self._fail(404, "EntryNotFound", headers)
        if not BIG.fullmatch(found[2]):
            return self._answer(200, content, headers | {"ETag": _etag(content)})
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": _etag(content)}
        # Another host than the hub's own, as there: the client follows no redirect to it.
        storage = self.hub.address.replace("127.0.0.1", "localhost")
        location = f"{storage}/storage/{name}/{commit}/{found[2]}"
        return self._answer(302, b"", headers | linked | {"Location": location})

    def _send_file(self, name: str, commit: str, path: str) -> None:
        content = self.hub.repositories[name].commits[commit].files[path]
        if self.hub.storage_down:
            return self._fail(403)
        headers = {"Accept-Ranges": "bytes", "ETag": _etag(content)}
        status, start = 200, 0
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            self.hub.ranges.append(found[0])
            status, start = 206, int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut_after, self.hub.cut_after = self.hub.cut_after, None
        self._answer(status, content[start:], headers, cut_after=cut_after)

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str = "", headers: dict[str, str] | None = None) -> None:
        self._answer(status, b"", {"X-Error-Code": code} | (headers or {}))

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut_after])
        if cut_after is not None and cut_after < len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()}"'
