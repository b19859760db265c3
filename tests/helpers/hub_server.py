"""A Hub on loopback, for the real client: repositories of models and data sets, in memory.

It answers what huggingface_hub 2.4 asks in order to create repositories, commit to them (regular files and LFS, not
Xet), list them and download from them. Anything else is a 404, and is kept in `Hub.unknown`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "org"  # whoever asks
LFS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet", "*.arrow")  # as in the Hub's .gitattributes


class Failed(Exception):
    """An answer other than 200; the client tells its exceptions by `code`."""

    def __init__(self, status: int, code: str = "", **body: Any):
        self.status, self.code, self.body = status, code, body


class Repository:
    """Its commits, each a `dict` of all files; a branch is a name for one of them."""

    def __init__(self):
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.branches: dict[str, str] = {}
        self.commit({}, "initial commit")

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        self.messages.append(message)
        sha = hashlib.sha1(f"{id(self)} {len(self.messages)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Failed(404, "RevisionNotFound")
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)]

    def entries(self, revision: str) -> dict[str, dict]:
        """Files and folders by path, as the Hub describes them."""
        entries = {}
        for path, content in self.files(revision).items():
            for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            oid = hashlib.sha1(content).hexdigest()
            entries[path] = {"type": "file", "path": path, "oid": oid, "size": len(content)}
        return entries


class Hub(ThreadingHTTPServer):
    """Serves until the end of its `with` block, at `url` (`HF_ENDPOINT`).

    Attributes:
        repositories (`dict[tuple[str, str], Repository]`): by kind (`"models"`, `"datasets"`) and name.
        objects (`dict[str, bytes]`): what was uploaded to LFS, by SHA-256.
        unknown (`list[str]`): requests that it has no answer to.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *args: Any) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.query, path = parse_qs(url.query), unquote(url.path)
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer_headers: dict[str, str] = {}
        try:
            with self.server.lock:
                status, body = 200, self._answer(path)
        except Failed as failed:
            status, body = failed.status, failed.body
            self.answer_headers = {"X-Error-Code": failed.code} if failed.code else {}
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **self.answer_headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, path: str) -> bytes | list | dict:
        for methods, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                groups = match.groupdict()
                if "name" in groups:  # a repository
                    place = (groups.pop("kind") or "models/").rstrip("/"), groups.pop("name")
                    if place not in self.server.repositories:
                        raise Failed(404, "RepoNotFound")
                    self.name, self.repository = place[1], self.server.repositories[place]
                return answer(self, **groups)
        self.server.unknown.append(f"{self.command} {self.path}")
        raise Failed(404)

    def _json(self) -> dict:
        return json.loads(self.content)

    # ---- The client's questions ----

    def whoami(self):
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create(self):
        asked = self._json()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.server.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if (kind, name) in self.server.repositories:
            raise Failed(409, error="You already created this repo", url=url)
        self.server.repositories[kind, name] = Repository()
        return {"url": url, "name": name}

    def validate_yaml(self):
        """Of the Hub's checks on the metadata of a README, the one that a card of ours could fail."""
        metadata = re.match(r"---\n(.*?)\n---\n|", self._json()["content"], re.S).group(1)
        base = yaml.safe_load(metadata or "{}").get("base_model", "name")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
            raise Failed(400, errors=[{"message": f'"base_model" with value "{base}" is not valid.'}])
        return {"errors": [], "warnings": []}

    def info(self, revision: str = "main"):
        siblings = [{"rfilename": path} for path in self.repository.files(revision)]
        return {"id": self.name, "sha": self.repository.sha(revision), "tags": [], "siblings": siblings}

    def refs(self):
        branches = self.repository.branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
        return {"branches": branches, "converts": [], "tags": []}

    def tree(self, revision: str, folder: str):
        entries, folder = self.repository.entries(revision), PurePosixPath(folder or ".")
        depth = None if self.query.get("recursive", ["false"])[0].lower() in ("true", "1") else 1
        found = [entry for path, entry in entries.items() if folder in list(PurePosixPath(path).parents)[:depth]]
        if not found and str(folder) != ".":
            raise Failed(404, "EntryNotFound")
        return found

    def paths_info(self, revision: str):
        entries = self.repository.entries(revision)
        return [entries[path] for path in parse_qs(self.content.decode())["paths"] if path in entries]

    def resolve(self, revision: str, path: str):
        content = self.repository.files(revision).get(path)
        if content is None:
            raise Failed(404, "EntryNotFound")
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer_headers = {"X-Repo-Commit": self.repository.sha(revision), "ETag": etag}
        return content

    def preupload(self, revision: str):
        modes = {
            file["path"]: "lfs" if any(fnmatch(file["path"], pattern) for pattern in LFS) else "regular"
            for file in self._json()["files"]
        }
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}

    def lfs_batch(self):
        objects = self._json()["objects"]
        for file in objects:
            if file["oid"] not in self.server.objects:
                urls = {"upload": f"/lfs/{file['oid']}", "verify": f"/lfs/{file['oid']}/verify"}
                file["actions"] = {name: {"href": self.server.url + path} for name, path in urls.items()}
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str):
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise Failed(400, error="not what its SHA-256 says")
        self.server.objects[oid] = self.content
        return {}

    def lfs_verify(self, oid: str):
        if len(self.server.objects.get(oid, b"")) != self._json()["size"]:
            raise Failed(404)
        return {}

    def commit(self, revision: str):
        files, message = dict(self.repository.files(revision)), ""
        for line in self.content.splitlines():
            operation, value = (json.loads(line)[key] for key in ("key", "value"))
            if operation == "header":
                message = value["summary"]
            elif operation == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                raise Failed(400, error=f"The Hub of the tests knows no {operation}.")
        sha = self.repository.commit(files, message, revision)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{self.name}/commit/{sha}"}


_API, _REVISION = r"/api/(?P<kind>models/|datasets/)(?P<name>.+?)", r"(?P<revision>[^/]+)"
_FILES = r"/(?P<kind>datasets/)?(?P<name>.+?)"
ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"{_API}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", _Handler.lfs_verify),
    ("POST", rf"{_API}/commit/{_REVISION}", _Handler.commit),
    ("GET", rf"{_API}/tree/{_REVISION}/?(?P<folder>.*)", _Handler.tree),
    ("POST", rf"{_API}/paths-info/{_REVISION}", _Handler.paths_info),
    ("GET", rf"{_API}/refs", _Handler.refs),
    ("GET", rf"{_API}/revision/{_REVISION}", _Handler.info),
    ("GET", r"/api/(?P<kind>models/|datasets/)(?P<name>[^/]+(/[^/]+)?)", _Handler.info),
    ("HEAD GET", rf"{_FILES}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
