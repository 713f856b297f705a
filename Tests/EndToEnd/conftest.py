"""Fixtures of the end-to-end tests. The program under test is `$SWIFTLET`, default `.build/release/swiftlet`."""

import collections
import os
import resource
import subprocess

import openai
import pytest

import kube_api
import kube_router
import processes
from frame_backend import FrameBackend
from raw_backend import RawBackend
from scripted_backend import Gate, Hub, ScriptedBackend, answer_ok
from waiting import wait_until

#: How many descriptors more than at its beginning this process may have open at the end: gRPC and pytest keep a few.
MOST_LEFT_OPEN = 24


def pytest_configure(config):
    if not os.access(processes.BINARY, os.X_OK):
        pytest.exit(f"{processes.BINARY} is missing: build it with `make build` or set SWIFTLET", returncode=2)
    # A thousand clients, their answers and two ends of each upstream connection live in this one process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000) if hard > 0 else 20_000, hard))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds what the programs of a failed test wrote to stderr."""
    report = (yield).get_result()
    if report.failed:
        for program in getattr(item, "programs", []):
            text = "\n".join(program.stderr_lines[-40:])
            report.sections.append((f"stderr of swiftlet {' '.join(program.arguments)[:200]}", text))


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="session", autouse=True)
def left_open():
    """By test, how many descriptors it left open. The session fails when more than a few are open at its end."""
    left, before = collections.Counter(), open_descriptors()
    yield left
    most = ", ".join(f"{name}: {count}" for name, count in left.most_common(10))
    what = f"all but {MOST_LEFT_OPEN} of the descriptors that the tests opened to be closed; most were left by {most}"
    wait_until(lambda: open_descriptors() <= before + MOST_LEFT_OPEN, 10, what)


@pytest.fixture(autouse=True)
def counts_descriptors(request, left_open):
    before = open_descriptors()
    yield
    left_open[request.node.nodeid] = open_descriptors() - before


@pytest.fixture(scope="session")
def hub():
    """The loop on which scripted backends live."""
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def gate(hub):
    """A gate that is opened at the end at the latest, so that no script outlives its test."""
    gate = Gate(hub)
    yield gate
    gate.open()


@pytest.fixture
def scripted(hub):
    """Makes scripted backends and fails the test when one of their scripts did."""
    backends = []

    def make(script=answer_ok, name=None, **options):
        backend = ScriptedBackend(hub, script, name or f"scripted-{len(backends)}", **options)
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.stop()
    errors = [error for backend in backends for error in backend.errors]
    assert not errors, errors


@pytest.fixture
def raw():
    """Makes backends that speak bytes, from scripts `(connection, head)`."""
    backends = []

    def make(script, **options):
        backends.append(RawBackend(script, **options))
        return backends[-1]

    yield make
    for backend in backends:
        backend.stop()


@pytest.fixture
def by_frames():
    """Makes backends whose test decides every frame."""
    backends = []

    def make(*positional, kind=FrameBackend, **options):
        backends.append(kind(*positional, **options))
        return backends[-1]

    yield make
    for backend in backends:
        backend.stop()


@pytest.fixture
def start(request):
    """Starts programs that end with the test: `start(processes.serve, ...)`, `start(processes.stub, ...)`."""
    programs = request.node.programs = []

    def make(maker, *positional, **named):
        program = maker(*positional, **named)
        programs.append(program)
        return program

    yield make
    for program in programs:
        program.stop()


@pytest.fixture
def serve(start):
    """Starts a router over backends (objects with a `url`, or URLs)."""

    def make(*backends, **named):
        return start(processes.serve, *(getattr(backend, "url", backend) for backend in backends), **named)

    return make


@pytest.fixture
def configured(serve, tmp_path):
    """Starts a router with some lines of configuration. What it asks leaders over HTTP/2 of itself is a matter of those lines that say so."""

    def make(lines, *backends, arguments_after=(), **named):
        file = tmp_path / "swiftlet.yaml"
        speaks_http2 = any(str(getattr(backend, "url", backend)).startswith("h2") for backend in backends)
        if speaks_http2 and "load_signals" not in lines and "--scrape-interval" not in arguments_after:
            lines = f"load_signals: {{interval: 0s}}\n{lines}"
        file.write_text(lines)
        return serve(*backends, arguments=("--config", file, *arguments_after), **named)

    return make


@pytest.fixture
def eager(tmp_path):
    """Arguments of a router that asks its engines for their load as often as may be set, however long they take to answer; and what more
    `load_signals` and the file shall hold."""

    def make(more="", **settings):
        settings = {"interval": "50ms", "load_interval": "50ms", "greatest_share": 1} | settings
        file = tmp_path / "eager.yaml"
        file.write_text(f"load_signals: {{{', '.join(f'{key}: {value}' for key, value in settings.items())}}}\n{more}")
        return ("--config", file, "--log-level", "warning")

    return make


@pytest.fixture
def client(stub):
    """OpenAI's SDK at the module's own `stub`."""
    with openai.OpenAI(base_url=f"{stub.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def fleet():
    """Four fast stub engines in one process."""
    program = processes.stub(replicas=4)
    yield program
    program.stop()


@pytest.fixture(scope="session")
def router(fleet):
    """A router over the fast fleet, for tests that change nothing in it."""
    program = processes.serve(*(f"http://127.0.0.1:{port}" for port in fleet.ports), admin=True)
    yield program
    program.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost: (certificate file, key file)."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def api(hub):
    """Makes API servers, live ones unless it is told of another kind."""
    servers = []

    def make(kind=kube_api.KubeAPI, *positional, authority=None, **named):
        server = kind(hub, *positional, **named)
        server.ca = authority
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def watching(serve, tmp_path):
    """A router that watches through a kubeconfig."""

    def make(kubeconfig, pools=kube_router.POOL, more="", arguments=()):
        file = tmp_path / "swiftlet.yaml"
        snapshot = f"snapshot_file: {tmp_path / 'snapshot.yaml'}, "
        file.write_text(f"discovery: {{{snapshot}kubernetes: {{{more}pools: [{pools}]}}}}\n")
        named = ("--kubeconfig", kubeconfig) if kubeconfig else ()
        return serve(admin=True, arguments=("--config", file, *named, *arguments))

    return make
