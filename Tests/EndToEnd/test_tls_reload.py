"""Certificates that change while connections are open."""

import os
import signal
import socket
import ssl
import threading

import pytest

import admin
import pki
import processes
from waiting import wait_until

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("pki"))


def connect(port, authority, identity=None):
    context = ssl.create_default_context(cafile=str(authority.file))
    if identity:
        context.load_cert_chain(identity.certificate, identity.key)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="localhost")


def shown(program, authority):
    with connect(program.port, authority) as connection:
        return connection.getpeercert()["serialNumber"]


def replace(target, source):
    """As careful tools do it: written beside, then renamed."""
    fresh = target.with_suffix(".new")
    fresh.write_bytes(source.read_bytes())
    os.rename(fresh, target)


def reloads(program, outcome):
    return admin.sample(program, "swiftlet_tls_reloads_total", outcome=outcome)


@pytest.fixture
def files(tmp_path, authority):
    """Files of the router's own, holding a first certificate."""
    identity = pki.Identity(tmp_path / "tls.crt", tmp_path / "tls.key")
    install(identity, authority.issue("first", "DNS:localhost"))
    return identity


def install(files, identity):
    replace(files.key, identity.key)
    replace(files.certificate, identity.certificate)


@pytest.fixture
def program(start, files):
    return start(processes.serve, "http://127.0.0.1:9", admin=True, arguments=[*files.arguments(), "--loops", "2"])


def test_new_certificate_for_new_connections(program, files, authority):
    first, second = shown(program, authority), authority.issue("second", "DNS:localhost", days=3)
    expiry = admin.sample(program, "swiftlet_tls_certificate_expiry_seconds", file=str(files.certificate))
    with connect(program.port, authority) as old:
        old.sendall(GET)
        assert old.recv(4_096).startswith(b"HTTP/1.1 200")
        install(files, second)
        wait_until(lambda: shown(program, authority) != first, what="the new certificate")
        # On every loop.
        assert {shown(program, authority) for _ in range(16)} == {pki.serial(second.certificate)}
        old.sendall(GET)
        assert old.recv(4_096).startswith(b"HTTP/1.1 200")
    assert reloads(program, "success") >= 1
    fresh = admin.sample(program, "swiftlet_tls_certificate_expiry_seconds", file=str(files.certificate))
    assert 86_000 < fresh - expiry < 87_000


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_from_before_are_resumed(program, files, authority, version, kind):
    """Tickets are sealed with keys of the process, not of a certificate: a client's session from before the reload is resumed, with the
    certificate that it verified then, though the new key be of another kind. Who begins anew meets the new certificate."""
    second = authority.issue("second", "DNS:localhost", kind=kind)
    context = ssl.create_default_context(cafile=str(authority.file))
    context.minimum_version = context.maximum_version = version

    def ask(session=None):
        raw = socket.create_connection(("127.0.0.1", program.port), 5)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
            connection.sendall(GET)
            assert connection.recv(4_096).startswith(b"HTTP/1.1 200")
            return connection.session, connection.session_reused, connection.getpeercert()["serialNumber"]

    before, _, first = ask()
    with connect(program.port, authority) as standing:
        standing.sendall(GET[:9])
        install(files, second)
        wait_until(lambda: reloads(program, "success") >= 1, what="the reload")
        # Four tries each, for the kernel spreads connections over the two loops.
        assert {ask(before)[1:] for _ in range(4)} == {(True, first)}
        fresh = [ask() for _ in range(4)]
        assert {seen[1:] for seen in fresh} == {(False, pki.serial(second.certificate))}
        assert ask(fresh[0][0])[1:] == (True, pki.serial(second.certificate))
        standing.sendall(GET[9:])
        assert standing.recv(4_096).startswith(b"HTTP/1.1 200")
    assert admin.total(admin.metrics(program)["swiftlet_tls_handshake_failures"]) == 0


@pytest.mark.parametrize("broken", ["garbage", "empty", "foreign key", "missing"])
def test_broken_files_keep_the_old_certificate(program, files, authority, broken):
    first, second = shown(program, authority), authority.issue("second", "DNS:localhost")
    match broken:
        case "garbage":
            files.certificate.write_text("-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n")
        case "empty":
            files.key.write_text("")
        case "foreign key":
            replace(files.key, second.key)
        case "missing":
            files.certificate.unlink()
    wait_until(lambda: reloads(program, "failure") == 1, what="the failure counted")
    assert shown(program, authority) == first
    install(files, second)
    wait_until(lambda: shown(program, authority) == pki.serial(second.certificate), what="the repaired certificate")
    told = [line for line in program.stderr_lines if "TLS files not reloaded" in line]
    assert len(told) == 1 and str(files.key if broken in ("empty", "foreign key") else files.certificate) in told[0], told


@pytest.mark.parametrize("first", ["key", "certificate"])
def test_key_of_another_kind_under_load(program, files, authority, first):
    """A renewal with a new key is two files, and between them they do not match: nobody meets that, and nobody is dropped."""
    renewed = authority.issue("renewed", "DNS:localhost", kind="rsa")
    expected, ended, failures = pki.serial(renewed.certificate), threading.Event(), []

    def ask_for_ever():
        while not ended.is_set():
            try:
                with connect(program.port, authority) as connection:
                    connection.sendall(GET)
                    assert connection.recv(4_096).startswith(b"HTTP/1.1 200")
            except (OSError, AssertionError) as error:
                failures.append(error)

    clients = [threading.Thread(target=ask_for_ever) for _ in range(2)]
    for client in clients:
        client.start()
    replace(*((files.key, renewed.key) if first == "key" else (files.certificate, renewed.certificate)))
    wait_until(lambda: reloads(program, "failure") == 1, what="the half that does not match to be seen")
    replace(*((files.certificate, renewed.certificate) if first == "key" else (files.key, renewed.key)))
    wait_until(lambda: shown(program, authority) == expected, what="the new certificate")
    assert {shown(program, authority) for _ in range(8)} == {expected}
    ended.set()
    for client in clients:
        client.join(5)
    assert not failures, failures[:3]


def test_kubernetes_volume(start, tmp_path, authority):
    """tls.crt -> ..data/tls.crt, ..data -> ..1: an update makes ..2 and renames a new link over ..data."""
    volume = tmp_path / "volume"
    volume.mkdir()

    def publish(version, identity):
        folder = volume / f"..{version}"
        folder.mkdir()
        (folder / "tls.crt").write_bytes(identity.certificate.read_bytes())
        (folder / "tls.key").write_bytes(identity.key.read_bytes())
        (volume / "..data_tmp").symlink_to(folder.name)
        os.rename(volume / "..data_tmp", volume / "..data")

    publish(1, authority.issue("first", "DNS:localhost"))
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    mounted = pki.Identity(volume / "tls.crt", volume / "tls.key")
    program = start(processes.serve, "http://127.0.0.1:9", admin=True, arguments=mounted.arguments())
    for version in (2, 3):
        fresh = authority.issue(f"v{version}", "DNS:localhost")
        publish(version, fresh)
        wait_until(lambda new=fresh: shown(program, authority) == pki.serial(new.certificate), what="the new version")
    assert reloads(program, "failure") == 0


def test_sighup(program, files, authority):
    """Renews also what has not changed, and says at once what is wrong."""
    before = shown(program, authority)
    program.signal(signal.SIGHUP)
    wait_until(lambda: reloads(program, "success") == 1, what="the reload")
    assert shown(program, authority) == before
    files.certificate.write_text("")
    program.signal(signal.SIGHUP)
    wait_until(lambda: reloads(program, "failure") == 1, what="the failure")
    assert program.process.poll() is None and shown(program, authority) == before


def test_clients_authority(start, tmp_path, authority):
    """A client whose authority is not trusted any more is refused, its session from before included; one of the new authority is
    taken, and a connection that stands goes on. A session is for the authorities under which it began."""
    other = pki.Authority(tmp_path, "other")
    trusted, config = tmp_path / "clients.pem", tmp_path / "s.yaml"
    trusted.write_bytes(authority.file.read_bytes())
    server, friend = authority.issue("server", "DNS:localhost"), authority.issue("friend")
    config.write_text(
        f"listeners: [{{address: 127.0.0.1:0, tls: {{{server.yaml()}, client_certificates: required, "
        f"client_ca_file: {trusted}}}}}]\nadmin: 127.0.0.1:0\ngroups: [{{leader: http://127.0.0.1:9}}]\n"
    )
    program = start(lambda: processes.Program("serve", "--config", config).wait_ready(admin=True))
    context, new = (ssl.create_default_context(cafile=str(authority.file)) for _ in range(2))
    context.load_cert_chain(friend.certificate, friend.key)
    successor = other.issue("successor")
    new.load_cert_chain(successor.certificate, successor.key)

    def ask(session=None, context=context):
        raw = socket.create_connection(("127.0.0.1", program.port), 5)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
            connection.sendall(GET)
            assert connection.recv(4_096).startswith(b"HTTP/1.1 200")
            return connection.session, connection.session_reused

    session, _ = ask()
    assert ask(session)[1]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(context=new)
    with connect(program.port, authority, friend) as standing:
        standing.sendall(GET)
        assert standing.recv(4_096).startswith(b"HTTP/1.1 200")
        replace(trusted, other.file)
        wait_until(lambda: reloads(program, "success") == 1, what="the reload")
        for kept in (session, None):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(kept)
        assert not ask(context=new)[1]
        standing.sendall(GET)
        assert standing.recv(4_096).startswith(b"HTTP/1.1 200")
    # Trusted again, but among others: the old session counts for nothing, and a whole handshake takes its place without an error.
    fresh = trusted.with_suffix(".both")
    fresh.write_bytes(other.file.read_bytes() + authority.file.read_bytes())
    replace(trusted, fresh)
    wait_until(lambda: reloads(program, "success") == 2, what="the second reload")
    renewed, reused = ask(session)
    assert not reused and ask(renewed)[1]
