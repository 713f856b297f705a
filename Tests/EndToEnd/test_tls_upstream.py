"""TLS towards the backends: whom the router trusts, what it shows, and what becomes of failures."""

import concurrent.futures
import ssl

import grpc
import httpx
import pytest

import admin
import kserve
import pki
import processes
from scripted_backend import answer_ok
from waiting import wait_until
from wire_clients import HTTP1Client

CHAT = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def serve_upstream(start, tmp_path):
    """Starts a router over these URLs with an `upstream_tls` section in flow style."""

    def make(tls, *urls, rest=""):
        config = tmp_path / "swiftlet.yaml"
        groups = "".join(f"  - leader: {url}\n" for url in urls)
        config.write_text(
            f"listeners: [{{address: 127.0.0.1:0}}]\nadmin: 127.0.0.1:0\nloops: 1\nupstream_tls: {{{tls}}}\ngroups:\n{groups}{rest}"
        )
        return start(lambda: processes.Program("serve", "--config", config).wait_ready(admin=True))

    return make


def backend_context(identity, clients=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(clients.file))
    return context


def post(program, **options):
    return httpx.post(f"{program.url}/v1/chat/completions", json=CHAT, timeout=10, **options)


def tls_failures(program):
    return admin.total(admin.metrics(program)["swiftlet_upstream_failures"], kind="tls")


def test_http1_and_reuse(serve_upstream, scripted, authority):
    body = bytes(range(256)) * 8_192

    async def echo(exchange):
        await exchange.answer(200, exchange.request.body)

    backend = scripted(echo, tls=backend_context(authority.issue("backend", "IP:127.0.0.1")))
    program = serve_upstream(f"ca_file: {authority.file}", backend.url)
    with httpx.Client(timeout=20) as client:
        for _ in range(3):
            assert client.post(f"{program.url}/echo", content=body).content == body
    assert tls_failures(program) == 0
    # The loop's own questions may have left a second one for them.
    assert len({request.connection for request in backend.requests}) <= 2


@pytest.fixture
def secured_stub(start, fleet, authority):
    """Engines behind TLS that speak HTTP/2, gRPC and HTTP/1.1: another router in front of the fleet."""
    identity = authority.issue("engines", "DNS:engines.test")
    return start(processes.serve, *(f"h2c://127.0.0.1:{p}" for p in fleet.ports), arguments=identity.arguments())


@pytest.mark.parametrize("scheme", ["h2", "https"])
def test_server_name_of_the_configuration(serve_upstream, secured_stub, authority, scheme):
    program = serve_upstream(
        f"ca_file: {authority.file}, server_name: engines.test", f"{scheme}://127.0.0.1:{secured_stub.port}"
    )
    assert post(program).status_code == 200
    with httpx.stream("POST", f"{program.url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=10) as answer:
        assert answer.read().rstrip().endswith(b"data: [DONE]")
    line = wait_until(secured_stub.access_log, what="a line in the backend's log")[-1]
    assert line["protocol"] == {"h2": "HTTP/2", "https": "HTTP/1.1"}[scheme]


def test_grpc_to_a_grpc_server(serve_upstream, authority):
    """grpcio's own server, which demands a certificate of the router."""
    identity, router = authority.issue("grpc", "IP:127.0.0.1"), authority.issue("router")

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method != "/inference.GRPCInferenceService/ServerLive":
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: kserve.MESSAGES["ServerLiveResponse"](live=True),
                request_deserializer=kserve.MESSAGES["ServerLiveRequest"].FromString,
                response_serializer=kserve.MESSAGES["ServerLiveResponse"].SerializeToString,
            )

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Handler()])
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(identity.key.read_bytes(), identity.certificate.read_bytes())], authority.file.read_bytes(), True
        ),
    )
    server.start()
    try:
        for shown, works in [(f", {router.yaml()}", True), ("", False)]:
            program = serve_upstream(f"ca_file: {authority.file}{shown}", f"h2://127.0.0.1:{port}")
            with grpc.insecure_channel(f"127.0.0.1:{program.port}", [("grpc.enable_http_proxy", 0)]) as channel:
                call = kserve.method(
                    channel, "/inference.GRPCInferenceService/ServerLive", "ServerLiveRequest", "ServerLiveResponse"
                )
                request = kserve.MESSAGES["ServerLiveRequest"]()
                if works:
                    assert call(request, timeout=5).live
                else:
                    with pytest.raises(grpc.RpcError) as raised:
                        call(request, timeout=5)
                    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
            program.stop()
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_of_the_router(serve_upstream, scripted, authority, version):
    context = backend_context(authority.issue("backend", "IP:127.0.0.1"), clients=authority)
    context.maximum_version = version
    backend = scripted(answer_ok, tls=context)
    program = serve_upstream(f"ca_file: {authority.file}, {authority.issue('router').yaml()}", backend.url)
    assert post(program).status_code == 200
    program.stop()
    program = serve_upstream(f"ca_file: {authority.file}", backend.url)
    assert post(program).status_code in (502, 503)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("untrusted", "unable to get local issuer certificate"),
        ("name", "IP address mismatch"),
        ("server name", "hostname mismatch"),
        ("expired", "certificate has expired"),
    ],
)
def test_certificates_that_are_not_accepted(serve_upstream, scripted, authority, tmp_path, problem, words):
    """Another group answers; the log says why, once; the broken one is left alone for a while."""
    identity = authority.issue("backend", "IP:127.0.0.1")
    trust = f"ca_file: {authority.file}"
    match problem:
        case "untrusted":
            identity = pki.Authority(tmp_path, "stranger").issue("backend", "IP:127.0.0.1")
        case "name":
            identity = authority.issue("backend", "IP:127.0.0.2")
        case "server name":
            trust += ", server_name: engines.test"
        case "expired":
            identity = authority.issue("backend", "IP:127.0.0.1", days=-1)
    broken = scripted(answer_ok, "broken", tls=backend_context(identity))
    good = scripted(answer_ok, "good")
    program = serve_upstream(trust, f"https://127.0.0.1:{broken.port}", good.url, rest="policy: round-robin\n")
    for _ in range(20):
        assert post(program).headers["x-served-by"] == "good"
    assert not broken.requests
    assert 1 <= tls_failures(program) <= 3
    told = wait_until(lambda: [line for line in program.stderr_lines if "TLS to" in line], what="a line in the log")
    assert words in told[0] and f"127.0.0.1:{broken.port}" in told[0], told
    assert len(told) <= 3  # the proxying loop, and those who ask for models and for the load


def test_verification_can_be_left_out(serve_upstream, scripted, tmp_path):
    stranger = pki.Authority(tmp_path, "stranger").issue("backend", "DNS:elsewhere")
    backend = scripted(answer_ok, tls=backend_context(stranger))
    program = serve_upstream("insecure_skip_verify: true", backend.url)
    assert post(program).status_code == 200
    assert "insecure_skip_verify" in program.stderr
    program.stop()
    # The system's authorities are the default, and know nothing of this one.
    program = serve_upstream("minimum_version: 1.2", backend.url)
    assert post(program).status_code == 502


def test_endpoint_without_h2(serve_upstream, scripted, authority):
    backend = scripted(answer_ok, tls=backend_context(authority.issue("backend", "IP:127.0.0.1")))
    program = serve_upstream(f"ca_file: {authority.file}", f"h2://127.0.0.1:{backend.port}")
    assert post(program).status_code == 502
    wait_until(lambda: "does not agree to speak HTTP/2" in program.stderr, what="a line in the log")


def test_handshake_counts_as_connecting(serve_upstream, hub, authority):
    """A backend that accepts and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = serve_upstream(
            f"ca_file: {authority.file}", f"https://127.0.0.1:{port}", rest="timeouts: {connect: 200ms}\n"
        )
        answer = post(program)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_connect_error"


def test_cut_body_is_no_whole_one(serve_upstream, scripted, authority):
    """A body that ends with the connection is whole only after close_notify (RFC 9112, 9.8)."""

    async def script(exchange):
        await exchange.head(200, ((b"content-type", b"text/plain"), (b"connection", b"close")))
        await exchange.send(b"part of it")
        if exchange.request.path == b"/cut":
            # FIN without close_notify.
            exchange.writer.transport.get_extra_info("socket").shutdown(1)
            await exchange.peer_gone()
        else:
            exchange.close()

    backend = scripted(script, tls=backend_context(authority.issue("backend", "IP:127.0.0.1")))
    program = serve_upstream(f"ca_file: {authority.file}", backend.url)
    assert httpx.get(f"{program.url}/whole", timeout=5).text == "part of it"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{program.url}/cut", timeout=5)


def test_sessions_are_resumed(serve_upstream, scripted, authority):
    reused = []

    async def script(exchange):
        reused.append(exchange.writer.get_extra_info("ssl_object").session_reused)
        await exchange.answer(200, b"{}")
        exchange.close()

    backend = scripted(script, tls=backend_context(authority.issue("backend", "IP:127.0.0.1")))
    program = serve_upstream(f"ca_file: {authority.file}", backend.url)
    for _ in range(4):
        assert post(program).status_code == 200
    assert reused == [False, True, True, True]


def test_authority_that_is_replaced(serve_upstream, scripted, gate, tmp_path, authority):
    """The file is watched: a backend of the old authority is refused, one of the new is trusted, and connections that stand go on."""

    async def script(exchange):
        if exchange.request.path != b"/slow":
            return await answer_ok(exchange)
        await exchange.head(200, [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")])
        await exchange.chunk(b"before")
        await gate.wait()
        await exchange.chunk(b" and after")
        await exchange.last_chunk()

    other = pki.Authority(tmp_path, "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    old = scripted(script, tls=backend_context(authority.issue("old", "IP:127.0.0.1")))
    new = scripted(answer_ok, tls=backend_context(other.issue("new", "IP:127.0.0.1")))
    program = serve_upstream(f"ca_file: {trusted}", old.url, new.url, rest="timeouts: {upstream_idle: 100ms}\n")

    def server():
        answer = post(program)
        return answer.status_code == 200 and answer.headers["x-served-by"]

    assert server() == old.name
    standing = HTTP1Client(program.port).request("GET", "/slow")
    answer = standing.read_head()
    assert answer.status == 200 and old.requests[-1].path == b"/slow"
    fresh = tmp_path / "fresh.pem"
    fresh.write_bytes(other.file.read_bytes())
    fresh.rename(trusted)
    wait_until(lambda: server() == new.name, 20, "the backend of the new authority")
    assert [server() for _ in range(5)] == [new.name] * 5
    gate.open()
    assert standing.read_body(answer, "GET").complete and answer.body == b"before and after"
    standing.close()


def test_certificate_of_the_router_is_renewed(serve_upstream, scripted, tmp_path, authority):
    """A key pair that is replaced key first, as some tools do, is shown to the next connection."""
    subjects = []

    async def script(exchange):
        subjects.append(dict(pair[0] for pair in exchange.writer.get_extra_info("peercert")["subject"])["commonName"])
        await answer_ok(exchange)

    backend = scripted(script, tls=backend_context(authority.issue("backend", "IP:127.0.0.1"), authority))
    first, second = authority.issue("first"), authority.issue("second", kind="rsa")
    mine = pki.Identity(tmp_path / "router.crt", tmp_path / "router.key")
    for target, source in ((mine.key, first.key), (mine.certificate, first.certificate)):
        target.write_bytes(source.read_bytes())
    tls = f"ca_file: {authority.file}, {mine.yaml()}"
    program = serve_upstream(tls, backend.url, rest="timeouts: {upstream_idle: 1ms}\n")
    assert post(program).status_code == 200
    for target, source in ((mine.key, second.key), (mine.certificate, second.certificate)):
        fresh = target.with_suffix(".new")
        fresh.write_bytes(source.read_bytes())
        fresh.rename(target)

    def renewed():
        assert post(program).status_code == 200
        return subjects[-1] == "second"

    wait_until(renewed, what="the new certificate")
    assert set(subjects) == {"first", "second"}
