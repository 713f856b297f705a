"""Groups from a Kubernetes API server: every failure of the watch, and what an operator is told."""

import json
import pathlib
import subprocess

import admin
import httpx
import pki
import processes
import pytest
from kube_api import SLICE, endpoint, pod, slice_of
from kube_router import POOL, ask, endpoints, fault, put_slices
from scripted_backend import answer_ok
from waiting import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("kubernetes"))


@pytest.mark.parametrize("streams", [True, False])
def test_slices_are_followed(api, watching, scripted, tmp_path, streams):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.streams_lists = streams
    put_slices(server, first)
    server.put("pods", pod(f"p{first.port}"), pod(f"p{second.port}"))
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{first.port}"}, what="the listed endpoint")
    assert ask(program).status_code == 200
    put_slices(server, second)
    wait_until(lambda: len(admin.leaders(program)) == 2, what="the new endpoint")
    put_slices(server, first, ready=False)
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{second.port}"}, what="the end of the first")
    assert ask(program).status_code == 200
    server.delete(SLICE, f"vllm-{second.port}")
    wait_until(lambda: not admin.leaders(program), what="the end of the second")
    wait_until(lambda: "none is ready" in fault(program), what="the message")
    assert httpx.get(f"{program.admin_url}/readiness").json() == {"status": "no_ready_group", "discovery_synced": True}
    assert admin.sample(program, "swiftlet_kubernetes_lists_total", resource=SLICE) >= 1


def test_a_deleted_pod_and_a_lost_member_are_out_at_once(api, watching, scripted, tmp_path):
    backend = scripted(answer_ok)
    server = api()

    def labels(rank):
        prefix = "leaderworkerset.sigs.k8s.io/"
        return {prefix + "name": "lws", prefix + "group-index": "0", prefix + "worker-index": str(rank)}

    size = {"leaderworkerset.sigs.k8s.io/size": "2"}
    leader, worker = pod("lws-0", labels=labels(0), annotations=size), pod("lws-0-1", labels=labels(1), annotations=size)
    server.put("pods", leader, worker)
    server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1", "lws-0"), port=backend.port))
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: admin.leaders(program), what="the group")
    discovery = admin.groups(program)[0]["raw"]["discovery"]
    assert [member["name"] for member in discovery["members"]] == ["lws-0", "lws-0-1"]
    assert discovery["nodes"] == ["node-a"] and not discovery["spans_nodes"]
    server.put("pods", pod("lws-0-1", labels=labels(1), annotations=size, deleting=True))
    wait_until(lambda: not admin.leaders(program), what="the group to go")
    assert "lws-0-1 is terminating" in admin.groups(program)[0]["raw"]["discovery"]["obstacle"]
    server.put("pods", worker)
    wait_until(lambda: admin.leaders(program), what="the group to be back")
    server.delete("pods", "lws-0")
    wait_until(lambda: not admin.leaders(program), what="a group without its leader to go")


def test_a_restart_and_cuts_lose_nothing_and_what_is_known_stays(api, watching, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.put("pods", pod(f"p{first.port}"), pod(f"p{second.port}"))
    put_slices(server, first)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: admin.leaders(program), what="the first list")
    server.stop()
    wait_until(lambda: "cannot connect" in fault(program), what="the fault to show")
    assert ask(program).status_code == 200
    # Written while nobody could tell.
    put_slices(server, second)
    server.delete(SLICE, f"vllm-{first.port}")
    server.start()
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{second.port}"}, 15, what="what was missed")
    wait_until(lambda: not fault(program), what="the fault to go")
    assert admin.sample(program, "swiftlet_kubernetes_lists_total", resource=SLICE) >= 2
    for junk in (b"", b'{"type":"MODIFIED","obj\n', b"<html>\n", b'{"type":"ADDED","object":{"metadata":7}}\n'):
        server.cut(junk)
        put_slices(server, first)
        wait_until(lambda: len(admin.leaders(program)) == 2, what=f"recovery from {junk}")
        server.delete(SLICE, f"vllm-{first.port}")
        wait_until(lambda: len(admin.leaders(program)) == 1, what="the delete")
    assert ask(program).status_code == 200


def test_a_silent_watch_is_replaced(api, watching, scripted, tmp_path):
    backend = scripted(answer_ok)
    server = api()
    server.put("pods", pod(f"p{backend.port}"))
    put_slices(server, backend)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), more="silence: 1s, ")
    wait_until(lambda: admin.leaders(program), what="the first list")
    server.stalled = True
    put_slices(server, backend, ready=False)
    wait_until(lambda: not admin.leaders(program), what="the list that replaces the watch")


def test_tls_tokens_and_http2(api, watching, scripted, tmp_path, authority, monkeypatch):
    """In-cluster configuration over TLS: HTTP/1.1 where the server wants it, and HTTP/2 behind nghttpx."""
    backend = scripted(answer_ok)
    identity = authority.issue("kubernetes", "IP:127.0.0.1", "DNS:localhost")
    server = api(identity=identity)
    server.tokens = {"first"}
    server.put("pods", pod(f"p{backend.port}"))
    put_slices(server, backend)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("first\n")
    (account / "namespace").write_text("llm")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    program = watching(None, pools="{services: [vllm]}", more=f"service_account: {account}, ")
    wait_until(lambda: "ca.crt" in fault(program), what="the message about the missing CA")
    (account / "ca.crt").write_bytes(pathlib.Path(authority.file).read_bytes())
    wait_until(lambda: admin.leaders(program), 10, what="the list after the CA came")
    # The token is renewed: the watch is cut, and the new one is read.
    server.tokens = {"second"}
    (account / "token").write_text("second\n")
    server.cut()
    put_slices(server, backend, ready=False)
    wait_until(lambda: not admin.leaders(program), 10, what="events under the new token")
    server.tokens = set()
    server.cut()
    wait_until(lambda: "401" in fault(program), 10, what="the message about the token")


def test_http2_with_a_client_certificate(api, watching, scripted, tmp_path, authority):
    backend = scripted(answer_ok)
    identity = authority.issue("kubernetes", "IP:127.0.0.1")
    server = api()
    server.put("pods", pod(f"p{backend.port}"))
    put_slices(server, backend)
    port = processes.unused_port()
    front = subprocess.Popen(
        ["nghttpx", "--conf=/dev/null", "--no-ocsp", f"-f127.0.0.1,{port}", f"-b127.0.0.1,{server.port}", "--workers=1", "--backend-read-timeout=1h",
         "--verify-client", f"--verify-client-cacert={authority.file}", "--errorlog-file=/dev/null", "--accesslog-file=/dev/null",
         str(identity.key), str(identity.certificate)],
    )  # fmt: skip
    try:
        client = authority.issue("swiftlet")
        file = tmp_path / "kubeconfig"
        server.kubeconfig(file, token=None, **{"client-certificate": str(client.certificate), "client-key": str(client.key)})
        config = json.loads(file.read_text())
        config["clusters"][0]["cluster"] = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(authority.file)}
        file.write_text(json.dumps(config))
        program = watching(file)
        wait_until(lambda: admin.leaders(program), 10, what="the list over HTTP/2")
        put_slices(server, backend, ready=False)
        wait_until(lambda: not admin.leaders(program), what="the event over HTTP/2")
    finally:
        front.terminate()
        front.wait(10)


def test_a_start_without_an_api_server_serves_what_was_there_last(api, watching, serve, scripted, tmp_path):
    backend, later = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.put("pods", pod(f"p{backend.port}"), pod(f"p{later.port}"))
    put_slices(server, backend)
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    program = watching(kubeconfig)
    snapshot = tmp_path / "snapshot.yaml"
    wait_until(lambda: snapshot.exists() and str(backend.port) in snapshot.read_text(), what="the snapshot")
    program.stop()
    server.stop()
    program = watching(kubeconfig)
    wait_until(lambda: admin.leaders(program), what="the snapshot's group")
    assert ask(program).status_code == 200
    assert httpx.get(f"{program.admin_url}/readiness").json() == {"status": "ready", "discovery_synced": False}
    wait_until(lambda: "cannot connect" in fault(program), what="what is missing")
    server.delete(SLICE, f"vllm-{backend.port}")
    put_slices(server, later)
    server.start()
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{later.port}"}, 15, what="the server's word over the snapshot's")
    wait_until(lambda: httpx.get(f"{program.admin_url}/readiness").json()["discovery_synced"], what="sync")


def test_endpoints_and_inference_pools(api, watching, scripted, tmp_path):
    first, second = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.unserved = {SLICE}
    server.forbidden = {"pods"}
    address = {"ip": "127.0.0.1", "targetRef": {"kind": "Pod", "namespace": "llm", "name": "p", "uid": "u"}}
    server.put("endpoints", {
        "metadata": {"name": "vllm", "namespace": "llm"},
        "subsets": [{"addresses": [address], "ports": [{"name": "http", "port": first.port}]}],
    })  # fmt: skip
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    program = watching(kubeconfig)
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{first.port}"}, 10, what="Endpoints where slices are not served")
    program.stop()
    (tmp_path / "snapshot.yaml").unlink(missing_ok=True)
    server.forbidden = set()
    server.unserved = {SLICE, "inferencepools"}
    server.put("pods", pod("a", labels={"app": "vllm"}, ip="127.0.0.1"), pod("b", labels={"app": "other"}, ip="127.0.0.1"))
    program = watching(kubeconfig, pools="{inference_pool: llama}")
    wait_until(lambda: "does not serve inference.networking.k8s.io/v1" in fault(program), what="the message about the type")
    server.unserved = set()
    server.put("inferencepools", {
        "metadata": {"name": "llama", "namespace": "llm"},
        "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": second.port}]},
    })  # fmt: skip
    wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{second.port}"}, 15, what="the pool")


def break_off_lists(server):
    server.streams_lists = False
    server.script = lambda path, query: (
        None if "watch" in query else (200, b'{"metadata":{"resourceVersion":"5"},"items":[{"meta')
    )


@pytest.mark.parametrize(
    ("break_it", "pool", "words"),
    [
        (lambda s: s.forbidden.add(SLICE), POOL, ['Role in namespace llm', '"discovery.k8s.io"', '"endpointslices"', '"list", "watch"']),
        (lambda s: None, "{services: [absent], namespace: llm}", ["is there such a Service in namespace llm"]),
        (lambda s: None, "{services: [vllm], namespace: llm, port: grpc}", ["no port named grpc", "http ("]),
        (lambda s: break_off_lists(s), POOL, ["makes no sense"]),
        (lambda s: setattr(s, "script", lambda path, query: (200, b'{"metadata":{"resourceVersion":"5"},"items":[{"metadata":3}]}\n')),
         POOL, ["makes no sense"]),
        (lambda s: s.put(SLICE, slice_of("vllm", *(endpoint(f"10.9.{i // 250}.{i % 250 + 1}", ready=False) for i in range(1000)),
                                         name="vllm-9")), POOL, ["of 1000 endpoints none is ready"]),
        (lambda s: (s.unserved.clear(), s.put("inferencepools", {"metadata": {"name": "llama", "namespace": "llm"}, "spec": {"selector": 7}})),
         "{inference_pool: llama}", ["1 of inference.networking.k8s.io/v1 inferencepools cannot be read", "llm/llama", "selector"]),
        (lambda s: s.put(SLICE, slice_of("vllm", endpoint("example.com")) | {"addressType": "FQDN"}), POOL, ["names instead of addresses"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(api, watching, tmp_path, break_it, pool, words):
    server = api()
    if "absent" in pool or "grpc" in pool:
        server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1")))
    break_it(server)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), pools=pool, more="pods: false, ")
    wait_until(lambda: fault(program), what="a fault")
    wait_until(lambda: all(word in fault(program) for word in words), 10, what=f"{words}")
    assert any(words[0] in line for line in program.stderr_lines)
    assert httpx.get(f"{program.admin_url}/readiness").status_code == 503


def test_a_start_without_pods_goes_on_and_says_so(api, watching, tmp_path):
    server = api()
    server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1", "p")))
    server.script = lambda path, query: (500, b"boom") if path.endswith("/pods") else None
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: admin.leaders(program) == {"127.0.0.1:8000"}, 20, what="the slice's endpoint")
    wait_until(lambda: fault(program).startswith("going on without pods: "), what="the message")
    server.script = None
    server.put("pods", pod("p", deleting=True))
    wait_until(lambda: not admin.leaders(program), 30, what="what the pod says")
    wait_until(lambda: "without pods" not in fault(program), what="the end of the message")


def test_nodes_that_may_not_be_read_are_named(api, watching, tmp_path):
    server = api()
    server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1")))
    server.forbidden.add("nodes")
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), more="pods: false, nodes: true, ")
    wait_until(lambda: "a ClusterRole" in fault(program) and '"nodes"' in fault(program), what="the right that is missing")
    assert admin.leaders(program) == {"127.0.0.1:8000"}


def test_credentials_that_are_no_good_are_named(api, watching, tmp_path, authority):
    other = pki.Authority(tmp_path, "other")
    server = api(identity=authority.issue("kubernetes", "IP:127.0.0.1"))
    file = tmp_path / "kubeconfig"
    cases = [
        (dict(authority=other.file), "certificate"),
        (dict(authority=tmp_path / "absent.pem"), "absent.pem: No such file"),
        (dict(authority=authority.file, token=None, tokenFile="missing"), "missing: No such file"),
        (dict(authority=authority.file, token=None, tokenFile=str(tmp_path)), f"{tmp_path}: Is a directory"),
        (dict(authority=authority.file, token=None, exec={"command": "aws", "apiVersion": "v1"}), "exec: aws"),
    ]
    for user, words in cases:
        server.kubeconfig(file, **user)
        program = watching(file, arguments=("--kube-context", "test"))
        wait_until(lambda p=program, w=words: w in fault(p), 10, what=words)
        program.stop()
    program = watching(file, arguments=("--kube-context", "nowhere"))
    wait_until(lambda: "no context nowhere; it has test" in fault(program), what="the contexts")


def test_an_event_is_in_the_next_decision(api, watching, scripted, tmp_path):
    """From the write at the API to the last request at the endpoint that it takes away."""
    backends = [scripted(answer_ok) for _ in range(2)]
    server = api()
    server.put("pods", *(pod(f"p{b.port}") for b in backends))
    put_slices(server, *backends)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: len(admin.leaders(program)) == 2, what="both")
    with httpx.Client() as client:
        for turn in range(20):
            gone = backends[turn % 2]
            put_slices(server, gone, ready=False)
            wait_until(lambda g=gone: f"127.0.0.1:{g.port}" not in admin.leaders(program), 1, what="the event's effect")
            before = len(gone.requests)
            for _ in range(5):
                assert client.post(f"{program.url}/v1/completions", json={"prompt": "x"}).status_code == 200
            assert len(gone.requests) == before
            put_slices(server, gone)
            wait_until(lambda: len(admin.leaders(program)) == 2, 1, what="both again")


def test_a_terminating_leader_finishes_what_it_has_and_gets_nothing_new(api, watching, scripted, gate, tmp_path):
    begun = []

    async def slow(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        begun.append(exchange)
        await exchange.send(b"7\r\ndata: 1\r\n4\r\n\n\n\n\n\r\n")
        await gate.wait()
        await exchange.send(b"10\r\ndata: [DONE]\n\n\n\n\r\n0\r\n\r\n")

    old, new = scripted(slow), scripted(answer_ok)
    server = api()
    server.put("pods", pod(f"p{old.port}"), pod(f"p{new.port}"))
    put_slices(server, old)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"))
    wait_until(lambda: admin.leaders(program), what="the leader")
    body = {"model": "m", "prompt": "x", "stream": True}
    with httpx.stream("POST", f"{program.url}/v1/completions", json=body, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "data: 1"
        put_slices(server, new)
        wait_until(lambda: len(admin.leaders(program)) == 2, what="the other leader")
        # First it terminates, then all that was known of it goes.
        server.put("pods", pod(f"p{old.port}", deleting=True))
        wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{new.port}"}, what="the leader to drain")
        for _ in range(5):
            assert ask(program).status_code == 200
        server.delete(SLICE, f"vllm-{old.port}")
        server.delete("pods", f"p{old.port}")
        wait_until(lambda: len(admin.groups(program)) == 1, what="the leader to be forgotten")
        gate.open()
        assert "data: [DONE]" in list(lines)
    assert len(begun) == 1
    assert len(new.requests) >= 5


def test_a_node_that_is_taken_away_gets_nothing_new(api, watching, scripted, tmp_path):
    staying, going = scripted(answer_ok), scripted(answer_ok)
    server = api()
    server.put("pods", pod(f"p{staying.port}"), pod(f"p{going.port}"))
    for backend, node in ((staying, "node-b"), (going, "node-a")):
        made = endpoint("127.0.0.1", f"p{backend.port}", nodeName=node)
        server.put(SLICE, slice_of("vllm", made, port=backend.port, name=f"vllm-{backend.port}"))
    node = {"metadata": {"name": "node-a"}, "spec": {}}
    server.put("nodes", node)
    program = watching(server.kubeconfig(tmp_path / "kubeconfig"), more="nodes: true, departure_taints: [example.com/spot], ")
    wait_until(lambda: len(admin.leaders(program)) == 2, what="both")
    for taint, leaders in (("example.com/dedicated", 2), ("example.com/spot", 1)):
        server.put("nodes", node | {"spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]}})
        wait_until(lambda n=leaders: len(admin.leaders(program)) == n, what=taint)
    assert admin.leaders(program) == {f"127.0.0.1:{staying.port}"}
    obstacles = [group["raw"]["discovery"].get("obstacle") for group in admin.groups(program)]
    assert any("node node-a is taken away: taint example.com/spot" in (obstacle or "") for obstacle in obstacles)
    server.put("nodes", node)
    wait_until(lambda: len(admin.leaders(program)) == 2, what="both again")


def test_a_token_that_cannot_be_read_any_more_is_named(api, watching, scripted, tmp_path, authority, monkeypatch):
    backend = scripted(answer_ok)
    server = api(identity=authority.issue("kubernetes", "IP:127.0.0.1"))
    server.tokens = {"first"}
    put_slices(server, backend)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("first")
    (account / "ca.crt").write_bytes(pathlib.Path(authority.file).read_bytes())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    program = watching(None, more=f"pods: false, service_account: {account}, ")
    wait_until(lambda: admin.leaders(program), what="the first list")
    (account / "token").unlink()
    server.tokens = {"second"}
    server.cut()
    wait_until(lambda: "token: No such file" in fault(program) and "401" in fault(program), 15, what="both reasons")
    assert admin.leaders(program) == {f"127.0.0.1:{backend.port}"}
