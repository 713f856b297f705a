"""Several sources and pools over a Kubernetes API server: who takes whose place, and what they share."""

import admin
import httpx
from kube_api import SLICE, endpoint, pod, slice_of
from kube_router import endpoints, fault, put_slices
from scripted_backend import answer_ok
from waiting import wait_until


def endpoints_of(backend, **annotations):
    address = {"ip": "127.0.0.1", "targetRef": {"kind": "Pod", "namespace": "llm", "name": "p", "uid": "u"}}
    return {
        "metadata": {"name": "vllm", "namespace": "llm", "annotations": annotations},
        "subsets": [{"addresses": [address], "ports": [{"name": "http", "port": backend.port}]}],
    }  # fmt: skip


def test_slices_that_are_served_later_take_the_place_of_endpoints(api, watching, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.unserved = {SLICE, "endpoints"}
    server.put("endpoints", endpoints_of(first))
    put_slices(server, second)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), more="pods: false, ")
    wait_until(lambda: "slices; instead of them: " in fault(program) and "core/v1 endpoints" in fault(program), 10, what="both reasons")
    server.unserved = {SLICE}
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{first.port}"}, 10, what="Endpoints")
    wait_until(lambda: not fault(program), what="the fault to go")
    server.unserved = set()
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{second.port}"}, 15, what="slices instead of Endpoints")
    assert not fault(program)
    watches = httpx.get(f"{program.admin_url}/groups").json()["kubernetes_watches"]
    assert [watch["resource"] for watch in watches] == [SLICE]


def test_endpoints_that_the_server_cuts_off_are_named_once(api, watching, scripted, tmp_path):
    backend = scripted(answer_ok)
    server = api()
    server.unserved = set()
    cut_off = endpoints_of(backend, **{"endpoints.kubernetes.io/over-capacity": "truncated"})
    server.put("endpoints", cut_off)
    pool = "{services: [vllm], namespace: llm, endpoints: true}"
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), pools=pool, more="pods: false, ")
    words = "left addresses out of Endpoints llm/vllm"
    wait_until(lambda: words in fault(program), what="the warning")
    assert admin.leaders(program) == {f"127.0.0.1:{backend.port}"}
    server.put("endpoints", cut_off | {"subsets": []})
    wait_until(lambda: not admin.leaders(program), what="the next event")
    assert len([line for line in program.stderr_lines if words in line]) == 1
    server.put("endpoints", endpoints_of(backend))
    wait_until(lambda: not fault(program), what="the end of the warning")


def test_a_pod_that_two_pools_share_serves_the_models_of_both(api, watching, scripted, tmp_path):
    shared, other = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.put("pods", pod("p"))
    for service in ("llama", "qwen"):
        server.put(SLICE, slice_of(service, endpoint("127.0.0.1", "p"), port=shared.port))
    pools = "{services: [llama], groups: {models: [llama-3]}}, {services: [qwen], groups: {models: [qwen-3]}}"
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), pools=pools)

    def served(model):
        before = shared, len(shared.requests), other, len(other.requests)
        assert httpx.post(f"{program.url}/v1/completions", json={"model": model, "prompt": "x"}).status_code == 200
        return shared if len(shared.requests) > before[1] else other

    def names():
        return [group["name"] for group in admin.groups(program) if group["ready"]]

    wait_until(lambda: admin.groups(program) and len(admin.groups(program)[0]["raw"]["models"]) == 2, what="one group of both")
    assert names() == ["llm/p"]
    assert served("llama-3") is shared and served("qwen-3") is shared
    # Each at a port of its own is a group of its own.
    server.put(SLICE, slice_of("qwen", endpoint("127.0.0.1", "p"), port=other.port))
    expected = sorted([f"llm/p:{shared.port}", f"llm/p:{other.port}"])
    wait_until(lambda: names() == expected, what="a group for each port")
    assert served("llama-3") is shared and served("qwen-3") is other
    server.delete(SLICE, "llama-1")
    wait_until(lambda: names() == ["llm/p"], what="the other alone")
    assert served("qwen-3") is other


def test_two_pools_of_one_service_are_told_apart(api, watching, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    made = slice_of("vllm", endpoint("127.0.0.1", "p"), port=first.port)
    made["ports"].append({"name": "more", "protocol": "TCP", "port": second.port})
    server.put(SLICE, made)
    pools = "{services: [vllm], port: http}, {services: [vllm], port: more}"
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), pools=pools, more="pods: false, ")
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{b.port}" for b in (first, second)}, what="both ports")
    listed = httpx.get(f"{program.admin_url}/groups").json()
    names = [entry["name"] for entry in listed["sources"] if entry["name"].startswith("kubernetes")]
    assert names == ["kubernetes vllm", "kubernetes vllm #2"]
    assert sorted(watch["scope"] for watch in listed["kubernetes_watches"]) == names
    lines = [line.rsplit(" ", 1)[0] for line in httpx.get(f"{program.admin_url}/metrics").text.splitlines() if line[:1] != "#"]
    assert len(lines) == len(set(lines)), "a series that is there twice is none that Prometheus takes"


def test_of_a_snapshot_each_source_replaces_its_own(api, watching, scripted, tmp_path):
    llama, qwen, later = scripted(answer_ok), scripted(answer_ok), scripted(answer_ok)
    server = api()
    for service, backend in (("llama", llama), ("qwen", qwen)):
        server.put(SLICE, slice_of(service, endpoint("127.0.0.1", f"p{backend.port}"), port=backend.port))
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    pools = "{services: [llama]}, {services: [qwen]}"
    program = watching(kubeconfig, pools=pools, more="pods: false, ")
    snapshot = tmp_path / "snapshot.yaml"
    ports = (llama.port, qwen.port)
    wait_until(lambda: snapshot.exists() and all(str(port) in snapshot.read_text() for port in ports), what="the snapshot")
    program.stop()
    server.delete(SLICE, "llama-1")
    server.put(SLICE, slice_of("llama", endpoint("127.0.0.1", f"p{later.port}"), port=later.port))
    server.delete(SLICE, "qwen-1")
    server.script = lambda path, query: (500, b"boom") if "qwen" in query.get("labelSelector", "") else None
    for _ in range(2):
        # The second start knows it from the first, which never had the other's word.
        program = watching(kubeconfig, pools=pools, more="pods: false, ")
        wait_until(lambda p=program: admin.leaders(p) == {f"127.0.0.1:{b.port}" for b in (later, qwen)}, what="one of each kind")
        wait_until(lambda: str(later.port) in snapshot.read_text(), what="the snapshot of both kinds")
        assert str(qwen.port) in snapshot.read_text() and str(llama.port) not in snapshot.read_text()
        program.stop()
    program = watching(kubeconfig, pools=pools, more="pods: false, ")
    wait_until(lambda: len(admin.leaders(program)) == 2, what="both once more")
    server.script = None
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{later.port}"}, 15, what="the end of what stood in")


def test_several_services_serve_several_models(api, watching, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    for service, backend in (("llama", first), ("qwen", second)):
        server.put("pods", pod(f"p{backend.port}"))
        server.put(SLICE, slice_of(service, *endpoints(backend), port=backend.port))
    pools = "{services: [llama], groups: {models: [llama-3]}}, {services: [qwen], groups: {models: [qwen-3]}}"
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), pools=pools)
    wait_until(lambda: len(admin.leaders(program)) == 2, what="both")
    for model, backend, status in (("llama-3", first, 200), ("qwen-3", second, 200), ("other", None, 404)):
        before = len(backend.requests) if backend else 0
        answer = httpx.post(f"{program.url}/v1/completions", json={"model": model, "prompt": "x"})
        assert answer.status_code == status
        assert not backend or len(backend.requests) == before + 1
    # One watch of pods for both, and of each everything is shown.
    watches = httpx.get(f"{program.admin_url}/groups").json()["kubernetes_watches"]
    assert sorted(watch["resource"] for watch in watches) == [SLICE, SLICE, "pods"]
    assert all(watch["state"] == "synced" and watch["lists"] == 1 and watch["last_heard_seconds"] < 60 for watch in watches)
