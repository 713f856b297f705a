"""A Kubernetes API server on a line that fails at any byte: whatever happens, what is known becomes what the server has."""

import asyncio
import random

import admin
import httpx
import kube_api
import pki
import pytest
from faulty_line import Faults
from kube_api import SLICE, endpoint, slice_of
from replay_api import ReplayAPI, listed
from scripted_backend import answer_ok
from waiting import wait_until

# The longest that anything is waited for: a watch and then a list of which nothing comes, and the longest backoff after them.
BOUND = 15


@pytest.fixture
def watching(serve, tmp_path):
    """A router that watches one Service's slices and loses patience soon."""

    def make(server, name="swiftlet", pool="services: [vllm], namespace: llm", more=""):
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            f"discovery: {{kubernetes: {{silence: 1s, answer: 500ms, pods: false, {more}"
            f"pools: [{{{pool}, groups: {{models: [m]}}}}]}}}}\n"
        )
        kubeconfig = server.kubeconfig(tmp_path / f"{name}.kubeconfig", **({"authority": server.ca} if server.ssl else {}))
        return serve(admin=True, arguments=("--config", file, "--kubeconfig", kubeconfig))

    return make


@pytest.fixture
def api(hub):
    servers = []

    def make(kind=kube_api.KubeAPI, *positional, authority=None, **named):
        server = kind(hub, *positional, **named)
        server.ca = authority
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def ready_endpoints(slices):
    return {
        f"{found['addresses'][0]}:{made['ports'][0]['port']}"
        for made in slices
        for found in made["endpoints"] or []
        if found["conditions"]["serving"] and not found["conditions"].get("terminating")
    }


def fault(program):
    listed = httpx.get(f"{program.admin_url}/groups").json()["sources"]
    return next(entry for entry in listed if entry["name"].startswith("kubernetes")).get("fault") or ""


def test_recorded_traffic_over_a_line_that_fails_anywhere(api, watching):
    """What a real server sent through a rolling update, by four lines, each with faults and restarts of its own."""
    lists = ["67a-list", "67c-list-8-endpoints", "67d-list-3-endpoints", "67e-list-after-rolling"]
    expected = ready_endpoints(listed(lists[-1])[1])
    assert expected
    runs = []
    for seed in range(4):
        server = api(ReplayAPI, lists, "67b-watch-multislice", faults=Faults(seed))
        runs.append((server, watching(server, f"replay-{seed}")))
    for number, (server, _) in enumerate(runs):
        wait_until(lambda s=server: len(s.faults.happened) >= 3 or s.is_at_its_end, BOUND, what="faults")
        if number % 2:
            server.stop()
            server.start()
    for server, _ in runs:
        wait_until(lambda s=server: len(s.faults.happened) >= 6 or s.is_at_its_end, BOUND, what="more faults")
        server.faults.probability = 0
    assert {kind for server, _ in runs for kind in server.faults.happened} == set(Faults.KINDS)
    for server, program in runs:
        wait_until(lambda p=program: admin.leaders(p) == expected, BOUND, what="the state after the rolling update")
        assert server.is_at_its_end
        wait_until(lambda p=program: not fault(p), BOUND, what="the fault to go")


async def mischief(server, random, changes):
    """Writes, and at times a refusal, a restart, or a past that is forgotten."""

    def refuse(path, query):
        code = random.choice([401, 403, 429, 500, 503])
        return (code, b'{"message":"no","code":%d}' % code, "Retry-After: 0\r\n") if random.random() < 0.3 else None

    server.script = refuse
    for _ in range(changes):
        name = f"vllm-{random.randrange(5)}"
        if random.random() < 0.2 and (SLICE, "llm", name) in server.objects:
            await server._delete(SLICE, name, "llm")
        else:
            number = int(name.rsplit("-", 1)[1])
            made = [
                endpoint(f"10.1.{number}.{i}", f"p{number}-{i}", ready=random.random() < 0.7, terminating=random.random() < 0.1)
                for i in range(random.randrange(1, 6))
            ]
            await server._put(SLICE, [slice_of("vllm", *made, name=name)])
        match random.randrange(12):
            case 0:
                server.oldest = server.version
            case 1:
                await server._cut()
            case 2:
                await server._stop()
                server.oldest = server.version
                await server._listen()
        await asyncio.sleep(0.01)
    server.script = None


@pytest.mark.parametrize("streams", [True, False])
def test_after_any_faults_the_state_is_the_servers_within_a_bounded_time(api, hub, watching, streams):
    seed = 17 if streams else 71
    chance = random.Random(seed)
    server = api(faults=Faults(seed))
    server.streams_lists = streams
    program = watching(server, more="relist: 2s, ")
    for _ in range(2):
        server.faults.probability = 0.7
        hub.run(mischief(server, chance, 60))
        server.faults.probability = 0
        slices = [made for (plural, _, _), made in server.objects.items() if plural == SLICE]
        wait_until(lambda s=slices: admin.leaders(program) == ready_endpoints(s), BOUND, what="the server's state")
    wait_until(lambda: "connect" not in fault(program) and "refuse" not in fault(program), BOUND, what="the fault to go")


def answers(status, body, fields=""):
    return lambda server: setattr(server, "script", lambda path, query: (status, body, fields))


def nonsense_in_lists(body):
    """The watch is sent away, so that a list is asked for, and that is nonsense."""

    def break_it(server):
        server.oldest = server.version + 1
        server.script = lambda path, query: None if "watch" in query else (200, body)
        server.streams_lists = False

    return break_it


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda server: setattr(server, "tokens", set()), ["401"]),
        (lambda server: server.forbidden.add(SLICE), ["403", '"endpointslices"', "a Role in namespace llm"]),
        (lambda server: server.unserved.add(SLICE), ["does not serve discovery.k8s.io/v1 endpointslices"]),
        (answers(500, b'{"message":"etcd is gone","code":500}'), ["500: etcd is gone"]),
        (answers(429, b"Too many requests", "Retry-After: 1\r\n"), ["429: Too many requests"]),
        (answers(200, b"<html>a proxy of somebody's</html>\n"), ["makes no sense"]),
        (answers(200, b'{"type":"MODIFIED","object":{"metadata":7}}\n'), ["makes no sense", "metadata"]),
        (nonsense_in_lists(b'{"metadata":{"resourceVersion":"9'), ["a list that makes no sense"]),
        (nonsense_in_lists(b'{"items":[]}'), ["a list that makes no sense", "metadata"]),
        (nonsense_in_lists(b'{"metadata":{},"items":[]}'), ["versions"]),
        (nonsense_in_lists(b""), ["a list that makes no sense"]),
    ],
)
def test_the_last_good_state_is_kept(api, watching, scripted, break_it, words):
    backend = scripted(answer_ok)
    server = api()
    server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1", "p"), port=backend.port))
    program = watching(server)
    wait_until(lambda: admin.leaders(program), what="the first list")
    break_it(server)
    server.cut()
    wait_until(lambda: all(word in fault(program) for word in words), BOUND, what=f"{words}")
    assert admin.leaders(program) == {f"127.0.0.1:{backend.port}"}
    assert httpx.post(f"{program.url}/v1/completions", json={"model": "m", "prompt": "x"}).status_code == 200
    assert httpx.get(f"{program.admin_url}/readiness").json() == {"status": "ready", "discovery_synced": True}
    assert any(words[0] in line for line in program.stderr_lines)


def test_a_certificate_that_is_another_all_at_once(api, watching, scripted, tmp_path):
    backend = scripted(answer_ok)
    ours, other = pki.Authority(tmp_path, "ours"), pki.Authority(tmp_path, "other")
    server = api(authority=ours.file, identity=ours.issue("kubernetes", "IP:127.0.0.1"))
    server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1", "p"), port=backend.port))
    program = watching(server)
    wait_until(lambda: admin.leaders(program), what="the first list")
    server.stop()
    server.show(other.issue("kubernetes", "IP:127.0.0.1"))
    server.start()
    wait_until(lambda: "certificate" in fault(program), BOUND, what="the message about the certificate")
    assert admin.leaders(program) == {f"127.0.0.1:{backend.port}"}
