"""Groups behind a name: a name server changes its mind, falls silent, lies and returns; what is known stays in use."""

import contextlib
import socketserver
import threading

import admin
import httpx
import pytest
from dnslib import QTYPE, RCODE, RR, SRV, A, DNSRecord
from waiting import wait_until

from test_groups_file import Engine, http

NAME = "vllm.models.test."
SERVICE = "_http._tcp.vllm.models.test."


class Zone:
    """A name server on a loopback port, UDP and TCP. `records` is what it answers with, `rcode` or `silent` why it does not."""

    def __init__(self):
        self.records = []
        self.rcode = None
        self.silent = False
        self.truncates = False
        self.questions = 0
        self.over_tcp = 0
        zone = self

        class UDP(socketserver.BaseRequestHandler):
            def handle(self):
                data, socket = self.request
                answer = zone.answer(data, truncates=zone.truncates)
                if answer:
                    socket.sendto(answer, self.client_address)

        class TCP(socketserver.StreamRequestHandler):
            def handle(self):
                length = int.from_bytes(self.rfile.read(2), "big")
                zone.over_tcp += 1
                answer = zone.answer(self.rfile.read(length)) or b""
                self.wfile.write(len(answer).to_bytes(2, "big") + answer)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self.servers = []
        while not self.servers:
            udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), UDP)
            self.port = udp.server_address[1]
            try:
                self.servers = [udp, socketserver.ThreadingTCPServer(("127.0.0.1", self.port), TCP)]
            except OSError:
                # The port is free for UDP, not for TCP.
                udp.server_close()
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, data, truncates=False):
        if self.silent:
            return None
        try:
            request = DNSRecord.parse(data)
        except Exception:  # noqa: BLE001
            return None
        reply = request.reply()
        self.questions += 1
        if self.rcode is not None:
            reply.header.rcode = self.rcode
            return reply.pack()
        records = [r for r in self.records if str(r.rname) == str(request.q.qname) and r.rtype == request.q.qtype]
        if truncates:
            reply.header.tc = 1
            return reply.pack()
        for record in records:
            reply.add_answer(record)
        if not any(str(r.rname) == str(request.q.qname) for r in self.records):
            reply.header.rcode = RCODE.NXDOMAIN
        return reply.pack()

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def zone():
    zone = Zone()
    yield zone
    zone.stop()


@pytest.fixture
def engine():
    """One port that answers on every loopback address."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Engine)
    server.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def addresses(*hosts, name=NAME, ttl=1):
    return [RR(name, QTYPE.A, rdata=A(host), ttl=ttl) for host in hosts]


@pytest.fixture
def resolving(configured, zone, engine):
    def make(entry=None, servers=None, timeout="1s"):
        entry = entry or f"{{endpoint: 'http://{NAME[:-1]}:{engine.port}'}}"
        servers = servers or [f"127.0.0.1:{zone.port}"]
        return configured(f"discovery:\n  dns: [{entry}]\n  dns_servers: {servers}\n  dns_timeout: {timeout}\n", admin=True)

    return make


def leaders(program):
    return {group["raw"]["leader"].rsplit(":", 1)[0] for group in admin.groups(program)}


def source(program):
    listed = httpx.get(f"{program.admin_url}/groups").json()["sources"]
    return next(entry for entry in listed if entry["name"].startswith("dns"))


def answers(program):
    return httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code


def test_addresses_come_and_go_with_their_ttl(resolving, zone):
    zone.records = addresses("127.0.1.1", "127.0.1.2")
    program = resolving()
    wait_until(lambda: leaders(program) == {"127.0.1.1", "127.0.1.2"}, what="the addresses")
    assert answers(program) == 200
    zone.records = addresses("127.0.1.2", "127.0.1.3")
    wait_until(lambda: leaders(program) == {"127.0.1.2", "127.0.1.3"}, what="the change")
    assert answers(program) == 200
    assert source(program)["synced"] is True


def test_a_name_server_that_fails_changes_nothing(resolving, zone):
    zone.records = addresses("127.0.1.1")
    # Short, since a silence is told when all questions have gone unanswered.
    program = resolving(timeout="200ms")
    wait_until(lambda: leaders(program) == {"127.0.1.1"}, what="the address")
    for rcode in (RCODE.SERVFAIL, RCODE.REFUSED):
        zone.rcode = rcode
        wait_until(lambda: source(program).get("fault"), timeout=10, what="the fault")
        assert leaders(program) == {"127.0.1.1"}
        assert answers(program) == 200
        zone.rcode = None
        wait_until(lambda: not source(program).get("fault"), timeout=10, what="the end of the fault")
    assert "what is known stays in use" in program.stderr
    zone.silent = True
    wait_until(lambda: "imeout" in source(program).get("fault", ""), timeout=15, what="the silence to be told")
    assert leaders(program) == {"127.0.1.1"}
    assert answers(program) == 200


def test_a_name_that_is_gone_empties_its_groups_until_it_is_back(resolving, zone):
    zone.records = addresses("127.0.1.1")
    program = resolving()
    wait_until(lambda: leaders(program) == {"127.0.1.1"}, what="the address")
    zone.records = []
    wait_until(lambda: leaders(program) == set(), what="the groups to go")
    assert answers(program) == 503
    assert "has no addresses" in source(program)["fault"]
    zone.records = addresses("127.0.1.4")
    wait_until(lambda: leaders(program) == {"127.0.1.4"}, what="the return")
    assert answers(program) == 200


def test_a_long_answer_comes_over_tcp(resolving, zone):
    zone.truncates = True
    hosts = [f"127.0.2.{i}" for i in range(1, 201)]
    zone.records = addresses(*hosts)
    program = resolving()
    wait_until(lambda: leaders(program) == set(hosts), what="two hundred addresses")
    assert zone.over_tcp > 0


def test_srv_records_bring_ports_and_groups(resolving, zone, engine):
    """Two StatefulSet groups of two pods: only the first pod of each leads, and a group without its second pod is out."""
    pods = [f"tp-{i}.vllm.models.svc.test." for i in range(4)]

    def zone_of(*present):
        records = [RR(SERVICE, QTYPE.SRV, rdata=SRV(0, 1, engine.port, pods[i]), ttl=1) for i in present]
        return records + [r for i in present for r in addresses(f"127.0.3.{i + 1}", name=pods[i])]

    zone.records = zone_of(0, 1, 2, 3)
    program = resolving(
        f"{{endpoint: 'http://{SERVICE[:-1]}:1', srv: true, groups: {{form: stateful-set, pods: 2, models: [m]}}}}"
    )
    wait_until(lambda: leaders(program) == {"127.0.3.1", "127.0.3.3"}, what="the leaders")
    groups = {group["name"]: group for group in admin.groups(program)}
    assert set(groups) == {"models/tp-0", "models/tp-1"}
    assert all(group["ready"] and group["raw"]["size"] == 2 for group in groups.values())
    zone.records = zone_of(0, 1, 2)
    wait_until(lambda: [g["ready"] for g in admin.groups(program)] == [True, False], what="the group to go")
    assert "missing rank 1" in admin.groups(program)[1]["raw"]["discovery"]["obstacle"]
    assert answers(program) == 200


def test_nonsense_from_a_name_server(resolving, zone):
    zone.answer = lambda data, truncates=False: data[:2] + b"\xff" * 9  # noqa: ARG005
    # Three questions, each with twice as long as the one before: 0.7 s, where it would be 7 s by default.
    program = resolving(timeout="100ms")
    wait_until(lambda: source(program).get("fault"), timeout=5, what="the fault")
    with contextlib.suppress(httpx.HTTPError):
        assert answers(program) == 503
    assert program.process.poll() is None


def test_a_server_that_is_no_address(resolving):
    program = resolving(servers=["not an address"])
    wait_until(lambda: "dns_servers" in program.stderr, what="the warning")
    assert answers(program) == 503
