"""The same attacks on nginx and HAProxy: nothing that both refuse may pass here. `make compare-strictness` prints the table.

Where these two are not installed, the router's own verdicts are asserted all the same."""

import asyncio
import collections
import concurrent.futures
import re
import shutil
import subprocess

import pytest

import processes
from attacks import HTTP1
from test_smuggling import FIELDS, LEGAL, PSEUDO, raw_request
from waiting import wait_until
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client

NGINX, HAPROXY = shutil.which("nginx", path="/usr/sbin:/usr/bin"), shutil.which("haproxy", path="/usr/sbin:/usr/bin")

NGINX_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port1}; location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; }} }}
  server {{ listen 127.0.0.1:{port2} http2; location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; }} }}
}}
"""
HAPROXY_CONFIGURATION = """
defaults
  mode http
  timeout client 5s
  timeout connect 1s
  timeout server 5s
frontend one
  bind 127.0.0.1:{port1}
  default_backend all
frontend two
  bind 127.0.0.1:{port2} proto h2
  default_backend all
backend all
  server one 127.0.0.1:{backend}
"""


class Recorder:
    """Takes anything, one request a connection, and keeps the first lines that came."""

    def __init__(self, hub):
        self.lines = []
        self._server = hub.run(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._hub = hub

    async def _connection(self, reader, writer):
        data = b""
        try:
            while not self._is_whole(data) and (more := await asyncio.wait_for(reader.read(65_536), 1)):
                data += more
        except (TimeoutError, ConnectionError):
            pass
        if self._is_whole(data):
            self.lines.append(data.split(b"\r\n", 1)[0])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        writer.close()

    @staticmethod
    def _is_whole(data):
        head, end, body = data.partition(b"\r\n\r\n")
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
            return len(body) >= int(length[1])
        chunked = re.search(rb"\r\ntransfer-encoding:.*chunked", head, re.IGNORECASE)
        return bool(end) and (not chunked or re.search(rb"(^|\r\n)0\r\n([^\r\n]+\r\n)*\r\n\Z", body) is not None)

    def close(self):
        self._hub.loop.call_soon_threadsafe(self._server.close)


@pytest.fixture(scope="module")
def proxies(hub, tmp_path_factory):
    """name: (port of HTTP/1.1, port of HTTP/2, recorder), of those that are installed."""
    started, result = [], {}
    for name, binary, text in (("nginx", NGINX, NGINX_CONFIGURATION), ("haproxy", HAPROXY, HAPROXY_CONFIGURATION)):
        if not binary:
            continue
        folder, recorder = tmp_path_factory.mktemp(name), Recorder(hub)
        ports = processes.unused_port(), processes.unused_port()
        file = folder / "configuration"
        file.write_text(text.format(folder=folder, port1=ports[0], port2=ports[1], backend=recorder.port))
        arguments = [binary, "-c", file, "-p", folder] if name == "nginx" else [binary, "-db", "-f", file]
        started.append(subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        result[name] = (*ports, recorder)
        wait_until(lambda port=ports[0]: _connects(port), 5, f"{name} to listen")
    recorder = Recorder(hub)
    program = processes.serve(f"http://127.0.0.1:{recorder.port}")
    result["swiftlet"] = (program.port, program.port, recorder)
    yield result
    program.stop()
    for process in started:
        process.terminate()
        process.wait(5)
    for _, _, recorder in result.values():
        recorder.close()


def _connects(port):
    try:
        HTTP1Client(port).close()
    except OSError:
        return False
    return True


def http1(port, data, patience):
    """The status of the first answer; 0 when there was none that can be read."""
    with HTTP1Client(port, timeout=patience) as client:
        client.send_unless_refused(data)
        try:
            status = client.response().status
            client.socket.settimeout(0.1)
            client.ended()
            return status
        except (ConnectionEnded, OSError, ValueError):
            return 0


def http2(port, pseudo, fields, body, patience):
    with HTTP2Client(port, timeout=patience, strict=False) as client:
        try:
            response = raw_request(client, pseudo, fields, body)
        except OSError:
            return 0
        return response.status


def numbered(value, number):
    """The default path is `/v`; `/smuggled` stays."""
    return {**value, b":path": value.get(b":path", b"/v-%03d" % number)}


def verdicts(port1, port2, recorder, patience):
    """name: (status, 'refused' | 'forwarded' | 'both', where the hidden request went on as one of its own), of every attack."""
    names = list(HTTP1) + [f"h2 {name}" for name in (*FIELDS, *PSEUDO, *LEGAL)]

    def run(number, name):
        if name in HTTP1:
            return http1(port1, HTTP1[name].numbered(number), patience)
        name = name[3:]
        pseudo, fields, body = LEGAL.get(name) or (PSEUDO.get(name, {}), FIELDS.get(name, []), b"{}")
        # Requests that change the path itself are told apart by their status alone.
        return http2(port2, numbered(pseudo, number), fields, body, patience)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(run, range(len(names)), names))
    result = {}
    seen = collections.Counter(
        match[0] for line in recorder.lines for match in re.findall(rb"((smuggled|victim|v)-\d{3})", line.split(b"\x00")[0])
    )
    for number, (name, status) in enumerate(zip(names, statuses, strict=True)):
        victims = seen[b"victim-%03d" % number] + seen[b"v-%03d" % number]
        verdict = "both" if seen[b"smuggled-%03d" % number] else "forwarded" if victims or status == 200 else "refused"
        result[name] = (status, verdict)
    return result


@pytest.fixture(scope="module")
def table(proxies):
    # Of the others some attacks get no answer at all; the router gives every one.
    return {name: verdicts(*proxy, patience=5 if name == "swiftlet" else 0.5) for name, proxy in proxies.items()}


def test_verdicts_of_its_own(table):
    passing = {name for name, attack in HTTP1.items() if attack.passes} | {f"h2 {name}" for name in LEGAL}
    expected = {attack: "forwarded" if attack in passing else "refused" for attack in table["swiftlet"]}
    assert {attack: verdict for attack, (_, verdict) in table["swiftlet"].items()} == expected


@pytest.mark.skipif(not (NGINX and HAPROXY), reason="nginx and haproxy are not installed")
def test_nothing_passes_that_both_refuse(table):
    differing = 0
    for attack, (status, verdict) in table["swiftlet"].items():
        others = [table[name][attack] for name in ("nginx", "haproxy")]
        if any(other != verdict for _, other in others):
            differing += 1
            row = " | ".join(f"{word} {code or '-'}" for code, word in [(status, verdict), *others])
            print(f"| {attack} | {row} |")
    print(f"{len(table['swiftlet'])} attacks, {differing} with different verdicts (swiftlet | nginx | haproxy)")
    for name in table:
        print(name, dict(collections.Counter(verdict for _, verdict in table[name].values())))
    laxer = [
        attack for attack, (_, verdict) in table["swiftlet"].items()
        if verdict != "refused" and all(table[name][attack][1] == "refused" for name in ("nginx", "haproxy"))
    ]  # fmt: skip
    assert laxer == []
