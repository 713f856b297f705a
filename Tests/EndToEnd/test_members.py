"""A tensor-parallel group stands and falls with its members: who is written down and gone takes the group out."""

import http.server
import socket
import threading

import admin
import httpx
import pytest
from scripted_backend import answer_ok
from waiting import wait_until

PROBES = "probes: {interval: 20ms, timeout: 500ms, failures: 2, leaders: %s}\n"


class Member:
    """A port that takes connections and never says a word, as a headless worker does."""

    def __init__(self, port=0):
        self.socket = socket.create_server(("127.0.0.1", port), reuse_port=False, backlog=128)
        self.port = self.socket.getsockname()[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.socket.close()


def group_lines(name, leader, *members):
    return f"  - {{name: {name}, leader: '{leader.url}', members: [{', '.join(repr(m.url) for m in members)}]}}\n"


def ready(program):
    return {group["name"]: group["ready"] for group in admin.groups(program)}


def ask(program, count=8):
    """The bodies of some answers."""
    with httpx.Client() as client:
        return {client.post(f"{program.url}/v1/completions", json={"prompt": str(i)}).status_code for i in range(count)}


def test_a_lost_member_takes_its_group_out_and_its_return_brings_it_back(configured, scripted):
    whole, broken = scripted(answer_ok), scripted(answer_ok)
    members = [Member(), Member(), Member()]
    lines = PROBES % "false" + "groups:\n"
    lines += group_lines("whole", whole, members[0]) + group_lines("broken", broken, members[1], members[2])
    program = configured(lines, admin=True)
    assert ready(program) == {"whole": True, "broken": True}

    members[2].stop()
    wait_until(lambda: ready(program) == {"whole": True, "broken": False}, what="the group to go")
    group = next(g["raw"] for g in admin.groups(program) if g["name"] == "broken")
    assert f"127.0.0.1:{members[2].port} is gone" in group["discovery"]["obstacle"]
    assert "refused" in group["discovery"]["obstacle"]
    assert [member["state"] == "ready" for member in group["discovery"]["members"]] == [True, True, False]
    before = len(broken.requests)
    assert ask(program) == {200}
    assert len(broken.requests) == before

    members[2] = Member(members[2].port)
    wait_until(lambda: ready(program) == {"whole": True, "broken": True}, what="the group to return")
    members[0].stop()
    wait_until(lambda: ready(program) == {"whole": False, "broken": True}, what="the other group to go")
    assert ask(program) == {200}
    assert len(broken.requests) > before
    for member in members:
        member.stop()


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers `/health` as it is told, everything else well."""

    health = 200
    asked = 0

    def do_GET(self):
        if self.path == "/health":
            Engine.asked += 1
        self.send_response(self.health if self.path == "/health" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def engine():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    Engine.health, Engine.asked = 200, 0
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_leaders_are_asked_for_their_health_when_configured(configured, engine):
    program = configured(PROBES % "true" + "groups:\n" + group_lines("g", engine), admin=True)
    wait_until(lambda: Engine.asked, what="a look at the leader")
    assert ready(program) == {"g": True}
    Engine.health = 503
    wait_until(lambda: ready(program) == {"g": False}, what="the group to go")
    group = admin.groups(program)[0]["raw"]
    assert "/health answers 503" in group["discovery"]["obstacle"]
    assert httpx.get(f"{program.admin_url}/readiness").status_code == 503
    Engine.health = 200
    wait_until(lambda: ready(program) == {"g": True}, what="the group to return")


def test_leaders_without_members_are_left_alone(configured, engine):
    program = configured(PROBES % "false" + "groups:\n" + group_lines("g", engine), admin=True)
    assert httpx.get(f"{program.url}/v1/models").status_code == 200
    assert Engine.asked == 0
