"""The program under test as child processes: started on free ports, ended by pid, with their output kept."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading

from waiting import wait_until

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SWIFTLET", str(REPOSITORY / ".build" / "release" / "swiftlet"))
#: Under a sanitizer (`make sanitize`) memory and CPU time are its own, not the program's.
IS_SANITIZED = any(f"/.build/{sanitizer}/" in BINARY for sanitizer in ("address", "thread"))
#: A debug build takes several times the CPU time.
IS_OPTIMISED = "/release/" in BINARY

LISTENING = re.compile(r"\blistening on (https?|h2c)://(\[[^\]]+\]|[^\s:/]+):(\d+)")
ADMIN = re.compile(r"\badmin on http://(\[[^\]]+\]|[^\s:/]+):(\d+)")


class Program:
    """One running `swiftlet` process. Its stdout and stderr are read by threads, so it never blocks on them."""

    def __init__(self, *arguments):
        self.arguments = [str(argument) for argument in arguments]
        self.process = subprocess.Popen(
            [*self.command(), *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self.stdout_lines = []
        self.stderr_lines = []
        self._readers = [
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True)
            for stream, lines in (
                (self.process.stdout, self.stdout_lines),
                (self.process.stderr, self.stderr_lines),
            )
        ]
        for reader in self._readers:
            reader.start()

    def command(self):
        return [BINARY]

    @staticmethod
    def _collect(stream, lines):
        with stream:
            for line in stream:
                lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        return "\n".join(self.stderr_lines)

    def wait_ready(self, listeners=1, admin=False, timeout=10.0):
        """Waits for the lines that name the bound ports and returns self."""

        def ready():
            if self.process.poll() is not None:
                self.join_readers()
                raise AssertionError(
                    f"swiftlet {' '.join(self.arguments)} ended with {self.process.returncode}:\n{self.stderr}"
                )
            return len(self.ports) >= listeners and (not admin or self.admin_port)

        try:
            wait_until(ready, timeout, "the lines that name the bound ports")
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\nstderr:\n{self.stderr}") from None
        return self

    @property
    def ports(self):
        return [int(match[3]) for line in list(self.stderr_lines) if (match := LISTENING.search(line))]

    @property
    def port(self):
        return self.ports[0]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_port(self):
        for line in list(self.stderr_lines):
            if match := ADMIN.search(line):
                return int(match[2])
        return None

    @property
    def admin_url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def signal(self, number):
        self.process.send_signal(number)

    def join_readers(self):
        for reader in self._readers:
            reader.join(5)

    def wait_exit(self, timeout=10.0):
        """The exit status (negative: the signal that ended it); fails when it does not end in time."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not exit within {timeout:g} s; stderr:\n{self.stderr}") from None
        self.join_readers()
        return status

    def kill(self):
        """SIGKILL, as a machine that fails: nothing is flushed and nothing is said."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)
        self.join_readers()

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.join_readers()

    def access_log(self):
        """The access-log lines so far, parsed; anything on stdout that is not a JSON object is an error."""
        return [json.loads(line) for line in list(self.stdout_lines) if line.strip()]

    def access_line(self, request_id, timeout=5.0):
        """The line of the request with that id; lines are written in batches, so it may take a moment."""

        def find():
            lines = [line for line in self.access_log() if line.get("request_id") == request_id]
            assert len(lines) <= 1, f"{len(lines)} lines for one request: {lines}"
            return lines[0] if lines else None

        return wait_until(find, timeout, f"an access-log line of request {request_id}")

    def resident_bytes(self):
        """VmRSS from /proc, in bytes; nothing under a sanitizer, whose shadow and quarantine it would be."""
        return self._memory("VmRSS")

    def peak_bytes(self):
        """The most that was resident since `forget_peak()`, in bytes; nothing under a sanitizer."""
        return self._memory("VmHWM")

    def forget_peak(self):
        """What is resident now is the most from here on (proc(5), clear_refs)."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _memory(self, key):
        if IS_SANITIZED:
            return 0
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key} line")

    def accepts_connections(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


def serve(*backends, admin=False, listeners=1, arguments=()):
    """A router over `backends` (URLs) on a free port, ready to be asked. Its own questions for load would be more requests than a
    backend's script counts with, so they are off where neither arguments nor a file say anything of them."""
    command = ["serve"]
    if "--scrape-interval" not in arguments and "--config" not in arguments:
        command += ["--scrape-interval", "0s"]
    for _ in range(listeners):
        command += ["--listen", "127.0.0.1:0"]
    if admin:
        command += ["--admin", "127.0.0.1:0"]
    for backend in backends:
        command += ["--backend", backend]
    return Program(*command, *arguments).wait_ready(listeners=listeners, admin=admin)


def stub(model="stub-model", replicas=1, prefill_us=2, decode_ms=0.2, arguments=()):
    """One process of stub engines on free ports."""
    return Program(
        "stub", "--listen", "127.0.0.1:0", "--model", model, "--replicas", replicas,
        "--prefill-us-per-token", prefill_us, "--decode-ms-per-token", decode_ms, *arguments,
    ).wait_ready(listeners=replicas)  # fmt: skip


def run(*arguments, timeout=10.0):
    """Runs `swiftlet` to its end and returns the completed process with text output."""
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY,
    )  # fmt: skip


def bench(*arguments, expect=0, timeout=60):
    """Runs `swiftlet bench` to its end, which must be `expect`, and returns all that it said."""
    result = run("bench", *arguments, timeout=timeout)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


def unused_port():
    """A port on which nothing listens: it was free a moment ago and is not handed out again soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
