"""TLS towards the client: ALPN, both protocols, the official clients, and what is refused."""

import socket
import ssl
import subprocess

import grpc
import httpx
import openai
import pytest

import kserve
import processes
from test_curl import curl
from wire_clients import sse_payloads

CHAT = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def secured(fleet, certificate):
    """A router with TLS over HTTP/2 engines, which take both protocols."""
    program = processes.serve(
        *(f"h2c://127.0.0.1:{port}" for port in fleet.ports),
        arguments=["--tls-cert", certificate[0], "--tls-key", certificate[1]],
    )
    yield program
    program.stop()


@pytest.fixture
def trusting(certificate):
    return ssl.create_default_context(cafile=str(certificate[0]))


def https(program):
    return f"https://localhost:{program.port}"


def connect(program, context, timeout=5):
    raw = socket.create_connection(("127.0.0.1", program.port), timeout)
    return context.wrap_socket(raw, server_hostname="localhost")


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
def test_protocol_by_alpn(secured, trusting, http2, version):
    with httpx.Client(http2=http2, verify=trusting, timeout=10) as client:
        answer = client.post(f"{https(secured)}/v1/chat/completions", json=CHAT)
        assert (answer.http_version, answer.status_code) == (version, 200)
        with client.stream("POST", f"{https(secured)}/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
            assert sse_payloads(stream.read())[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], None), (["http/1.1"], "http/1.1"), ([], None)],
)
def test_alpn_choice(secured, trusting, offered, chosen):
    if offered:
        trusting.set_alpn_protocols(offered)
    with connect(secured, trusting) as connection:
        selected = connection.selected_alpn_protocol()
        assert selected == chosen if chosen or not offered else selected in offered
        if selected != "h2":
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_spoken(secured, trusting, version):
    trusting.minimum_version = trusting.maximum_version = version
    with connect(secured, trusting) as connection:
        assert connection.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_version_is_refused(secured, trusting):
    trusting.minimum_version = ssl.TLSVersion.TLSv1
    trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    trusting.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secured, trusting)


def test_openai_sdk(secured, certificate, monkeypatch):
    # The client library builds its own context; it honours this variable whichever HTTP library it brings.
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with openai.OpenAI(base_url=f"{https(secured)}/v1", api_key="unused", max_retries=0, timeout=10) as client:
        assert client.chat.completions.create(**CHAT).usage.completion_tokens == 3


def test_grpc(secured, certificate):
    credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    with grpc.secure_channel(f"localhost:{secured.port}", credentials, [("grpc.enable_http_proxy", 0)]) as channel:
        call = kserve.method(
            channel, "/inference.GRPCInferenceService/ModelInfer", "ModelInferRequest", "ModelInferResponse"
        )
        assert kserve.infer_text(call(kserve.infer_request("over TLS"), timeout=5))


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_curl(secured, certificate, protocol):
    answer = curl(protocol, "--cacert", certificate[0], f"{https(secured)}/health")
    assert answer.status == 200
    assert answer.version == {"--http1.1": "HTTP/1.1", "--http2": "HTTP/2"}[protocol]


def test_body_larger_than_a_record(secured, trusting):
    """Several hundred TLS records each way."""
    words = "word " * 200_000
    with httpx.Client(http2=True, verify=trusting, timeout=20) as client:
        answer = client.post(
            f"{https(secured)}/v1/chat/completions",
            json=CHAT | {"messages": [{"role": "user", "content": words}]},
        )
    # Whether so long a prompt fits is the engine's affair; that it read all of it shows in its answer.
    assert answer.status_code in (200, 400)
    assert answer.headers["x-served-by"].startswith("stub-")


def test_cleartext_on_the_tls_port(secured):
    """No answer in clear, no harm to others."""
    with socket.create_connection(("127.0.0.1", secured.port), 5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert not connection.recv(4_096).startswith(b"HTTP/")
        except ConnectionError:
            pass


def test_client_that_leaves_in_its_handshake(secured, trusting):
    for part in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), b"\x16\x03\x01\xff\xff"):
        with socket.create_connection(("127.0.0.1", secured.port), 5) as connection:
            connection.sendall(part)
    with httpx.Client(verify=trusting, timeout=5) as client:
        assert client.get(f"{https(secured)}/health").status_code == 200


def test_certificate_and_key_that_do_not_match(certificate, tmp_path):
    other = tmp_path / "other.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", other],
        check=True, capture_output=True,
    )  # fmt: skip
    done = processes.run("serve", "--listen", "127.0.0.1:0", "--backend", "http://127.0.0.1:9",
                         "--tls-cert", certificate[0], "--tls-key", other)  # fmt: skip
    assert done.returncode != 0
    assert "listening on" not in done.stderr
