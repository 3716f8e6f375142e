"""HTTP/1.1 requests from chosen loopback addresses, and the regular client of every attack."""

import base64
import hashlib
import http.client
import json
import os
import socket
import time
from dataclasses import dataclass, field

# Each party has an address of its own, so that a limit per address tells them apart.
ATTACKER, INNOCENT, PROBE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
# How long the regular client waits for one response.
RESPONSE_SECONDS_MAX = 30
# How long it retries a push that is refused with 429 or 503 and Retry-After.
RETRY_SECONDS_MAX = 20


class Failure(Exception):
    """A limit that an attack exceeded."""


@dataclass
class Response:
    status: int
    headers: dict
    body: bytes


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def basic(name, password):
    """Returns the Authorization header of a name and a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def image_manifest(config, layers=(), **more):
    """Returns the bytes of an image manifest for the bytes of a config and of layers."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
    }
    return json.dumps(manifest | more).encode()


def descriptor(media_type, data):
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def connect(port, source, seconds=10, receive_bytes=None):
    """Opens a TCP connection from a loopback address; `receive_bytes` bounds the kernel's buffer."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(seconds)
    try:
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


@dataclass
class Client:
    """Sends requests from one address, with the same extra headers each."""

    port: int
    source: str = INNOCENT
    headers: dict = field(default_factory=dict)
    timeout: float = RESPONSE_SECONDS_MAX
    connection: http.client.HTTPConnection = None

    def request(self, method, path, body=None, headers=None):
        """Sends one request on a connection of its own."""
        connection = self._open()
        try:
            return self._exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def repeat(self, method, path, body=None, headers=None):
        """Sends one request on the connection of the request before."""
        self.connection = self.connection or self._open()
        try:
            return self._exchange(self.connection, method, path, body, headers)
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def _open(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout, source_address=(self.source, 0))

    def _exchange(self, connection, method, path, body, headers):
        connection.request(method, path, body, self.headers | (headers or {}))
        response = connection.getresponse()
        body = response.read()
        return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def open_upload(self, repository):
        """Opens an upload session and returns the path of its location."""
        response = self.repeat("POST", f"/v2/{repository}/blobs/uploads/")
        if response.status != 202:
            raise Failure(f"an upload session was refused with {response.status}: {response.body[:200]}")
        return path_of(response.headers["location"])

    def push_blob(self, repository, data):
        """Pushes a blob in a POST and a PUT; for what an attack needs beforehand."""
        location = self.open_upload(repository)
        response = self.repeat("PUT", with_digest(location, data), data, {"Content-Type": "application/octet-stream"})
        if response.status != 201:
            raise Failure(f"a blob was refused with {response.status}: {response.body[:200]}")

    def put_manifest(self, repository, reference, manifest, media_type=OCI_IMAGE):
        return self.repeat("PUT", f"/v2/{repository}/manifests/{reference}", manifest, {"Content-Type": media_type})


def path_of(location):
    return location if location.startswith("/") else "/" + location.split("/", 3)[3]


def with_digest(location, data):
    return f"{location}{'&' if '?' in location else '?'}digest={digest_of(data)}"


class Innocent:
    """A client that pushes a small image, streamed, and pulls it, while others attack."""

    REPOSITORY = "innocent/app"

    def __init__(self, client):
        self.client = client
        self.push_seconds = []
        self.pull_seconds = []
        self.refused = 0
        self.kept = None

    def prepare(self):
        """Pushes the image that is pulled even where pushes are refused. It has a tag of its own: zot
        deletes a manifest with its last tag."""
        self.kept = self._push("kept")
        if self.kept is None:
            raise Failure("the first push, before the attack, was refused")

    def round(self):
        """Pushes an image and pulls one. Raises Failure unless the push succeeds or is refused
        with 429 and Retry-After, and the pull succeeds."""
        began = time.monotonic()
        if self._push() is None:
            self.refused += 1
        else:
            self.push_seconds.append(time.monotonic() - began)
        began = time.monotonic()
        self._pull()
        self.pull_seconds.append(time.monotonic() - began)

    def _push(self, tag="v1"):
        layer, config = os.urandom(100_000), b"{}"
        manifest = image_manifest(config, [layer])
        for data in (config, layer):
            opened = self._send("POST", f"/v2/{self.REPOSITORY}/blobs/uploads/", wanted=202)
            if opened is None:
                return None
            # As docker does: the bytes chunked in a PATCH, then an empty PUT.
            chunks = [data[begin : begin + 65536] for begin in range(0, len(data), 65536)]
            sent = self._send("PATCH", path_of(opened.headers["location"]), wanted=202, body=chunks)
            if sent is None:
                return None
            if self._send("PUT", with_digest(path_of(sent.headers["location"]), data), wanted=201, body=b"") is None:
                return None
        media_type = {"Content-Type": OCI_IMAGE}
        put = self._send("PUT", f"/v2/{self.REPOSITORY}/manifests/{tag}", 201, manifest, media_type)
        return put and (manifest, config, layer)

    def _pull(self):
        manifest, *blobs = self.kept
        self._get(f"/v2/{self.REPOSITORY}/manifests/{digest_of(manifest)}", manifest)
        for blob in blobs:
            self._get(f"/v2/{self.REPOSITORY}/blobs/{digest_of(blob)}", blob)

    def _get(self, path, content):
        response = self._send("GET", path, wanted=200, headers={"Accept": OCI_IMAGE})
        if response is None:
            raise Failure(f"a pull was refused for {RETRY_SECONDS_MAX} s")
        if response.body != content:
            raise Failure(f"a pull of {path} returned other bytes")

    def _send(self, method, path, wanted, body=None, headers=None):
        """Returns the wanted response; None if it was a 429 until the retries' time was over."""
        retry_until = time.monotonic() + RETRY_SECONDS_MAX
        while True:
            # An iterator is sent chunked, and read once.
            response = self._try(method, path, iter(body) if isinstance(body, list) else body, headers)
            if response.status == wanted:
                return response
            if response.status not in (429, 503) or "retry-after" not in response.headers:
                raise Failure(f"{method} {path}: {response.status} {response.body[:200]}")
            if time.monotonic() > retry_until:
                if response.status == 429:
                    return None
                raise Failure(f"{method} {path}: {response.status} for {RETRY_SECONDS_MAX} s")
            time.sleep(min(float(response.headers["retry-after"]), 5))

    def _try(self, method, path, body, headers):
        try:
            return self.client.request(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{method} {path}: no response: {error!r}") from error
