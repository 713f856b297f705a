"""A Kubernetes API server on a line that fails at any byte: whatever happens, what is known becomes what the server has."""

import asyncio
import random

import admin
import httpx
import pki
import pytest
from faulty_line import Faults
from kube_api import SLICE, endpoint, pod, slice_of
from replay_api import ReplayAPI, listed
from scripted_backend import answer_ok
from waiting import wait_until

# The longest that anything is waited for: a watch and then a list of which nothing comes, and the longest backoff after them.
BOUND = 15


@pytest.fixture
def watching(serve, tmp_path):
    """A router that watches one Service's slices and loses patience soon."""

    def make(server, name="swiftlet", pool="services: [vllm], namespace: llm", more="", pods="false", silence="1s"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            f"discovery: {{kubernetes: {{silence: {silence}, answer: 500ms, pods: {pods}, {more}"
            f"pools: [{{{pool}, groups: {{models: [m]}}}}]}}}}\n"
        )
        kubeconfig = server.kubeconfig(tmp_path / f"{name}.kubeconfig", **({"authority": server.ca} if server.ssl else {}))
        return serve(admin=True, arguments=("--config", file, "--kubeconfig", kubeconfig))

    return make


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


async def write_slice(server, random):
    name = f"vllm-{random.randrange(5)}"
    if random.random() < 0.2 and (SLICE, "llm", name) in server.objects:
        return await server._delete(SLICE, name, "llm")
    number = int(name.rsplit("-", 1)[1])
    made = [
        endpoint(f"10.1.{number}.{i}", f"p{number}-{i}", ready=random.random() < 0.7, terminating=random.random() < 0.1)
        for i in range(random.randrange(1, 6))
    ]
    return await server._put(SLICE, [slice_of("vllm", *made, name=name)])


async def write_pod(server, random):
    """One of those in one slice, which itself says of all that they serve."""
    number = random.randrange(8)
    if random.random() < 0.2 and ("pods", "llm", f"p{number}") in server.objects:
        return await server._delete("pods", f"p{number}", "llm")
    labels = {"app": random.choice(["vllm", "vllm", "other"])}
    made = pod(f"p{number}", random.random() < 0.7, labels, ip=f"10.1.0.{number}", deleting=random.random() < 0.1)
    if (SLICE, "llm", "vllm-1") not in server.objects:
        await server._put(SLICE, [slice_of("vllm", *(endpoint(f"10.1.0.{i}", f"p{i}") for i in range(8)))])
    return await server._put("pods", [made])


async def write_pool(server, random):
    if random.random() < 0.7:
        return await write_pod(server, random)
    if random.random() < 0.2 and ("inferencepools", "llm", "llama") in server.objects:
        return await server._delete("inferencepools", "llama", "llm")
    return await server._put("inferencepools", [pool_of(random.choice(["vllm", "other"]), random.choice([8000, 8001]))])


def pool_of(app, port):
    return {
        "metadata": {"name": "llama", "namespace": "llm"},
        "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": port}]},
    }


def of_slices(server):
    return ready_endpoints(made for (plural, _, _), made in server.objects.items() if plural == SLICE)


def ready_pods(server):
    for (plural, _, _), made in server.objects.items():
        if plural == "pods" and made["status"]["conditions"][0]["status"] == "True" and "deletionTimestamp" not in made["metadata"]:
            yield made["status"]["podIP"], made["metadata"]["labels"]


def of_pods(server):
    return {f"{address}:8000" for address, _ in ready_pods(server)}


def of_pool(server):
    found = server.objects.get(("inferencepools", "llm", "llama"))
    spec = found["spec"] if found else {"selector": {"matchLabels": None}, "targetPorts": [{}]}
    port = spec["targetPorts"][0].get("number")
    return {f"{address}:{port}" for address, labels in ready_pods(server) if labels == spec["selector"]["matchLabels"]}


async def mischief(server, random, changes, write):
    """Writes, and at times a refusal, a restart, or a past that is forgotten."""

    def refuse(path, query):
        code = random.choice([401, 403, 429, 500, 503])
        return (code, b'{"message":"no","code":%d}' % code, "Retry-After: 0\r\n") if random.random() < 0.3 else None

    server.script = refuse
    for _ in range(changes):
        await write(server, random)
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


@pytest.mark.parametrize(
    ("seed", "streams", "write", "expected", "pods", "pool"),
    [
        (17, True, write_slice, of_slices, "false", "services: [vllm]"),
        (71, False, write_slice, of_slices, "false", "services: [vllm]"),
        (5, True, write_pod, of_pods, "true", "services: [vllm]"),
        (9, False, write_pool, of_pool, "true", "inference_pool: llama"),
    ],
    ids=["slices", "slices-by-pages", "pods", "inference-pool"],
)
def test_after_any_faults_the_state_is_the_servers_within_a_bounded_time(api, hub, watching, seed, streams, write, expected, pods, pool):
    chance = random.Random(seed)
    server = api(faults=Faults(seed))
    server.streams_lists = streams
    server.unserved = set()
    program = watching(server, more="relist: 2s, ", pods=pods, pool=f"{pool}, namespace: llm")
    for _ in range(2):
        server.faults.probability = 0.7
        hub.run(mischief(server, chance, 60, write))
        server.faults.probability = 0
        wait_until(lambda: admin.leaders(program) == expected(server), BOUND, what="the server's state")
    wait_until(lambda: "connect" not in fault(program) and "refuse" not in fault(program), BOUND, what="the fault to go")


def expire(server, plural):
    server.oldest = server.version + 1
    server.cut(plural=plural)


def forbid(server, plural):
    server.forbidden.add(plural)
    server.cut(plural=plural)


# What befalls the watch of one resource, all others being well, and whether nothing new can come through meanwhile.
FAULTS = [
    ("cut", lambda server, plural: server.cut(plural=plural), False),
    ("nonsense", lambda server, plural: server.cut(b'{"type":"MODI\n', plural), False),
    ("410", expire, False),
    ("410 event", lambda server, plural: server.cut(b'{"type":"ERROR","object":{"kind":"Status","code":410}}\n', plural), False),
    ("stall", lambda server, plural: setattr(server, "stalled", {plural}), False),
    ("403", forbid, True),
]


def suffer(server, program, plural, change, undo, states, meanwhile):
    """Each of the faults in turn, under which something changes: `states` are the leaders before and after."""
    before, after = states
    for name, strike, is_blind in FAULTS:
        wait_until(lambda: admin.leaders(program) == before, BOUND, what=f"the state before {name}")
        strike(server, plural)
        change()
        if is_blind:
            wait_until(lambda: "403" in fault(program) and f'"{plural}"' in fault(program), BOUND, what=f"the reason of {name}")
            meanwhile()
            assert admin.leaders(program) & before
            server.forbidden.clear()
        wait_until(lambda: admin.leaders(program) == after, BOUND, what=f"the change under {name}")
        server.stalled = False
        server.oldest = 0
        server.wake()
        undo()


def test_faults_of_the_watch_of_pods(api, watching):
    server = api()
    first, second, third = "10.1.0.1:8000", "10.1.0.2:8000", "10.1.0.3:8000"
    server.put("pods", *(pod(f"p{i}") for i in (1, 2, 3)))
    server.put(SLICE, slice_of("vllm", endpoint("10.1.0.1", "p1"), endpoint("10.1.0.2", "p2")))
    program = watching(server, pods="true")

    def slices_go_on():
        server.put(SLICE, slice_of("vllm", endpoint("10.1.0.3", "p3"), name="vllm-3"))
        wait_until(lambda: third in admin.leaders(program), BOUND, what="the new slice while pods may not be read")
        server.delete(SLICE, "vllm-3")
        wait_until(lambda: third not in admin.leaders(program), BOUND, what="its end")

    suffer(
        server, program, "pods", lambda: server.put("pods", pod("p1", deleting=True)), lambda: server.put("pods", pod("p1")),
        ({first, second}, {second}), slices_go_on,
    )  # fmt: skip
    wait_until(lambda: not fault(program), BOUND, what="the fault to go")


def test_faults_of_the_watch_of_an_inference_pool(api, watching):
    server = api()
    server.unserved = set()
    server.put("pods", pod("p1", labels={"app": "vllm"}, ip="10.1.0.1"))
    server.put("inferencepools", pool_of("vllm", 8000))
    program = watching(server, pods="true", pool="inference_pool: llama, namespace: llm")

    def pods_go_on():
        server.put("pods", pod("p2", labels={"app": "vllm"}, ip="10.1.0.2"))
        wait_until(lambda: len(admin.leaders(program)) == 2, BOUND, what="the new pod while the pool may not be read")
        server.delete("pods", "p2")
        wait_until(lambda: len(admin.leaders(program)) == 1, BOUND, what="its end")

    suffer(
        server, program, "inferencepools", lambda: server.put("inferencepools", pool_of("vllm", 8001)),
        lambda: server.put("inferencepools", pool_of("vllm", 8000)), ({"10.1.0.1:8000"}, {"10.1.0.1:8001"}), pods_go_on,
    )  # fmt: skip
    wait_until(lambda: not fault(program), BOUND, what="the fault to go")


def test_lists_that_fail_beside_a_watch_that_is_well_cost_nothing(api, watching):
    server = api()
    server.put(SLICE, slice_of("vllm", endpoint("10.1.0.1", "p1")))
    program = watching(server, more="relist: 100ms, ", silence="1m")
    lists = lambda: admin.sample(program, "swiftlet_kubernetes_lists_total", resource=SLICE) or 0  # noqa: E731
    wait_until(lambda: lists() >= 3, BOUND, what="lists beside the watch")
    assert admin.sample(program, "swiftlet_kubernetes_watches_total", resource=SLICE) == 0, "the streaming list is the watch"
    server.script = lambda path, query: None if "watch" in query else (500, b'{"message":"etcd is slow","code":500}')
    wait_until(lambda: "the watch goes on" in fault(program) and "etcd is slow" in fault(program), BOUND, what="the fault")
    for number in range(2, 5):
        server.put(SLICE, slice_of("vllm", endpoint(f"10.1.0.{number}", f"p{number}")))
        wait_until(lambda n=number: admin.leaders(program) == {f"10.1.0.{n}:8000"}, BOUND, what="events while lists fail")
    assert admin.sample(program, "swiftlet_kubernetes_watches_total", resource=SLICE) == 0
    server.script = None
    wait_until(lambda: not fault(program), BOUND, what="the fault to go")


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
