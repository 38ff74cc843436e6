"""A double of Supabase's Storage API on loopback, built from recorded exchanges with a real server.

Statuses and bodies of the recorded answers are taken from the recordings themselves. What the recordings do
not show follows Supabase's documentation and the source of its Storage server: resumable uploads, removal,
the bucket list, keys that are no JSON Web Tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

RECORDINGS = Path(__file__).parents[1] / "data" / "supabase-storage-exchanges.json"
ROOT = "/storage/v1"
TUS_CHUNK = 6 * 1024 * 1024
FAR_FUTURE = 4102444800
"""The first second of 2100 as Unix time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; as a script it stands in for the real one. `close` cuts the connection instead."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    delay: float = 0.0

    @staticmethod
    def json(status: int, document: object) -> Reply:
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        return Reply(status, body, {"content-type": "application/json; charset=utf-8"})

    @staticmethod
    def text(status: int, text: str, **headers: str) -> Reply:
        return Reply(
            status, text.encode(), {name.replace("_", "-"): value for name, value in headers.items()}
        )


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    id: str
    content: bytes
    content_type: str
    cache_control: str
    created_at: str


@dataclass(slots=True)
class Bucket:
    name: str
    public: bool = False
    file_size_limit: int | None = None
    allowed_mime_types: list[str] | None = None
    objects: dict[str, StoredObject] = field(default_factory=dict)
    removable: bool = True


@dataclass(slots=True)
class _Upload:
    """A resumable upload that is under way."""

    bucket: str
    key: str
    content_type: str
    cache_control: str
    size: int
    upsert: bool
    content: bytearray = field(default_factory=bytearray)


class Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body)
        self.reply = reply


class SupabaseDouble:
    """The server. Use it as a context manager; `stop` and `start` take it down and up on the same port."""

    def __init__(self) -> None:
        self._recorded = {case["case"]: case["exchanges"] for case in json.loads(RECORDINGS.read_text())}
        self._signing_key = uuid.uuid4().bytes
        self.service_key = self._jwt({"role": "service_role", "exp": FAR_FUTURE})
        self.anon_key = self._jwt({"role": "anon", "exp": FAR_FUTURE})
        self.expired_key = self._jwt({"role": "service_role", "exp": 1})
        self.wrong_key = self._jwt({"role": "service_role", "exp": FAR_FUTURE}, key=b"another project's key")
        self.secret_key = f"sb_secret_{uuid.uuid4().hex}"
        self.buckets: dict[str, Bucket] = {}
        self.database_down = False
        self.scripted: deque[Reply] = deque()
        self.cut_chunks_after: deque[int] = deque()
        """For each coming chunk of a resumable upload: the bytes after which the connection breaks."""
        self.exchanges: list[tuple[Request, Reply]] = []
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._closing.clear()
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more and cut every open connection."""
        if self._server is None or self._thread is None:
            return
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> SupabaseDouble:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def create_bucket(
        self,
        name: str,
        *,
        public: bool = False,
        file_size_limit: int | None = None,
        allowed_mime_types: list[str] | None = None,
    ) -> Bucket:
        bucket = self.buckets[name] = Bucket(name, public, file_size_limit, allowed_mime_types)
        return bucket

    def stored(self, bucket: str, key: str) -> StoredObject:
        with self._lock:
            return self.buckets[bucket].objects[key]

    def requests(self, method: str | None = None) -> list[Request]:
        with self._lock:
            return [request for request, _ in self.exchanges if method in (None, request.method)]

    def handle(self, request: Request) -> Reply:
        with self._lock:
            reply = self.scripted.popleft() if self.scripted else self._routed(request)
            self.exchanges.append((request, reply))
        if reply.delay:
            self._closing.wait(reply.delay)
        return reply

    def chunk_limit(self) -> int | None:
        with self._lock:
            return self.cut_chunks_after.popleft() if self.cut_chunks_after else None

    def take_partial_chunk(self, request: Request) -> None:
        """Keep what came of a chunk before its connection broke, as the real server does."""
        with self._lock:
            upload = self._uploads[request.path.rpartition("/")[2]]
            upload.content += request.body

    def _routed(self, request: Request) -> Reply:
        path = request.path.removeprefix(ROOT)
        try:
            if not request.path.startswith(f"{ROOT}/"):
                return Reply.text(404, "no Route matched with those values")
            if path.startswith("/upload/resumable"):
                return self._resumable(request, path.removeprefix("/upload/resumable").strip("/"))
            parts = path.strip("/").split("/")
            match (request.method, *parts):
                case ("GET", "object", "public", bucket, *key):
                    return self._public_download(bucket, "/".join(key))
                case ("GET", "object", "sign", bucket, *key):
                    return self._signed_download(request, bucket, "/".join(key))
                case ("POST", "bucket"):
                    return self._create_bucket(request)
                case ("GET", "bucket"):
                    self._role(request)
                    return Reply.json(200, [self._bucket_json(bucket) for bucket in self.buckets.values()])
                case ("POST", "object", "sign", bucket, *key):
                    return self._sign(request, bucket, "/".join(key))
                case ("POST", "object", "upload", "sign", bucket, *key):
                    return self._sign_upload(request, bucket, "/".join(key))
                case ("POST", "object", "list", bucket):
                    return self._list(request, bucket)
                case ("GET", "object", "info", bucket, *key):
                    return self._info(request, bucket, "/".join(key))
                case ("GET", "object", bucket, *key):
                    self._role(request)
                    return self._file(self._found(bucket, "/".join(key), "download a missing object"))
                case ("POST" | "PUT", "object", bucket, *key):
                    return self._upload(request, bucket, "/".join(key))
                case ("DELETE", "object", bucket):
                    return self._remove(request, bucket)
        except Refused as refused:
            return refused.reply
        return Reply.json(404, {"message": f"Route {request.method}:{path} not found", "error": "Not Found"})

    # The recorded answers.

    def _like(self, case: str, **changes: str) -> Reply:
        """The recorded answer of a case, with some fields of its body replaced."""
        (exchange,) = self._recorded[case]
        return Reply.json(exchange["status"], json.loads(exchange["response"]) | changes)

    def _role(self, request: Request) -> str:
        """Who asks. The gateway before the real server trades an `sb_secret_` key for a JWT of its own."""
        if self.database_down:
            raise Refused(self._like("database behind storage is down"))
        authorization = request.headers.get("authorization")
        if authorization is None and request.headers.get("apikey") == self.secret_key:
            return "service_role"
        if authorization is None:
            raise Refused(
                Reply.json(
                    400,
                    {
                        "statusCode": "400",
                        "error": "Error",
                        "message": "headers must have required property 'authorization'",
                    },
                )
            )
        try:
            signed, _, signature = authorization.removeprefix("Bearer ").rpartition(".")
            claims = json.loads(_unbase64(signed.split(".")[1]))
        except (ValueError, IndexError):
            raise Refused(self._like("wrong signature key upload", message="Invalid Compact JWS")) from None
        if not hmac.compare_digest(signature, self._signature(signed, self._signing_key)):
            raise Refused(self._like("wrong signature key upload"))
        if claims["exp"] < datetime.now(UTC).timestamp():
            raise Refused(self._like("expired key upload"))
        return str(claims["role"])

    def _may_write(self, request: Request) -> None:
        if self._role(request) != "service_role":
            raise Refused(self._like("anon key upload"))

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refused(self._like("upload to a missing bucket"))
        return self.buckets[name]

    def _found(self, bucket: str, key: str, case: str) -> StoredObject:
        stored = self._bucket(bucket).objects.get(unquote(key))
        if stored is None:
            raise Refused(self._like(case))
        return stored

    def _create_bucket(self, request: Request) -> Reply:
        self._may_write(request)
        wanted = request.json()
        if wanted["id"] in self.buckets:
            return self._like("create bucket again")
        self.create_bucket(
            wanted["id"],
            public=wanted.get("public", False),
            file_size_limit=wanted.get("file_size_limit"),
            allowed_mime_types=wanted.get("allowed_mime_types"),
        )
        return self._like("create public bucket", name=wanted["name"])

    @staticmethod
    def _bucket_json(bucket: Bucket) -> dict[str, Any]:
        return {
            "id": bucket.name,
            "name": bucket.name,
            "owner": "",
            "public": bucket.public,
            "file_size_limit": bucket.file_size_limit,
            "allowed_mime_types": bucket.allowed_mime_types,
            "created_at": _now(),
            "updated_at": _now(),
        }

    def _check(self, bucket: Bucket, key: str, content_type: str) -> None:
        if bucket.allowed_mime_types is not None and content_type not in bucket.allowed_mime_types:
            message = f"mime type {content_type} is not supported"
            raise Refused(self._like("upload a mime type the bucket refuses", message=message))
        if not key.isascii():
            raise Refused(self._like("key with unicode", message=f"Invalid key: {key}"))

    def _upload(self, request: Request, bucket_name: str, quoted_key: str) -> Reply:
        self._may_write(request)
        bucket, key = self._bucket(bucket_name), unquote(quoted_key)
        fields, content_type, content = _multipart(request)
        self._check(bucket, key, content_type)
        if bucket.file_size_limit is not None and len(content) > bucket.file_size_limit:
            return self._like("upload larger than the bucket allows")
        if key in bucket.objects and request.headers.get("x-upsert") != "true":
            return self._like("upload same path, no upsert")
        stored = self._store(bucket, key, content, content_type, fields.get("cacheControl", "no-cache"))
        return self._like("upload png", Key=f"{bucket_name}/{key}", Id=stored.id)

    @staticmethod
    def _store(bucket: Bucket, key: str, content: bytes, content_type: str, seconds: str) -> StoredObject:
        before = bucket.objects.get(key)
        stored = StoredObject(
            before.id if before else str(uuid.uuid4()), content, content_type, f"max-age={seconds}", _now()
        )
        bucket.objects[key] = stored
        return stored

    def _sign(self, request: Request, bucket: str, key: str) -> Reply:
        self._role(request)
        self._found(bucket, key, "signed url of a missing object")
        seconds = int(request.json()["expiresIn"])
        token = self._jwt({"url": f"{bucket}/{unquote(key)}", "exp": int(_timestamp()) + seconds})
        return self._like("signed url", signedURL=f"/object/sign/{bucket}/{key}?token={token}")

    def _sign_upload(self, request: Request, bucket: str, key: str) -> Reply:
        self._may_write(request)
        self._bucket(bucket)
        token = self._jwt({"url": f"{bucket}/{unquote(key)}", "exp": int(_timestamp()) + 7200})
        url = f"/object/upload/sign/{bucket}/{key}?token={token}"
        return self._like("signed upload url", url=url, token=token)

    def _signed_download(self, request: Request, bucket: str, key: str) -> Reply:
        signed, _, signature = request.query.get("token", [""])[0].rpartition(".")
        if not hmac.compare_digest(signature, self._signature(signed, self._signing_key)):
            return self._like("key with unicode", error="InvalidSignature", message="Invalid signature")
        claims = json.loads(_unbase64(signed.split(".")[1]))
        if claims["url"] != f"{bucket}/{unquote(key)}" or claims["exp"] < _timestamp():
            return self._like(
                "key with unicode", error="InvalidJWT", message='"exp" claim timestamp check failed'
            )
        return self._file(self._found(bucket, key, "download a missing object"))

    def _public_download(self, bucket: str, key: str) -> Reply:
        if not self._bucket(bucket).public:
            return self._like("upload to a missing bucket")
        return self._file(self._found(bucket, key, "download a missing object"))

    @staticmethod
    def _file(stored: StoredObject) -> Reply:
        headers = {"content-type": stored.content_type, "cache-control": stored.cache_control}
        return Reply(200, stored.content, headers)

    def _info(self, request: Request, bucket: str, key: str) -> Reply:
        self._role(request)
        stored = self._found(bucket, key, "download a missing object")
        return Reply.json(
            200,
            {
                "id": stored.id,
                "name": unquote(key),
                "version": str(uuid.uuid4()),
                "bucket_id": bucket,
                "size": len(stored.content),
                "content_type": stored.content_type,
                "cache_control": stored.cache_control,
                "etag": _etag(stored),
                "metadata": {},
                "last_modified": stored.created_at,
                "created_at": stored.created_at,
            },
        )

    def _list(self, request: Request, bucket: str) -> Reply:
        self._role(request)
        prefix = request.json()["prefix"].strip("/") + "/"
        objects = sorted(self._bucket(bucket).objects.items())
        return Reply.json(
            200,
            [
                {
                    "name": key.removeprefix(prefix),
                    "id": stored.id,
                    "updated_at": stored.created_at,
                    "created_at": stored.created_at,
                    "last_accessed_at": stored.created_at,
                    "metadata": {
                        "eTag": _etag(stored),
                        "size": len(stored.content),
                        "mimetype": stored.content_type,
                        "cacheControl": stored.cache_control,
                        "lastModified": stored.created_at,
                        "contentLength": len(stored.content),
                        "httpStatusCode": 200,
                    },
                }
                for key, stored in objects
                if key.startswith(prefix)
            ],
        )

    def _remove(self, request: Request, bucket_name: str) -> Reply:
        """Answers the objects that it removed; one that does not exist or may not be removed is left out."""
        role = self._role(request)
        bucket = self._bucket(bucket_name)
        if role != "service_role" or not bucket.removable:
            return Reply.json(200, [])
        names = [name for name in request.json()["prefixes"] if bucket.objects.pop(name, None)]
        return Reply.json(200, [{"name": name, "bucket_id": bucket_name} for name in names])

    # Resumable uploads: real statuses, and errors as plain text.

    def _resumable(self, request: Request, upload_id: str) -> Reply:
        if request.headers.get("tus-resumable") != "1.0.0":
            return Reply.text(412, "Tus-Resumable Required\n")
        if request.method != "HEAD":
            self._may_write(request)
        if request.method == "POST":
            return self._create_upload(request)
        if upload_id not in self._uploads:
            return Reply.text(404, "The file for this url was not found\n")
        upload = self._uploads[upload_id]
        if request.method == "HEAD":
            return Reply.text(200, "", Upload_Offset=str(len(upload.content)), Upload_Length=str(upload.size))
        return self._take_chunk(request, upload)

    def _create_upload(self, request: Request) -> Reply:
        pairs = [pair.split(" ") for pair in request.headers["upload-metadata"].split(",")]
        metadata = {name: base64.b64decode(value).decode() for name, value in pairs}
        upsert = request.headers.get("x-upsert") == "true"
        size = int(request.headers["upload-length"])
        try:
            bucket = self._bucket(metadata["bucketName"])
            self._check(bucket, metadata["objectName"], metadata["contentType"])
        except Refused as refused:
            body = json.loads(refused.reply.body)
            return Reply.text(int(body["statusCode"]), body["message"])
        if bucket.file_size_limit is not None and size > bucket.file_size_limit:
            return Reply.text(413, "Maximum size exceeded\n")
        if metadata["objectName"] in bucket.objects and not upsert:
            return Reply.text(409, "The resource already exists")
        upload_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._uploads[upload_id] = _Upload(
            bucket.name,
            metadata["objectName"],
            metadata["contentType"],
            metadata["cacheControl"],
            size,
            upsert,
        )
        # A server behind a proxy knows its own name only.
        return Reply.text(201, "", Location=f"https://storage.internal:5000/upload/resumable/{upload_id}")

    def _take_chunk(self, request: Request, upload: _Upload) -> Reply:
        if request.headers.get("content-type") != "application/offset+octet-stream":
            return Reply.text(415, "Content-Type must be application/offset+octet-stream")
        if int(request.headers["upload-offset"]) != len(upload.content):
            return Reply.text(409, "Upload-Offset conflict\n")
        rest = upload.size - len(upload.content)
        if len(request.body) > min(rest, TUS_CHUNK):
            return Reply.text(413, "Maximum size exceeded\n")
        upload.content += request.body
        if len(upload.content) == upload.size:
            bucket = self._bucket(upload.bucket)
            self._store(bucket, upload.key, bytes(upload.content), upload.content_type, upload.cache_control)
        return Reply.text(204, "", Upload_Offset=str(len(upload.content)))

    # Keys.

    def _jwt(self, claims: Mapping[str, object], key: bytes | None = None) -> str:
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signed = ".".join(parts)
        return f"{signed}.{self._signature(signed, self._signing_key if key is None else key)}"

    @staticmethod
    def _signature(signed: str, key: bytes) -> str:
        return _base64(hmac.new(key, signed.encode(), hashlib.sha256).digest())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def cut_connections(self) -> None:
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It is closed already, which is what was wanted.
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; tests look at what it got."""


def _handler(double: SupabaseDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server: _Server

        def setup(self) -> None:
            super().setup()
            self.server.connections.add(self.connection)

        def finish(self) -> None:
            self.server.connections.discard(self.connection)
            super().finish()

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            limit = double.chunk_limit() if self.command == "PATCH" else None
            parts = urlsplit(self.path)
            request = Request(
                self.command,
                parts.path,
                parse_qs(parts.query),
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(length if limit is None else min(limit, length)),
            )
            if limit is not None:
                double.take_partial_chunk(request)
                self.close_connection = True
                # Unread bytes would turn the end of the connection into a reset at an arbitrary moment.
                self.rfile.read(length - min(limit, length))
                return
            reply = double.handle(request)
            if reply.close:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815  # the names are http.server's

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


def _multipart(request: Request) -> tuple[dict[str, str], str, bytes]:
    """The fields before the file, the file's content type and its bytes."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    fields: dict[str, str] = {}
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        headers = head.decode("utf-8").split("\r\n")
        if "filename" not in headers[0]:
            fields[headers[0].partition('name="')[2].partition('"')[0]] = content.decode()
            continue
        return fields, headers[1].partition(": ")[2], content
    raise AssertionError("an upload without a file")


def _etag(stored: StoredObject) -> str:
    return f'"{hashlib.md5(stored.content).hexdigest()}"'


def _timestamp() -> float:
    return datetime.now(UTC).timestamp()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
