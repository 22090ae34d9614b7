"""A small Google Cloud Storage on 127.0.0.1: what gcsfs, TensorStore and its own client ask of its JSON API."""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import threading
import urllib.parse
from collections.abc import Iterator

_API = ("/storage/v1/b/", "/download/storage/v1/b/", "/upload/storage/v1/b/")
_TIME = "2026-01-01T00:00:00.000000Z"


class FakeStorage(http.server.ThreadingHTTPServer):
    """Objects live in `objects`: (bucket, name) -> (content, generation).

    Attributes:
      read_only: refuse to write, as without the permission.
      requests: method and path of each, in order.
    """

    daemon_threads = True

    def __init__(self, *buckets: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets, self.objects, self.read_only = set(buckets), {}, False
        self.requests: list[str] = []
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.uploads: dict[str, tuple[tuple[str, str], bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Quiet: gcsfs hangs up as soon as one of two questions is answered."""

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Of the objects below `prefix`, sorted."""
        return sorted(name for b, name in self.objects if b == bucket and name.startswith(prefix))


@contextlib.contextmanager
def fake_storage(*buckets: str) -> Iterator[FakeStorage]:
    """Serves empty `buckets` while inside."""
    with FakeStorage(*buckets) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeStorage

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def error(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"code": status, "message": message}})

    def handle_any(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.server.requests.append(f"{self.command} {url.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rest = next((url.path.removeprefix(api) for api in _API if url.path.startswith(api)), None)
        if rest is None:
            self.error(400, f"no such call: {self.command} {self.path}")
            return
        bucket, *key = (urllib.parse.unquote(part) for part in rest.split("/o/"))
        bucket = bucket.removesuffix("/o")
        with self.server.lock:
            if bucket not in self.server.buckets:
                self.error(404, "The specified bucket does not exist.")
            elif self.command != "GET" and self.server.read_only:
                self.error(403, "does not have storage.objects.create access")
            elif url.path.startswith("/upload/"):
                self.upload(bucket, body)
            elif not key:
                self.answer(200, {"name": bucket}) if not rest.endswith("/o") else self.listing(bucket)
            elif len(key) == 2:
                self.copy(bucket, key)
            else:
                self.one(bucket, key[0])

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def meta(self, key: tuple[str, str]) -> dict:
        content, generation = self.server.objects[key]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        result = {"bucket": key[0], "name": key[1], "size": str(len(content)), "md5Hash": md5, "etag": md5}
        return result | {"generation": str(generation), "metageneration": "1", "updated": _TIME, "timeCreated": _TIME}

    def listing(self, bucket: str) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        items, prefixes = [], set()
        for name in self.server.names(bucket, prefix):
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if not self.query.get("startOffset", "") <= name < self.query.get("endOffset", "\U0010ffff"):
                continue
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self.meta((bucket, name)))
        n = int(self.query.get("maxResults", 1000))
        self.answer(200, {"items": items[:n], "prefixes": sorted(prefixes)})

    def matches(self, key: tuple[str, str]) -> bool:
        """Whether the conditions on the generation hold; answers if not."""
        now = str(self.server.objects.get(key, (b"", 0))[1])
        if self.query.get("ifGenerationMatch", now) != now or self.query.get("ifGenerationNotMatch") == now:
            self.error(412, "conditionNotMet")
            return False
        return True

    def one(self, bucket: str, name: str) -> None:
        key = (bucket, name)
        if key not in self.server.objects:
            self.error(404, f"No such object: {bucket}/{name}")
        elif not self.matches(key):
            pass
        elif self.command == "DELETE":
            del self.server.objects[key]
            self.answer(204)
        elif self.query.get("alt") != "media":
            self.answer(200, self.meta(key))
        else:
            content, generation = self.server.objects[key]
            total, headers, status = len(content), {"x_goog_generation": str(generation)}, 200
            if wanted := self.headers.get("Range", "").removeprefix("bytes="):
                first, _, last = wanted.partition("-")
                start = int(first) if first else max(0, total - int(last))
                stop = min(total, int(last) + 1) if first and last else total
                if start >= total:
                    self.error(416, "requested range not satisfiable")
                    return
                content, status = content[start:stop], 206
                headers["Content_Range"] = f"bytes {start}-{stop - 1}/{total}"
            self.answer(status, content, **headers)

    def copy(self, bucket: str, parts: list[str]) -> None:
        """`NAME/rewriteTo/b/BUCKET` and the new name, or `NAME/moveTo` and the new name."""
        name, _, where = parts[0].partition("/rewriteTo/b/")
        old = (bucket, name if where else name.removesuffix("/moveTo"))
        if old not in self.server.objects:
            self.error(404, f"No such object: {bucket}/{old[1]}")
            return
        content, _ = self.server.objects[old] if where else self.server.objects.pop(old)
        self.store((where or bucket, parts[1]), content)

    def upload(self, bucket: str, body: bytes) -> None:
        kind = self.query.get("uploadType")
        if "upload_id" in self.query:
            key, before = self.server.uploads[self.query["upload_id"]]
            self.server.uploads[self.query["upload_id"]] = key, before + body
            if self.headers["Content-Range"].endswith("/*"):
                self.answer(308, Range=f"bytes=0-{len(before + body) - 1}")
            else:
                self.store(key, before + body)
        elif kind == "multipart":
            boundary = b"--" + self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
            described, content = (
                part.lstrip(b"\r\n").split(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n", 1)[1]
                for part in body.split(boundary)[1:3]
            )
            end = b"\r\n" if content.endswith(b"\r\n") and body.count(b"\r\n" + boundary) else b"\n"
            self.store((bucket, json.loads(described)["name"]), content.removesuffix(end))
        elif kind == "resumable":
            upload, name = str(next(self.server.generations)), self.query.get("name")
            self.server.uploads[upload] = (bucket, name or json.loads(body)["name"]), b""
            self.answer(200, Location=f"{self.server.url}{self.path}&upload_id={upload}")
        else:
            self.store((bucket, self.query["name"]), body)

    def store(self, key: tuple[str, str], content: bytes) -> None:
        if self.matches(key):
            self.server.objects[key] = content, next(self.server.generations)
            meta = self.meta(key)
            self.answer(200, {**meta, "kind": "storage#object", "done": True, "resource": meta})
