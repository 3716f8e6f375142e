"""A registry as a process under limits, and what it used while it ran."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

from client import PROBE, Client, Failure

# The soft and hard RLIMIT_NOFILE of every registry.
OPEN_FILES_LIMIT = 1024
# A registry above this is killed, as a cgroup's MemoryMax would.
KILL_RSS_MIB = 3072
START_SECONDS_MAX = 60
SAMPLE_SECONDS = 0.05
PROBE_SECONDS = 0.05
PROBE_TIMEOUT_SECONDS = 10


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Jreg:
    """The release binary with its defaults and an attack's own settings."""

    name, health = "jreg", "/livez"

    def __init__(self, binary):
        self.binary = binary

    def command(self, work, port, storage, options):
        return [self.binary, "serve", "--listen", f"127.0.0.1:{port}", "--storage", storage, *options]


class DockerRegistry:
    """distribution 2 or 3, without authentication, deletes enabled."""

    health = "/v2/"

    def __init__(self, name, binary):
        self.name, self.binary = name, binary

    def command(self, work, port, storage, options):
        config = f"{work}/config.json"
        # YAML is a superset of JSON.
        settings = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "abuse"},
        }
        write_json(config, settings)
        return [self.binary, "serve", config]


class Zot:
    """zot's minimal build with its defaults."""

    name, health = "zot", "/v2/"

    def __init__(self, binary):
        self.binary = binary

    def command(self, work, port, storage, options):
        config = f"{work}/config.json"
        settings = {
            "distSpecVersion": "1.1.1",
            "storage": {"rootDirectory": storage},
            "http": {"address": "127.0.0.1", "port": str(port)},
        }
        write_json(config, settings)
        return [self.binary, "serve", config]


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


class Running:
    """A registry that serves. Use it as a context manager: it is killed at the end."""

    def __init__(self, kind, work, storage, options=(), environment=None, unread_log=False):
        self.kind, self.port = kind, free_port()
        self.log = f"{work}/log"
        self.unread = None
        log = open(self.log, "ab")
        if unread_log:
            # The reading end stays open and is never read.
            self.unread, writing = os.pipe()
            log.close()
            log = os.fdopen(writing, "wb")
        with log:
            self.process = subprocess.Popen(
                kind.command(work, self.port, storage, list(options)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                preexec_fn=limit_open_files,
            )

    def __enter__(self):
        until = time.monotonic() + START_SECONDS_MAX
        client = Client(self.port, PROBE, timeout=5)
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if client.request("GET", self.kind.health).status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        self.kill()
        raise Failure(f"{self.kind.name} did not start:\n{self.tail()}")

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        if self.unread is not None:
            os.close(self.unread)
            self.unread = None

    def stop(self):
        """Asks the process to end, so that everything is stored."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.kind.name} did not end within 60 s of SIGTERM") from None

    def tail(self):
        with open(self.log, "rb") as file:
            return file.read()[-2000:].decode(errors="replace")

    def rss_mib(self, field="VmRSS"):
        """Returns a figure of /proc/PID/status in MiB; 0 after the process has ended."""
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
                for line in file:
                    if line.startswith(field + ":"):
                        return int(line.split()[1]) // 1024
        except OSError:
            pass
        return 0

    def open_files(self):
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except OSError:
            return 0


def limit_open_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES_LIMIT, OPEN_FILES_LIMIT))


class Watch:
    """Samples a registry's memory, open files and health until it is left."""

    def __init__(self, running):
        self.running = running
        self.peak_rss_mib = self.peak_files = 0
        self.latencies, self.unhealthy = [], 0
        self.done = threading.Event()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.receiver, sender = multiprocessing.Pipe(duplex=False)
        # A process of its own, so that the attack's threads do not delay what it measures.
        self.prober = multiprocessing.Process(
            target=probe, args=(running.port, running.kind.health, sender, os.getpid()), daemon=True
        )
        self.sender = sender

    def __enter__(self):
        self.sampler.start()
        self.prober.start()
        self.sender.close()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.sampler.join()
        os.kill(self.prober.pid, signal.SIGTERM)
        try:
            self.latencies, self.unhealthy = self.receiver.recv()
        except EOFError:
            self.unhealthy += 1
        self.prober.join()
        self.receiver.close()

    def _sample(self):
        while not self.done.wait(SAMPLE_SECONDS):
            self.peak_rss_mib = max(self.peak_rss_mib, self.running.rss_mib("VmHWM"))
            self.peak_files = max(self.peak_files, self.running.open_files())
            if self.running.rss_mib() > KILL_RSS_MIB:
                self.running.process.kill()

    def p95_ms(self):
        ordered = sorted(self.latencies)
        return ordered[len(ordered) * 95 // 100] * 1000 if ordered else 0.0


def probe(port, path, sender, parent):
    """Asks for the health until SIGTERM, on a new connection each time; sends what it measured."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    prefer(-5)
    latencies, unhealthy = [], 0
    client = Client(port, PROBE, timeout=PROBE_TIMEOUT_SECONDS)
    while not stopped.is_set() and os.getppid() == parent:
        began = time.monotonic()
        try:
            healthy = client.request("GET", path).status == 200
        except Exception:  # whatever went wrong, the registry was not healthy
            healthy = False
        latencies.append(time.monotonic() - began)
        unhealthy += not healthy
        stopped.wait(PROBE_SECONDS)
    sender.send((latencies, unhealthy))


def prefer(nice):
    """Changes the priority of this process; without the right to, it stays as it is."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        pass


class Emulator:
    """The project's S3 emulator, as a context manager."""

    ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "emulator", "AWS_SECRET_ACCESS_KEY": "emulator-secret"}

    def __init__(self, binary, options=()):
        self.binary, self.options, self.port = binary, options, free_port()
        self.storage = f"s3://jreg/abuse?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"

    def __enter__(self):
        command = [self.binary, "--listen", f"127.0.0.1:{self.port}", *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise Failure("the S3 emulator did not start")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class SmallDisk:
    """A file system of a few megabytes: ext4 on a loop device, else tmpfs. Needs root."""

    MIB = 160

    def __init__(self, work):
        self.image, self.path = f"{work}/disk.ext4", f"{work}/disk"

    def __enter__(self):
        os.mkdir(self.path)
        if not (shutil.which("mkfs.ext4") and self._mount_ext4()):
            quiet(["mount", "-t", "tmpfs", "-o", f"size={self.MIB}m", "tmpfs", self.path]).check_returncode()
        return self

    def _mount_ext4(self):
        with open(self.image, "wb") as file:
            file.truncate(self.MIB << 20)
        made = quiet(["mkfs.ext4", "-q", "-F", "-m", "0", self.image])
        return made.returncode == 0 and quiet(["mount", "-o", "loop", self.image, self.path]).returncode == 0

    def __exit__(self, *_):
        quiet(["umount", "-l", self.path])

    def available(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize


def quiet(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
