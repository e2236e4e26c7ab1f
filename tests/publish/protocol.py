"""HTTP handler of the fake Hub: the calls of huggingface_hub that push a model and load it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from publish.repos import LARGE_BYTES, USER, Entry, Fault, Repo, Request

if TYPE_CHECKING:
    from publish.server import HubServer

BLOCK = 1 << 16


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: HubServer
    answer_bytes: int | None
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        self.taken, self.recorded, self.answer_bytes = 0, False, None
        split = urlsplit(self.path)
        self.where, self.query = unquote(split.path), parse_qs(split.query)
        fault = self.hub.take_fault(self.command, self.where)
        try:
            if fault is None:
                self._route()
            elif fault.answer_bytes is not None:
                self.answer_bytes, self.close_connection = fault.answer_bytes, True
                self._route()
            elif fault.serve_first:
                self._silently(self._route)
                self._fail(fault)
            else:
                self._fail(fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        self._record(0)

    def _record(self, status: int) -> None:
        """Record a request once, before its answer, so that a client that has it finds the request listed."""
        if not self.recorded:
            self.recorded = True
            with self.hub.lock:
                self.hub.requests.append(Request(self.command, self.where, self.taken, status))

    def _silently(self, action: Callable[[], None]) -> None:
        saved, self._answer = self._answer, lambda *args, **kwargs: None  # type: ignore[method-assign]
        try:
            action()
        finally:
            self._answer = saved  # type: ignore[method-assign]

    def _fail(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.stall_seconds:
            self.hub.closing.wait(fault.stall_seconds)
        if fault.cut_after is not None:
            self._body(fault.cut_after)
            return
        if fault.status:
            body = {"error": f"fault {fault.status}"} if fault.body is None else fault.body
            self._answer(fault.status, body, fault.headers)

    def _body(self, limit: int | None = None) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(min(length, limit) if limit is not None else length)
        self.taken += len(data)
        return data

    def _json(self) -> Any:
        return json.loads(self._body() or b"{}")

    def _answer(
        self,
        status: int,
        body: Any = None,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self._record(status)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        if self.close_connection:  # a client would send its next request into the closed connection
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: self.answer_bytes])

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.close_connection = True  # the body was not read
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _route(self) -> None:
        for method, pattern, action in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, self.where)):
                action(self, **found.groupdict())
                return
        self._refuse(404, "EntryNotFound", f"{self.command} {self.where} is not served here")

    def _repo(self, repo: str, *, write: bool = False) -> Repo | None:
        """The repository, if this client may see it, or write to it; otherwise an error is answered."""
        found = self.hub.repos.get(repo)
        if self.headers.get("Authorization") and not self._known:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        if found is None or (found.private and not self._known):
            self._refuse(404 if self._known else 401, "RepoNotFound", "Repository not found")
            return None
        if write and not self._known:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        return found

    def whoami(self) -> None:
        if self._known:
            self._answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})
        else:
            self._refuse(401, "", "Invalid credentials in Authorization header")

    def validate(self) -> None:
        """The header of a card has to be YAML, and a mapping."""
        found = re.match(r"---\n(.*?)\n---", self._json()["content"], re.DOTALL)
        try:
            header = YAML(typ="safe").load(found[1]) if found else {}
        except YAMLError as error:
            header = str(error)
        errors = [] if isinstance(header, dict) else [{"message": f"no mapping: {header}"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def create(self) -> None:
        asked = self._json()
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if not self._known:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif not name.startswith(f"{USER}/"):
            self._refuse(403, "", f"You don't have the rights to create a model under {name}")
        else:
            with self.hub.lock:
                exists = name in self.hub.repos
                if not exists:
                    repo = Repo(private=asked.get("visibility") == "private")
                    repo.add("main", {}, "initial commit")
                    self.hub.repos[name] = repo
            self._answer(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "error": "exists"})

    def info(self, repo: str, revision: str = "main") -> None:
        if (found := self._repo(repo)) is None:
            return
        if (commit := found.commit_of(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"no revision {revision}")
            return
        siblings = [{"rfilename": path} for path in found.commits[commit]]
        info = {"id": repo, "modelId": repo, "sha": commit, "private": found.private, "tags": []}
        self._answer(200, info | {"siblings": siblings, "downloads": 0, "likes": 0})

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        if (found := self._repo(repo)) is None:
            return
        if (commit := found.commit_of(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"no revision {revision}")
            return
        inside = {
            p: e for p, e in found.commits[commit].items() if p.startswith(f"{folder}/" if folder else "")
        }
        if folder and not inside:
            self._refuse(404, "EntryNotFound", f"no folder {folder}")
            return
        self._answer(200, [_described(path, entry) for path, entry in inside.items()])

    def paths_info(self, repo: str, revision: str) -> None:
        asked = parse_qs(self._body().decode())
        if (found := self._repo(repo)) is None:
            return
        if (commit := found.commit_of(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"no revision {revision}")
            return
        files = found.commits[commit]
        self._answer(200, [_described(path, files[path]) for path in asked["paths"] if path in files])

    def refs(self, repo: str) -> None:
        if (found := self._repo(repo)) is not None:
            kinds = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
            info = {
                kind: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": c} for n, c in names.items()]
                for kind, (ref, names) in kinds.items()
            }
            self._answer(200, info | {"converts": []})

    def branch(self, repo: str, name: str) -> None:
        asked = self._json()
        if (found := self._repo(repo, write=True)) is not None:
            exists = name in found.branches
            if not exists:
                found.branches[name] = found.commit_of(asked.get("startingPoint") or "main") or ""
            self._answer(409 if exists else 200)

    def tag(self, repo: str, name: str) -> None:
        """``name`` is the revision that is tagged."""
        asked = self._json()
        if (found := self._repo(repo, write=True)) is not None:
            exists, commit = asked["tag"] in found.tags, found.commit_of(name)
            if not exists and commit is not None:
                found.tags[asked["tag"]] = commit
            self._answer(409 if exists else 200)

    def untag(self, repo: str, name: str) -> None:
        if (found := self._repo(repo, write=True)) is not None:
            self._answer(200 if found.tags.pop(name, None) else 404)

    def preupload(self, repo: str, revision: str) -> None:
        asked = self._json()
        if (found := self._repo(repo, write=True)) is None:
            return
        there = found.commits[found.commit_of(revision) or ""]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
                "shouldIgnore": False,
                "oid": there[file["path"]].oid if file["path"] in there else None,
            }
            for file in asked["files"]
        ]
        self._answer(200, {"files": files})

    def no_xet(self, repo: str, revision: str) -> None:
        if self._repo(repo, write=True) is not None:
            self._refuse(404, "", "no xet storage")

    def batch(self, repo: str) -> None:
        asked = self._json()
        if self._repo(repo, write=True) is None:
            return
        self._answer(200, {"transfer": "basic", "objects": [self._object(o, repo) for o in asked["objects"]]})

    def _object(self, asked: dict[str, Any], repo: str) -> dict[str, Any]:
        oid, size, parts = asked["oid"], asked["size"], self.hub.part_bytes
        info = {"oid": oid, "size": size}
        if (self.hub.folder / oid).exists():
            return info  # without actions: nothing need be sent
        upload: dict[str, Any] = {"href": f"{self.hub.url}/storage/{oid}"}
        if parts is not None and size > parts:
            urls = {str(n + 1): f"{self.hub.url}/storage/{oid}/{n + 1}" for n in range(-(-size // parts))}
            upload = {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(parts), **urls}}
        verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"}
        return info | {"actions": {"upload": upload, "verify": verify}}

    def store(self, oid: str, part: str = "") -> None:
        name = f"{oid}.part{part}" if part else oid
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        partial = self.hub.folder / f"{name}.{threading.get_ident()}"
        with partial.open("wb") as stream:
            while left and (block := self.rfile.read(min(left, BLOCK))):
                stream.write(block)
                digest.update(block)
                left -= len(block)
                self.taken += len(block)
        if left or (not part and digest.hexdigest() != oid):
            partial.unlink()
            self._refuse(400, "", "the content is not what was announced")
            return
        partial.rename(self.hub.folder / name)
        self._answer(200, {}, {"ETag": f'"{digest.hexdigest()}"'})

    def complete(self, oid: str) -> None:
        parts = sorted(self._json()["parts"], key=lambda part: part["partNumber"])
        paths = [self.hub.folder / f"{oid}.part{part['partNumber']}" for part in parts]
        data = b"".join(path.read_bytes() for path in paths)
        if hashlib.sha256(data).hexdigest() != oid:
            self._refuse(400, "", "the parts do not make up the content")
            return
        (self.hub.folder / oid).write_bytes(data)
        for path in paths:
            path.unlink()
        self._answer(200)

    def verify(self, repo: str) -> None:
        asked = self._json()
        path = self.hub.folder / asked["oid"]
        self._answer(200 if path.is_file() and path.stat().st_size == asked["size"] else 404)

    def commit(self, repo: str, revision: str) -> None:
        lines = [json.loads(line) for line in self._body().splitlines()]
        if (found := self._repo(repo, write=True)) is None:
            return
        with self.hub.lock:
            files, message = dict(found.commits[found.branches[revision]]), ""
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        message = value["summary"]
                    case "file":
                        files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
                    case "lfsFile" if not (self.hub.folder / value["oid"]).is_file():
                        self._refuse(400, "", f"LFS object {value['oid']} was never uploaded")
                        return
                    case "lfsFile":
                        files[value["path"]] = Entry(value["size"], value["oid"], large=True)
                    case "deletedFile":
                        del files[value["path"]]
            commit = found.add(revision, files, message)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if (found := self._repo(repo)) is None:
            return
        if found.gated:
            self._refuse(403, "GatedRepo", f"Access to model {repo} is restricted")
        elif (commit := found.commit_of(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"no revision {revision}")
        elif (entry := found.commits[commit].get(path)) is None:
            headers = {"X-Repo-Commit": commit, "X-Error-Code": "EntryNotFound"}
            self._answer(404, {"error": "Entry not found"}, headers)
        else:
            headers = {"ETag": f'"{entry.oid}"', "X-Repo-Commit": commit}
            if entry.large:
                headers |= {"X-Linked-Etag": f'"{entry.oid}"', "X-Linked-Size": str(entry.size)}
            self._send_file(self.hub.content(entry), headers)

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        """The content, or the range of it that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, content, headers, len(content))
            return
        start, stop = int(asked[1]), int(asked[2] or len(content) - 1) + 1
        headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
        self._answer(206, content[start:stop], headers)


def _described(path: str, entry: Entry) -> dict[str, Any]:
    info: dict[str, Any] = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.large:
        info["lfs"] = {"oid": entry.oid, "size": entry.size, "pointerSize": 130}
    return info


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_MODEL = rf"/api/(?:models|datasets)/{_REPO}"
_FILES = rf"(?:/datasets)?/{_REPO}/resolve"
_REVISION = r"(?P<revision>[^/]+)"

ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", "/api/repos/create", Handler.create),
    ("GET", _MODEL, Handler.info),
    ("GET", rf"{_MODEL}/revision/{_REVISION}", Handler.info),
    ("GET", rf"{_MODEL}/tree/{_REVISION}(/(?P<folder>.+))?", Handler.tree),
    ("POST", rf"{_MODEL}/paths-info/{_REVISION}", Handler.paths_info),
    ("GET", rf"{_MODEL}/refs", Handler.refs),
    ("POST", rf"{_MODEL}/branch/(?P<name>[^/]+)", Handler.branch),
    ("POST", rf"{_MODEL}/tag/(?P<name>[^/]+)", Handler.tag),
    ("DELETE", rf"{_MODEL}/tag/(?P<name>[^/]+)", Handler.untag),
    ("POST", rf"{_MODEL}/preupload/{_REVISION}", Handler.preupload),
    ("GET", rf"{_MODEL}/xet-write-token/{_REVISION}", Handler.no_xet),
    ("POST", rf"{_MODEL}/commit/{_REVISION}", Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", Handler.verify),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?", Handler.store),
    ("POST", r"/complete/(?P<oid>[0-9a-f]{64})", Handler.complete),
    ("HEAD", rf"{_FILES}/{_REVISION}/(?P<path>.+)", Handler.resolve),
    ("GET", rf"{_FILES}/{_REVISION}/(?P<path>.+)", Handler.resolve),
]
"""Method, path and handler."""
