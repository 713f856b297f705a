"""What a TLS listener shows, demands, remembers and refuses."""

import re
import socket
import ssl
import subprocess
import threading

import grpc
import httpx
import pytest

import admin
import kserve
import pki
import processes
from waiting import wait_until

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(authority):
    return authority.issue("server", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture
def serve_tls(start, fleet, tmp_path):
    """Starts a router with a `tls` section in flow style, over HTTP/2 engines."""

    def make(tls, rest="", loops=1):
        config = tmp_path / "swiftlet.yaml"
        groups = "".join(f"  - leader: h2c://127.0.0.1:{port}\n" for port in fleet.ports)
        config.write_text(
            f"listeners: [{{address: 127.0.0.1:0, tls: {{{tls}}}}}]\nadmin: 127.0.0.1:0\nloops: {loops}\ngroups:\n{groups}{rest}"
        )
        program = processes.Program("serve", "--config", config)
        return start(lambda: program.wait_ready(admin=True))

    return make


def client(authority, identity=None, alpn=None, **versions):
    context = ssl.create_default_context(cafile=str(authority.file))
    if identity:
        context.load_cert_chain(identity.certificate, identity.key)
    if alpn:
        context.set_alpn_protocols(alpn)
    for name, value in versions.items():
        setattr(context, name, value)
    return context


def connect(program, context, name="localhost", session=None):
    raw = socket.create_connection(("127.0.0.1", program.port), 5)
    return context.wrap_socket(raw, server_hostname=name, session=session)


def ask(connection):
    connection.sendall(GET)
    return connection.recv(4_096)


def shown(connection):
    return connection.getpeercert()["serialNumber"]


def failures(program, reason):
    return admin.sample(program, "swiftlet_tls_handshake_failures_total", reason=reason) or 0


def s_client(program, *arguments):
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{program.port}", *map(str, arguments)],
        input="", capture_output=True, text=True, timeout=10,
    )  # fmt: skip


# Names


def test_certificate_by_server_name(serve_tls, authority, server):
    exact = authority.issue("exact", "DNS:a.example.org")
    wild = authority.issue("wild", "DNS:*.Example.org", "DNS:example.net")
    program = serve_tls(f"{server.yaml()}, more_certificates: [{{{exact.yaml()}}}, {{{wild.yaml()}}}]")
    context = client(authority)
    for name, expected in [
        ("localhost", server), ("a.example.org", exact), ("b.example.org", wild), ("example.net", wild),
        ("A.EXAMPLE.ORG", exact),
    ]:  # fmt: skip
        with connect(program, context, name) as connection:
            assert shown(connection) == pki.serial(expected.certificate), name
            assert ask(connection).startswith(b"HTTP/1.1 200")
    context.check_hostname = False
    for name in (None, "c.b.example.org", "example.org", "elsewhere"):
        with connect(program, context, name) as connection:
            assert shown(connection) == pki.serial(server.certificate), name


def test_both_kinds_of_key_for_one_name(serve_tls, authority):
    ec = authority.issue("ec", "DNS:localhost")
    rsa = authority.issue("rsa", "DNS:localhost", kind="rsa")
    other = authority.issue("other", "DNS:other")
    program = serve_tls(f"{ec.yaml()}, more_certificates: [{{{rsa.yaml()}}}, {{{other.yaml()}}}]")
    for algorithms, expected in [("ECDSA+SHA256", "ECDSA"), ("RSA-PSS+SHA256", "RSA-PSS")]:
        for version in ("-tls1_2", "-tls1_3"):
            done = s_client(program, "-sigalgs", algorithms, version, "-servername", "localhost")
            assert re.search(rf"Peer signature type: {expected}$", done.stdout, re.M), done.stdout


def test_chain_is_sent(serve_tls, authority, tmp_path):
    middle = pki.Authority(tmp_path, "middle", issuer=authority)
    leaf = middle.issue("leaf", "DNS:localhost")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(leaf.certificate.read_bytes() + middle.file.read_bytes())
    program = serve_tls(pki.Identity(chain, leaf.key).yaml())
    with connect(program, client(authority)) as connection:
        assert ask(connection).startswith(b"HTTP/1.1 200")


# Versions


def test_minimum_version(serve_tls, authority, server):
    program = serve_tls(f"{server.yaml()}, minimum_version: 1.3")
    with connect(program, client(authority)) as connection:
        assert connection.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        connect(program, client(authority, maximum_version=ssl.TLSVersion.TLSv1_2))
    wait_until(lambda: failures(program, "protocol_version") == 1, what="the failure counted")


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-RSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"])
def test_weak_ciphers_are_refused(serve_tls, authority, cipher):
    program = serve_tls(authority.issue("rsa", "DNS:localhost", kind="rsa").yaml())
    done = s_client(program, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "handshake failure" in done.stderr, done.stderr
    wait_until(lambda: failures(program, "cipher") == 1, what="the failure counted")


def test_renegotiation_is_refused(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{program.port}", "-tls1_2", "-legacy_renegotiation"],
        input="R\n", capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    assert "no renegotiation" in done.stderr, done.stderr


# ALPN


def test_alpn_without_anything_in_common(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        connect(program, client(authority, alpn=["imap"]))
    wait_until(lambda: failures(program, "alpn") == 1, what="the failure counted")


def test_http1_after_agreeing_on_h2(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    with connect(program, client(authority, alpn=["h2"])) as connection:
        connection.sendall(GET)
        received = b""
        while data := connection.recv(4_096):
            received += data
    assert b"HTTP/1.1" not in received
    # SETTINGS with a WINDOW_UPDATE, and GOAWAY if it is said why.
    while received:
        length, kind = int.from_bytes(received[:3]), received[3]
        assert kind in (4, 7, 8), received
        received = received[9 + length :]


def test_h2_after_agreeing_on_http1(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    with connect(program, client(authority, alpn=["http/1.1"])) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert connection.recv(4_096).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))


# Resumption


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_resumption_across_loops(serve_tls, authority, server, version):
    program = serve_tls(server.yaml(), loops=4)
    context = client(authority, minimum_version=version, maximum_version=version)
    with connect(program, context) as connection:
        assert not connection.session_reused
        ask(connection)  # the ticket of TLS 1.3 comes with the first bytes
        session = connection.session
    reused = []
    # The kernel spreads connections over the loops.
    for _ in range(16):
        with connect(program, context, session=session) as connection:
            assert ask(connection).startswith(b"HTTP/1.1 200")
            reused.append(connection.session_reused)
    assert all(reused)


# Client certificates


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("strangers"), "strangers")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("demand", ["optional", "required"])
def test_client_certificates(serve_tls, authority, server, strangers, demand, version):
    program = serve_tls(f"{server.yaml()}, client_certificates: {demand}, client_ca_file: {authority.file}")

    def attempt(identity):
        with connect(program, client(authority, identity, maximum_version=version)) as connection:
            return ask(connection)

    assert attempt(authority.issue("friend")).startswith(b"HTTP/1.1 200")
    refusal = "(?i)unknown ca|certificate required|handshake failure"
    with pytest.raises(ssl.SSLError, match=refusal):
        attempt(strangers.issue("stranger"))
    wait_until(lambda: failures(program, "certificate") == 1, what="the failure counted")
    if demand == "optional":
        assert attempt(None).startswith(b"HTTP/1.1 200")
    else:
        with pytest.raises(ssl.SSLError, match=refusal):
            attempt(None)
        wait_until(lambda: failures(program, "certificate") == 2, what="the failure counted")


def test_depth_of_client_chains(serve_tls, authority, server, tmp_path):
    middle = pki.Authority(tmp_path, "middle", issuer=authority)
    leaf = middle.issue("leaf")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(leaf.certificate.read_bytes() + middle.file.read_bytes())
    demand = f"{server.yaml()}, client_certificates: required, client_ca_file: {authority.file}"
    context = client(authority, pki.Identity(chain, leaf.key))
    with connect(serve_tls(demand), context) as connection:
        assert ask(connection).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLError), connect(serve_tls(f"{demand}, client_verify_depth: 0"), context) as connection:
        ask(connection)


def test_grpc_with_a_client_certificate(serve_tls, authority, server):
    program = serve_tls(f"{server.yaml()}, client_certificates: required, client_ca_file: {authority.file}")
    friend = authority.issue("friend")
    for identity, works in [(friend, True), (None, False)]:
        credentials = grpc.ssl_channel_credentials(
            authority.file.read_bytes(), *((identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else ())
        )
        with grpc.secure_channel(f"localhost:{program.port}", credentials, [("grpc.enable_http_proxy", 0)]) as channel:
            call = kserve.method(
                channel, "/inference.GRPCInferenceService/ModelInfer", "ModelInferRequest", "ModelInferResponse"
            )
            if works:
                assert kserve.infer_text(call(kserve.infer_request("over mTLS"), timeout=5))
            else:
                with pytest.raises(grpc.RpcError):
                    call(kserve.infer_request("over mTLS"), timeout=5)


# Handshakes that come to nothing


def test_handshake_timeout(serve_tls, authority, server):
    program = serve_tls(server.yaml(), rest="timeouts: {tls_handshake: 200ms}\n")
    with socket.create_connection(("127.0.0.1", program.port), 5) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00")
        assert connection.recv(100) == b""
    wait_until(lambda: failures(program, "timeout") == 1, what="the failure counted")
    # The handshake's limit is not that of what follows it.
    with connect(program, client(authority)) as connection:
        with pytest.raises(TimeoutError):
            connection.settimeout(0.6)
            connection.recv(1)
        connection.settimeout(5)
        assert ask(connection).startswith(b"HTTP/1.1 200")


def test_failures_by_reason(serve_tls, server):
    program = serve_tls(server.yaml())
    for bytes_, reason in [(b"", "closed"), (b"\x16\x03\x01", "closed"), (GET, "not_tls"), (b"\xff" * 300, "not_tls")]:
        before = failures(program, reason)
        with socket.create_connection(("127.0.0.1", program.port), 5) as connection:
            connection.sendall(bytes_)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(100):
                pass
        wait_until(lambda was=before, why=reason: failures(program, why) == was + 1, what=f"{reason} counted")
    with pytest.raises(ssl.SSLError):
        connect(program, ssl.create_default_context())  # does not trust the test's authority
    wait_until(lambda: failures(program, "peer_alert") == 1, what="the failure counted")
    assert not [line for line in program.stderr_lines if "warning" in line]


# Bytes


def upload(program, context, size, pause=None):
    """POSTs `size` bytes over HTTP/1.1 while reading, and returns the status line."""
    with connect(program, context) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        connection.sendall(b"x" * size)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        return answer


def test_records_of_every_size(serve_tls, authority, server):
    """A request cut into records of one byte, and many requests in one record."""
    program = serve_tls(server.yaml())
    with connect(program, client(authority)) as connection:
        for byte in GET:
            connection.sendall(bytes([byte]))
        assert connection.recv(4_096).startswith(b"HTTP/1.1 200")
        connection.sendall(GET * 100)
        received = b""
        while received.count(b"HTTP/1.1 200") < 100:
            received += connection.recv(65_536)


def test_ciphertext_byte_by_byte(serve_tls, authority, server):
    """The handshake and a request, each byte of them in a segment of its own."""
    program = serve_tls(server.yaml())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = client(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", program.port), 5) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def until(step):
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    result = None
                for byte in outgoing.read():
                    raw.send(bytes([byte]))
                if result is not None:
                    return result
                incoming.write(raw.recv(65_536))

        until(lambda: session.do_handshake() or True)
        session.write(GET)
        assert until(lambda: session.read(4_096)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_bodies_both_ways(start, scripted, authority, server, version):
    """A body echoed: every byte, whatever the records were; the second time with a reader that sleeps."""
    body = bytes(range(256)) * (32 << 10)

    async def echo(exchange):
        await exchange.answer(200, exchange.request.body)

    program = start(processes.serve, scripted(echo).url, arguments=server.arguments())
    context = client(authority, maximum_version=version)
    with connect(program, context) as connection:
        connection.settimeout(20)
        for reader_sleeps in (False, True):
            resume = threading.Event()
            if not reader_sleeps:
                resume.set()
            sender = threading.Thread(
                target=connection.sendall,
                args=(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body,),
            )
            sender.start()
            resume.wait(0.5)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65_536)
            start_of_body = received.index(b"\r\n\r\n") + 4
            parts, count = [received[start_of_body:]], len(received) - start_of_body
            while count < len(body):
                part = connection.recv(65_536)
                assert part, f"ended after {count} bytes"
                parts.append(part)
                count += len(part)
            sender.join()
            assert b"".join(parts) == body


def test_key_update(serve_tls, authority, server):
    """TLS 1.3: either side may change its keys at any time (RFC 8446, 4.6.3)."""
    program = serve_tls(server.yaml())
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{program.port}", "-tls1_3"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    read = b""
    try:
        while b"---\nread R BLOCK" not in read and b"Verify return code" not in read:
            read += process.stdout.read1(65_536)
        for command in (b"K\n", b"k\n"):
            process.stdin.write(command)
            process.stdin.flush()
            # A request in the same read would be taken for a part of the command.
            updates = read.count(b"KEYUPDATE")
            while read.count(b"KEYUPDATE") == updates:
                data = process.stdout.read1(65_536)
                assert data, read[-500:]
                read += data
            process.stdin.write(b"GET /health HTTP/1.1\nHost: x\n\n".replace(b"\n", b"\r\n"))
            process.stdin.flush()
            answers = read.count(b"HTTP/1.1 200")
            while read.count(b"HTTP/1.1 200") == answers:
                data = process.stdout.read1(65_536)
                assert data, read[-500:]
                read += data
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_refusal_is_readable_though_more_was_sent(serve_tls, authority, server):
    """The answer to a broken request is read whole, though the client's bytes were not."""
    program = serve_tls(server.yaml())
    with connect(program, client(authority)) as connection:
        connection.sendall(b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 200_000)
        received = b""
        while data := connection.recv(65_536):
            received += data
    assert received.startswith(b"HTTP/1.1 400") and received.endswith(b"}")


def test_broken_answer_is_no_whole_one(start, scripted, gate, authority, server):
    """HTTP/1.0 knows no chunks: only close_notify tells a whole body from a cut one."""

    async def script(exchange):
        await exchange.head(200, ((b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")))
        await exchange.chunk(b"part of it")
        if exchange.request.path == b"/cut":
            await gate.wait()
            exchange.reset()
        else:
            await exchange.last_chunk()

    program = start(processes.serve, scripted(script).url, arguments=server.arguments())
    context = client(authority)

    def fetch(path):
        with connect(program, context) as connection:
            connection.suppress_ragged_eofs = False
            connection.sendall(b"GET %s HTTP/1.0\r\nHost: x\r\n\r\n" % path)
            received = b""
            while data := connection.recv(4_096):
                received += data
                if path == b"/cut" and b"part of it" in received:
                    gate.open()
            return received

    assert fetch(b"/whole").endswith(b"part of it")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(b"/cut")


def test_goodbye_ends_idle_connections(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    with connect(program, client(authority)) as connection:
        connection.suppress_ragged_eofs = False
        ask(connection)
        program.signal(15)
        assert connection.recv(100) == b""
    assert program.wait_exit() == 0


@pytest.mark.parametrize("alpn", [["h2"], ["http/1.1"]])
def test_many_clients(serve_tls, authority, server, alpn):
    program = serve_tls(server.yaml(), loops=2)
    done = subprocess.run(
        ["h2load", "-n", "2000", "-c", "50", *(["--h1"] if alpn == ["http/1.1"] else ["-m", "10"]),
         f"https://127.0.0.1:{program.port}/health"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "2000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout


def test_httpx_over_h2(serve_tls, authority, server):
    program = serve_tls(server.yaml())
    with httpx.Client(http2=True, verify=client(authority), timeout=10) as session:
        assert session.get(f"https://localhost:{program.port}/health").http_version == "HTTP/2"
