"""The attacks. Each is a context manager: it starts, runs while the regular client works, ends.

What an attack raises after its `yield` is a failure of the registry, like a bound that it exceeds.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import string
import subprocess
import threading
import time
from dataclasses import dataclass, field

import http2
from client import ATTACKER, OCI_IMAGE, OCI_INDEX, Client, Failure, basic, connect, digest_of, image_manifest
from registry import prefer

MIB = 1 << 20
UNKNOWN_TYPE = "application/vnd.example.abuse.v1+json"
ATTACKS = []


@dataclass
class Attack:
    """An attack, and what the registry is started with."""

    name: str
    about: str
    run: callable
    options: list = field(default_factory=list)
    # Prepares content with a registry of its own, so that its memory does not count.
    seed: callable = None
    # What that registry is started with beside the options.
    seed_options: list = field(default_factory=list)
    # Works on the storage between the two.
    between: callable = None
    # Options of the S3 emulator; None stores in a folder.
    bucket: list = None
    # A policy file's text; with it, clients log in.
    policy: str = None
    # Whether distribution and zot can be attacked in the same way.
    peers: bool = True
    full_only: bool = False
    unread_log: bool = False
    small_disk: bool = False


def attack(name, about, **more):
    """Registers an attack."""

    def register(function):
        ATTACKS.append(Attack(name, about, contextlib.contextmanager(function), **more))
        return function

    return register


@dataclass
class Target:
    """The registry under attack, as an attack sees it."""

    port: int
    full: bool
    kind: object
    running: object
    storage: str
    disk: object = None
    login: dict = field(default_factory=dict)
    # Figures that the report shows beside the common ones.
    notes: list = field(default_factory=list)

    def size(self, short, full):
        return full if self.full else short

    def client(self, timeout=30):
        return Client(self.port, ATTACKER, timeout=timeout)

    def trusted(self):
        """A client that may push, for what an attack needs beforehand."""
        return Client(self.port, ATTACKER, self.login, timeout=120)

    def is_jreg(self):
        return self.kind.name == "jreg"


@contextlib.contextmanager
def connections(target, count, first_bytes, receive_bytes=None):
    """Holds connections that have sent `first_bytes(n)`; those that are refused are left out."""
    held = []
    try:
        for n in range(count):
            try:
                sock = connect(target.port, ATTACKER, 5, receive_bytes)
                held.append(sock)
                sock.sendall(first_bytes(n))
            except OSError:
                continue
        yield held
    finally:
        for sock in held:
            sock.close()


@contextlib.contextmanager
def processes(count, work, *arguments):
    """Runs `work(*arguments, n)` in processes of low priority, each again and again, until left."""
    parent = os.getpid()
    children = [
        multiprocessing.Process(target=repeat, args=(parent, work, (*arguments, n)), daemon=True) for n in range(count)
    ]
    for child in children:
        child.start()
    try:
        yield children
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.join()


def repeat(parent, work, arguments):
    # The registry gets the processor first: its speed is not what is attacked.
    prefer(10)
    while os.getppid() == parent:
        try:
            work(*arguments)
        except Exception:  # a refusal is no reason to give up
            time.sleep(0.05)


@contextlib.contextmanager
def repeated(work, seconds):
    """Runs `work()` in a thread, again and again with a pause, until left."""
    stop = threading.Event()

    def run():
        while not stop.wait(seconds):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def dribble(sockets, data, seconds=1.0):
    """Sends the same few bytes on every socket, again and again, until left."""

    def send():
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.sendall(data)

    return repeated(send, seconds)


def put_accepted(client, repository, reference, manifest):
    response = client.put_manifest(repository, reference, manifest)
    if response.status != 201:
        raise Failure(f"a manifest was refused with {response.status}: {response.body[:200]}")


def head(method, path, *fields):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: registry", *fields, "", ""]).encode()


def open_http2(target, initial_window=None):
    """Opens an HTTP/2 connection and reads the server's settings, which it waits for."""
    connection = http2.Connection(connect(target.port, ATTACKER, 5), initial_window)
    until = time.monotonic() + 5
    while not (connection.has_settings or connection.closed) and time.monotonic() < until:
        connection.receive(0.5)
    # The connection's window follows at once.
    connection.receive(0.01)
    return connection


# Memory is reserved before bytes arrive
# --------------------------------------


def announce_uploads(target, count, *fields, first=b""):
    client = target.client()
    paths = [client.open_upload("attacker/app") for _ in range(count)]
    return connections(target, count, lambda n: head("PATCH", paths[n], *fields) + first)


@attack("idle-uploads", "uploads announce 17 MiB each and send nothing", options=["--uploads-max", "2048"])
def idle_uploads(target):
    with announce_uploads(target, target.size(300, 700), f"Content-Length: {17 * MIB}"):
        yield


@attack("idle-uploads-s3", "idle uploads against a bucket, where parts are larger", bucket=[], peers=False)
def idle_uploads_s3(target):
    with announce_uploads(target, target.size(64, 300), f"Content-Length: {17 * MIB}", first=b"z"):
        yield


@attack("trickling-uploads", "chunked uploads send one byte a second")
def trickling_uploads(target):
    with announce_uploads(target, target.size(300, 500), "Transfer-Encoding: chunked") as held:
        with dribble(held, b"1\r\nz\r\n"):
            yield


def manifest_head(n, *fields):
    return head("PUT", f"/v2/attacker/app/manifests/t{n}", f"Content-Type: {OCI_IMAGE}", *fields)


@attack("idle-manifests", "manifest PUTs announce 4 MiB each and send nothing")
def idle_manifests(target):
    with connections(target, target.size(200, 500), lambda n: manifest_head(n, f"Content-Length: {4 * MIB}")):
        yield


@attack("trickling-manifests", "chunked manifest PUTs send one byte a second")
def trickling_manifests(target):
    with connections(target, target.size(200, 500), lambda n: manifest_head(n, "Transfer-Encoding: chunked")) as held:
        with dribble(held, b"1\r\n \r\n"):
            yield


@attack("idle-manifests-http2", "manifest PUTs on one HTTP/2 connection announce 4 MiB each", peers=False)
def idle_manifests_http2(target):
    connection = open_http2(target)
    for n in range(min(target.size(100, 250), connection.streams_max)):
        fields = [("content-type", OCI_IMAGE), ("content-length", str(4 * MIB))]
        connection.request("PUT", f"/v2/attacker/app/manifests/t{n}", fields, end=False)
    connection.flush()
    yield
    connection.close()


# Stalled readers
# ---------------

STALLED_BYTES = 8 * MIB
STALL_TIMEOUT_SECONDS = 4


def seed_large_blob(target):
    data = random.Random(1).randbytes(STALLED_BYTES)
    target.trusted().push_blob("attacker/large", data)


def large_blob_path():
    return f"/v2/attacker/large/blobs/{digest_of(random.Random(1).randbytes(STALLED_BYTES))}"


@attack("stalled-readers", "clients ask for an 8 MiB blob and read nothing", seed=seed_large_blob)
def stalled_readers(target):
    ask = head("GET", large_blob_path())
    with connections(target, target.size(400, 900), lambda _: ask, receive_bytes=4096):
        yield


@attack(
    "stalled-readers-http2",
    "HTTP/2 streams ask for the blob, grant no window, and send PINGs",
    seed=seed_large_blob,
    options=["--write-stall-timeout", f"{STALL_TIMEOUT_SECONDS}s"],
    peers=False,
)
def stalled_readers_http2(target):
    with stalled_streams(target, [large_blob_path()]):
        yield


@attack(
    "stalled-readers-http2-s3",
    "such streams against a bucket",
    seed=seed_large_blob,
    bucket=["--latency-ms", "20"],
    options=["--write-stall-timeout", f"{STALL_TIMEOUT_SECONDS}s"],
    peers=False,
)
def stalled_readers_http2_s3(target):
    with stalled_streams(target, [large_blob_path()]):
        yield


LARGE_MANIFESTS = 48


def large_manifest(n):
    return image_manifest(b"{}", annotations={"n": f"{n}", "large": "x" * (4 * MIB - 1024)})


def seed_large_manifests(target):
    seed_config(target)
    for n in range(LARGE_MANIFESTS):
        manifest = large_manifest(n)
        response = target.trusted().put_manifest("attacker/app", digest_of(manifest), manifest)
        if response.status != 201:
            raise Failure(f"a manifest was refused with {response.status}: {response.body[:200]}")


@attack(
    "stalled-manifests-http2",
    f"HTTP/2 streams ask for {LARGE_MANIFESTS} manifests of 4 MiB, grant no window, and send PINGs",
    seed=seed_large_manifests,
    options=["--write-stall-timeout", f"{STALL_TIMEOUT_SECONDS}s"],
    peers=False,
)
def stalled_manifests_http2(target):
    paths = [f"/v2/attacker/app/manifests/{digest_of(large_manifest(n))}" for n in range(LARGE_MANIFESTS)]
    with stalled_streams(target, paths):
        yield


@contextlib.contextmanager
def stalled_streams(target, paths):
    """Holds HTTP/2 connections whose streams ask for these paths in turn and take nothing."""
    turns = itertools.cycle(paths)
    held = [open_http2(target, initial_window=0) for _ in range(target.size(8, 32))]
    for connection in held:
        for _ in range(min(250, connection.streams_max)):
            connection.request("GET", next(turns))
        connection.flush()
    began = time.monotonic()
    yield
    wait_until_cut(held, began + STALL_TIMEOUT_SECONDS + 10, "stalled HTTP/2 readers that send PINGs")
    for connection in held:
        connection.close()


def wait_until_cut(held, until, what):
    """Reads until the server has ended every connection, or every stream of it."""
    # What came while the innocent client worked is read in any case.
    until = max(until, time.monotonic() + 2)
    while any(not is_cut(connection) for connection in held):
        if time.monotonic() > until:
            open_count = sum(not is_cut(connection) for connection in held)
            raise Failure(f"{what}: {open_count} of {len(held)} connections are still served")
        for connection in held:
            if not is_cut(connection):
                connection.ping()
                connection.receive(0.02)
        time.sleep(0.2)


def is_cut(connection):
    opened = connection.next_stream // 2
    return connection.closed or (opened > 0 and len(connection.reset) >= opened)


@attack(
    "windows-before-login",
    "HTTP/2 bodies fill every window before the login is checked",
    policy="",
    peers=False,
)
def windows_before_login(target):
    held = [open_http2(target) for _ in range(target.size(96, 160))]
    with contextlib.ExitStack() as stack:
        for n, connection in enumerate(held):
            stack.callback(connection.close)
            login = basic(f"unknown{n}", "guess")["Authorization"]
            for _ in range(8):
                stream = connection.request(
                    "POST", "/v2/attacker/app/blobs/uploads/", [("authorization", login)], end=False
                )
                connection.send_data(stream, 16 * MIB)
            connection.flush(FLUSH_SECONDS)
        sender = threading.Thread(target=fill_windows, args=(held,), daemon=True)
        sender.start()
        yield
        sender.join()


FORM_BYTES = 64 * 1024 - 1
FORM_HEAD_BYTES = 14_000


@attack(
    "forms-before-login",
    "HTTP/2 streams send /token a head of 14 kB and a form of 64 KiB that does not end",
    policy="",
    peers=False,
)
def forms_before_login(target):
    fields = [("content-type", "application/x-www-form-urlencoded"), ("x", "y" * FORM_HEAD_BYTES)]
    with contextlib.ExitStack() as stack:
        for _ in range(target.size(24, 80)):
            connection = open_http2(target)
            stack.callback(connection.close)
            for _ in range(min(250, connection.streams_max)):
                stream = connection.request("POST", "/token", fields, end=False)
                send_form(connection, stream)
        yield


def send_form(connection, stream):
    """Sends a form as the windows allow, and gives up where they stay closed."""
    left, until = FORM_BYTES, time.monotonic() + 0.2
    while left and time.monotonic() < until and not connection.closed and stream not in connection.reset:
        left -= connection.send_data(stream, left)
        connection.flush(FLUSH_SECONDS)
        connection.receive(0.0005)


# How long one connection may hold up the others while windows are filled.
FLUSH_SECONDS = 0.02


def fill_windows(held):
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for connection in held:
            connection.flush(FLUSH_SECONDS)
            connection.receive(0.001)
            if connection.unsent:
                continue
            for stream in list(connection.windows):
                connection.send_data(stream, MIB)


# Connections
# -----------


@attack(
    "idle-connections",
    "one address opens connections that send nothing, half a request, or an HTTP/2 preface",
    options=["--header-read-timeout", "4s"],
)
def idle_connections(target):
    beginnings = [b"", b"GET /v2/ HTTP/1.1\r\nHost: reg", http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0)]
    with connections(target, target.size(1200, 4200), lambda n: beginnings[n % 3]) as held:
        target.notes.append(f"{len(held)} connections")
        yield


@attack(
    "idle-http2",
    "HTTP/2 connections send one request, and then only PINGs",
    options=["--header-read-timeout", "3s"],
    peers=False,
)
def idle_http2(target):
    held = [open_http2(target) for _ in range(50)]
    for connection in held:
        connection.request("GET", "/v2/")
        connection.flush()
        connection.receive(1)
    began = time.monotonic()
    yield
    wait_until_cut(held, began + 3 + 12, "idle HTTP/2 connections")


# Memory outside the budgets
# --------------------------


def tiny_annotations(byte_count):
    """Returns the JSON text of annotations, each a few bytes, of about so many bytes together."""
    letters = string.ascii_letters + string.digits
    count = byte_count // 10
    return ",".join(f'"{"".join(key)}":""' for key in itertools.islice(itertools.product(letters, repeat=4), count))


def annotated(n, annotations):
    """Returns a manifest with a subject and this JSON text inside its annotations."""
    subject = {"mediaType": OCI_IMAGE, "digest": digest_of(b"subject"), "size": 7}
    manifest = image_manifest(b"{}", subject=subject, artifactType="example/abuse")
    return manifest[:-1] + f',"annotations":{{"n":"{n}",{annotations}}}}}'.encode()


def seed_config(target):
    target.trusted().push_blob("attacker/app", b"{}")


@attack("annotations", "manifests of 4 MiB consist of tiny annotations", seed=seed_config)
def annotations_(target):
    text = tiny_annotations(4 * MIB - 4096)
    with processes(target.size(16, 32), put_annotated, target.port, text):
        yield


def put_annotated(port, text, n):
    manifest = annotated(f"{n}-{time.monotonic()}", text)
    Client(port, ATTACKER).put_manifest("attacker/app", digest_of(manifest), manifest)


CHILDREN = 48


def child(n):
    return image_manifest(b"{}", annotations={"n": f"{n}", "large": "x" * (4 * MIB - 1024)})


def seed_children(target):
    seed_config(target)
    client = target.trusted()
    for n in range(CHILDREN):
        put_accepted(client, "attacker/app", digest_of(child(n)), child(n))


@attack(
    "index-children",
    f"indexes of a few KB name {CHILDREN} manifests of 4 MiB",
    seed=seed_children,
    bucket=["--response-mb-per-second", "10"],
    peers=False,
)
def index_children(target):
    children = [{"mediaType": OCI_IMAGE, "digest": digest_of(child(n)), "size": len(child(n))} for n in range(CHILDREN)]
    with processes(target.size(6, 12), put_index, target.port, children):
        yield


def put_index(port, children, n):
    annotations = {"n": f"{n}-{time.monotonic()}"}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, "annotations": annotations}
    Client(port, ATTACKER).put_manifest("attacker/app", f"i{n}", json.dumps(index).encode(), OCI_INDEX)


# Computation
# -----------

RULES = 990
LISTED = """
[[rule]]
name = "everyone lists what is public"
subjects = ["everyone"]
repositories = ["public/**"]
actions = ["pull", "list"]

[[rule]]
name = "alice does everything"
subjects = ["user:alice"]
repositories = ["**"]
actions = ["pull", "push", "delete", "list"]
"""


def conditioned_rules(count):
    """Returns rules whose conditions must be evaluated for every repository."""
    rule = """
[[rule]]
name = "condition {n}"
effect = "deny"
subjects = ["everyone"]
repositories = ["**"]
actions = ["pull", "push", "delete"]
condition = "repository.startsWith('team{n}/') && !in_network(address, '10.{byte}.0.0/16') && hour > 25"
"""
    return LISTED + "".join(rule.format(n=n, byte=n % 256) for n in range(count))


@attack(
    "token-scopes",
    f"/token with 64 scopes, against {RULES} rules with conditions",
    policy=conditioned_rules(RULES),
    peers=False,
)
def token_scopes(target):
    scopes = "&".join(f"scope=repository:a{n}:*" for n in range(64))
    with processes(target.size(4, 16), get, target.port, f"/token?service=jreg&{scopes}"):
        yield


def get(port, path, _):
    Client(port, ATTACKER).repeat("GET", path)


def seed_hidden(target):
    """Puts one manifest into many repositories, by several connections."""
    seed_config(target)
    manifest = image_manifest(b"{}")
    count = target.size(1500, 6000)

    def put(first):
        client = target.trusted()
        for n in range(first, count, 6):
            put_accepted(client, f"hidden/r{n:06}", "v1", manifest)

    threads = [threading.Thread(target=put, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@attack(
    "catalog-hidden",
    "anonymous clients list a catalog of repositories that they may not see",
    policy=conditioned_rules(50),
    seed=seed_hidden,
    options=["--references", "off", "--durability", "relaxed"],
    peers=False,
)
def catalog_hidden(target):
    with processes(target.size(8, 50), get, target.port, "/v2/_catalog?n=1"):
        yield


def seed_referrers(target):
    """Pushes referrers with as many bytes of annotations as the registry accepts."""
    seed_config(target)
    client = target.trusted()
    large = ",".join(f'"k{n}":"{"x" * 60_000}"' for n in range(64))
    medium = ",".join(f'"k{n}":"{"x" * 4_000}"' for n in range(64))
    for text in (tiny_annotations(4 * MIB - 4096), large, medium):
        for n in range(32):
            manifest = annotated(n, text)
            response = client.put_manifest("attacker/app", digest_of(manifest), manifest)
            if response.status != 201:
                break
        else:
            return
    raise Failure(f"no referrer was accepted: {response.status} {response.body[:200]}")


@attack("referrers", "pages of referrers with large annotations", seed=seed_referrers)
def referrers(target):
    with processes(target.size(16, 64), get_referrers, target.port):
        yield


def get_referrers(port, n):
    last = f"sha256-{n % 16:x}{'0' * 63}"
    Client(port, ATTACKER).repeat("GET", f"/v2/attacker/app/referrers/{digest_of(b'subject')}?n=1&last={last}")


# The decorator that is nearer to the function registers first.
@attack("digests-s3", "such manifests against a bucket", seed=seed_config, bucket=["--latency-ms", "20"], peers=False)
@attack("digests", "manifests of an unknown type name 4,096 digests", seed=seed_config)
def digests(target):
    with processes(target.size(8, 32), put_digests, target.port):
        yield


def put_digests(port, n):
    names = [f"sha256:{random.getrandbits(256):064x}" for _ in range(4096)]
    Client(port, ATTACKER).put_manifest("attacker/app", f"d{n}", json.dumps({"x": names}).encode(), UNKNOWN_TYPE)


@attack(
    "access-tokens-s3", "such logins against a bucket", policy=LISTED, bucket=["--latency-ms", "20"], peers=False
)
@attack("access-tokens", "clients log in with access tokens that were never issued", policy=LISTED, peers=False)
def access_tokens(target):
    with processes(target.size(8, 32), guess_access_token, target.port):
        yield


def guess_access_token(port, _):
    client = Client(port, ATTACKER)
    for _ in range(1000):
        token = f"jreg_{random.getrandbits(64):016x}_{random.getrandbits(256):064x}"
        client.repeat("GET", "/v2/", headers=basic("ci", token))


# Logs
# ----

# The most bytes of one line of the log.
LOG_LINE_BYTES_MAX = 2048
FLOOD_SECONDS = 4


@attack("log-flood", "requests of a dozen bytes name a User-Agent of 3.9 kB by its HPACK index", peers=False)
def log_flood(target):
    before = os.path.getsize(target.running.log)
    with processes(1, flood_log, target.port):
        time.sleep(FLOOD_SECONDS)
        yield
    check_log(target, before)


def check_log(target, before):
    with open(target.running.log, "rb") as file:
        file.seek(before)
        lines = file.read().splitlines()
    longest = max(map(len, lines), default=0)
    megabytes = sum(map(len, lines)) / 1e6
    target.notes.append(f"{megabytes:.1f} MB in {len(lines)} lines logged, the longest of {longest} bytes")
    if longest > LOG_LINE_BYTES_MAX:
        raise Failure(f"a line of {longest} bytes was logged; {LOG_LINE_BYTES_MAX} is the most")


def flood_log(port, _):
    connection = http2.Connection(connect(port, ATTACKER, 5))
    # Static indices: 1 :authority, 2 :method GET, 4 :path, 6 :scheme http, 58 user-agent.
    agent = b'"' * 3900
    named = [(1, b"a"), (4, b"/v2/"), (58, agent)]
    connection.request_block(b"\x82\x86" + b"".join(http2.indexed_literal(*field) for field in named))
    # The dynamic table now has the user agent at 62, the path at 63, the authority at 64.
    again = b"\x82\x86" + bytes([0x80 | 64, 0x80 | 63, 0x80 | 62])
    until = time.monotonic() + 30
    while time.monotonic() < until and not connection.closed:
        for _ in range(40):
            connection.request_block(again)
        connection.windows.clear()
        connection.flush()
        connection.receive(0.01)
    connection.close()


@attack("unread-log", "no process reads the log's pipe while requests are logged", unread_log=True)
def unread_log(target):
    client = target.client(timeout=10)
    with processes(2, get, target.port, "/v2/" + "x" * 200 + "/tags/list"):
        # More than a pipe holds.
        for _ in range(2000):
            try:
                client.repeat("GET", "/v2/attacker/" + "x" * 200 + "/tags/list")
            except OSError as error:
                raise Failure(f"a request had no response while the log is not read: {error!r}") from error
        yield


# A full disk
# -----------

DISK_LOW_BYTES, DISK_HIGH_BYTES = 250_000, 600_000
WRITERS = 24
HANG_SECONDS = 20


def seed_writers(target):
    """Gives every writer a repository with a tag that stays."""
    for n in range(WRITERS):
        client = target.trusted()
        client.push_blob(f"attacker/w{n}", b"{}")
        client.put_manifest(f"attacker/w{n}", "keep", image_manifest(b"{}"))


# Crockford's base 32, in which ULIDs are written.
ULID_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
QUEUE_RECORDS = 32


def ulid(number, tail):
    """Returns a ULID whose last two digits, by which blobs are put into folders, are `tail`."""
    digits = ""
    for _ in range(23):
        digits = ULID_DIGITS[number % 32] + digits
        number //= 32
    return f"0{digits}{tail}"


def queue_garbage(target):
    """Leaves what a large registry has: a GC queue of many blobs in the same few folders
    (docs/format.md). By the API alone this takes hundreds of thousands of pushes."""
    per_record = target.size(200, 1000)
    os.makedirs(f"{target.storage}/gc/queue", exist_ok=True)
    for record in range(QUEUE_RECORDS):
        tail = "0" + ULID_DIGITS[record]
        os.makedirs(f"{target.storage}/blobs/_/{tail}", exist_ok=True)
        places = []
        for n in range(per_record):
            location = f"blobs/_/{tail}/{ulid(10**12 + record * per_record + n, tail)}"
            with open(f"{target.storage}/{location}", "wb") as file:
                file.write(b"garbage")
            places.append({"digest": digest_of(location.encode()), "location": location, "size": 7})
        name = ulid(10**6 + record, "00")
        with open(f"{target.storage}/gc/queue/{name}", "w", encoding="utf-8") as file:
            json.dump({"nonce": f"{record:032x}", "places": places}, file)
    age(f"{target.storage}/gc")
    age(f"{target.storage}/blobs/_")


def age(root):
    """Makes everything below a folder look as if it was written three days ago."""
    then = time.time() - 3 * 86400
    for folder, _, files in os.walk(root):
        for name in files:
            if not name.startswith("."):
                os.utime(f"{folder}/{name}", (then, then))


@attack(
    "full-disk",
    f"{WRITERS} clients write tags while GC deletes and the disk has less than 600 kB left",
    seed=seed_writers,
    seed_options=["--durability", "relaxed"],
    between=queue_garbage,
    small_disk=True,
    options=["--gc-interval", "off"],
    peers=False,
)
def full_disk(target):
    writes = WriteLoad(target)
    with writes, keep_full(target.disk):
        wait_until_full(target.disk)
        gc = subprocess.Popen(
            [target.kind.binary, "gc", "--storage", target.storage, "--force", "--requests-per-second", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        writes.watch(target.size(8, 60))
        gc.kill()
        gc.wait()
        check_pull(target)
    writes.check_writes()
    yield


def wait_until_full(disk):
    until = time.monotonic() + HANG_SECONDS
    while disk.available() > DISK_HIGH_BYTES and time.monotonic() < until:
        time.sleep(0.05)


def check_pull(target):
    response = target.client(timeout=HANG_SECONDS).request("GET", f"/v2/attacker/w0/blobs/{digest_of(b'{}')}")
    if response.status != 200:
        raise Failure(f"a pull on the full disk was answered with {response.status}")


@contextlib.contextmanager
def keep_full(disk):
    """Keeps the free space between the two marks with a file that grows and shrinks."""
    path = f"{disk.path}/filler"

    def adjust():
        available = disk.available()
        with contextlib.suppress(OSError):
            if available > DISK_HIGH_BYTES:
                file.write(bytes(min(available - DISK_HIGH_BYTES + 50_000, 4_000_000)))
            elif available < DISK_LOW_BYTES:
                file.truncate(max(0, file.tell() - (DISK_LOW_BYTES - available) - 100_000))
                file.seek(0, os.SEEK_END)

    with open(path, "wb", buffering=0) as file:
        try:
            with repeated(adjust, 0.002):
                yield
        finally:
            os.truncate(path, 0)


class WriteLoad:
    """Clients that put and delete tags without a pause, as a context manager."""

    def __init__(self, target):
        self.target = target
        self.stop = threading.Event()
        self.statuses = {}
        self.last_response = time.monotonic()
        self.threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()

    def _write(self, n):
        client = self.target.client(timeout=2 * HANG_SECONDS)
        manifest = image_manifest(b"{}")
        for turn in itertools.count():
            if self.stop.is_set():
                return
            tag = f"x{turn // 2 % 40}"
            try:
                if turn % 2 == 0:
                    response = client.put_manifest(f"attacker/w{n}", tag, manifest)
                else:
                    response = client.repeat("DELETE", f"/v2/attacker/w{n}/manifests/{tag}")
            except Exception:  # the hang is what is looked for
                continue
            self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
            self.last_response = time.monotonic()

    def watch(self, seconds):
        """Waits, and raises Failure if no write has a response for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until or time.monotonic() - self.last_response > 1:
            if time.monotonic() - self.last_response > HANG_SECONDS:
                raise Failure(f"no write was answered for {HANG_SECONDS} s; before: {self.statuses}")
            time.sleep(0.1)

    def check_writes(self):
        """Once the disk has space, every client gets a response."""
        for thread in self.threads:
            thread.join(HANG_SECONDS)
            if thread.is_alive():
                raise Failure(f"a write was not answered for {HANG_SECONDS} s after the disk had room")
        self.target.notes.append(f"writes by status {dict(sorted(self.statuses.items()))}")
