"""A file of groups that changes while requests are under way: nothing is lost, and nonsense changes nothing."""

import http.server
import json
import os
import pathlib
import threading

import admin
import httpx
import pytest
from scripted_backend import answer_ok
from waiting import wait_until


def write(path, text):
    """As careful writers do: beside the old file, then in its place."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def groups_of(*backends):
    return json.dumps({"groups": [{"name": backend.name, "leader": backend.url} for backend in backends]})


def names(program):
    return {group["name"] for group in admin.groups(program)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "groups.json"


@pytest.fixture
def watching(serve, file):
    def make(text, **named):
        if text is not None:
            write(file, text)
        return serve(admin=True, arguments=("--groups-file", file), **named)

    return make


def source(program):
    listed = httpx.get(f"{program.admin_url}/groups").json()["sources"]
    return next(entry for entry in listed if entry["name"].startswith("file"))


def test_groups_come_and_go_while_requests_are_under_way(watching, scripted, file):
    first, second, third = scripted(answer_ok), scripted(answer_ok), scripted(answer_ok)
    program = watching(groups_of(first, second))
    wait_until(lambda: names(program) == {first.name, second.name}, what="the groups of the file")
    statuses, stop = [], threading.Event()

    def ask():
        with httpx.Client() as client:
            while not stop.is_set():
                statuses.append(client.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for backends in ((second, third), (third,), (first, second, third), (first,)) * 3:
        write(file, groups_of(*backends))
        wait_until(lambda wanted={b.name for b in backends}: names(program) == wanted, what="the change")
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 8, what="more answers")  # noqa: B023
    stop.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert all(len(backend.requests) for backend in (first, second, third))


def test_a_config_map_swaps_a_symbolic_link(serve, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    for name, backend in (("..one", first), ("..two", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "groups.yaml").write_text(groups_of(backend))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "groups.yaml").symlink_to("..data/groups.yaml")
    program = serve(admin=True, arguments=("--groups-file", tmp_path / "groups.yaml"))
    wait_until(lambda: names(program) == {first.name}, what="the groups of the file")
    (tmp_path / "..data_tmp").symlink_to("..two")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    wait_until(lambda: names(program) == {second.name}, what="the swap")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("groups: [", "groups.json:2:1"),
        ("groups:\n  - {name: x, leader: 'ftp://127.0.0.1:1'}\n", "groups[0].leader"),
        ("groups:\n  - {name: a, leader: 'http://127.0.0.1:1'}\n  - {name: a, leader: 'http://127.0.0.1:2'}\n", "again"),
        ("group: []\n", "group"),
        ("groups:\n  - {name: x, leader: 'http://no-such-host.invalid:1'}\n", "no-such-host.invalid"),
        ("\x00\xff", "groups.json"),
    ],
)
def test_nonsense_changes_nothing_and_is_told(watching, scripted, file, text, told):
    backend = scripted(answer_ok)
    program = watching(groups_of(backend))
    wait_until(lambda: names(program) == {backend.name}, what="the groups of the file")
    write(file, text)
    wait_until(lambda: source(program).get("fault"), timeout=15, what="the fault")
    assert told in source(program)["fault"]
    assert names(program) == {backend.name}
    assert httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 200
    wait_until(lambda: "the last good one stays" in program.stderr, what="the warning")
    write(file, groups_of(backend))
    wait_until(lambda: not source(program).get("fault"), what="the end of the fault")


def test_a_file_that_is_missing_at_first(watching, scripted, file):
    backend = scripted(answer_ok)
    program = watching(None)
    wait_until(lambda: "No such file" in source(program).get("fault", ""), what="the fault")
    assert source(program)["synced"] is False
    assert httpx.get(f"{program.admin_url}/readiness").status_code == 503
    assert httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 503
    write(file, groups_of(backend))
    wait_until(lambda: names(program) == {backend.name}, what="the groups of the file")
    assert source(program)["synced"] is True
    assert httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 200
    file.unlink()
    wait_until(lambda: "No such file" in source(program).get("fault", ""), what="the fault")
    assert httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 200


def test_a_group_can_be_written_down_as_not_ready(watching, scripted, file):
    first, second = scripted(answer_ok), scripted(answer_ok)
    program = watching(groups_of(first, second))
    wait_until(lambda: len(names(program)) == 2, what="the groups of the file")
    listed = json.loads(groups_of(first, second))
    listed["groups"][0]["ready"] = False
    write(file, json.dumps(listed))
    wait_until(lambda: [g["ready"] for g in admin.groups(program)] == [False, True], what="the change")
    for _ in range(6):
        assert httpx.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 200
    assert not first.requests


class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_what_is_kept_of_an_endpoint_goes_with_it(watching, file):
    """Loopback addresses in turn, twenty at a time, with connections kept: what is kept for those that are gone goes, too."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Engine)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    program = watching('{"groups": []}')
    descriptors = pathlib.Path(f"/proc/{program.pid}/fd")
    open_before = len(list(descriptors.iterdir()))
    for turn in range(12):
        hosts = [f"127.0.{turn}.{i + 1}" for i in range(20)]
        listed = [{"name": f"{turn}-{h}", "leader": f"http://{h}:{server.server_address[1]}"} for h in hosts]
        write(file, json.dumps({"groups": listed}))
        wait_until(lambda: names(program) == {g["name"] for g in listed}, what="the change")  # noqa: B023
        with httpx.Client() as client:
            for i in range(40):
                assert client.post(f"{program.url}/v1/completions", json={"prompt": f"{turn} {i}"}).status_code == 200
    write(file, '{"groups": []}')
    wait_until(lambda: len(list(descriptors.iterdir())) <= open_before + 8, what="the connections to end")
    server.shutdown()
    server.server_close()
