"""Running it: local paths, request ids, access log, metrics, signals, configuration and memory."""

import json
import re
import signal

import httpx
import pytest

import admin
import processes
from scripted_backend import ScriptedBackend, answer_as_asked, answer_ok, answer_stream
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error, sse_payloads

CHAT = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}

# Local paths ---------------------------------------------------------------------------------------------------------


def test_health_readiness_version(router):
    for path in ("/health", "/readiness", "/version"):
        answer = httpx.get(f"{router.url}{path}")
        assert answer.status_code == 200, path
    assert isinstance(httpx.get(f"{router.url}/version").json()["version"], str)


def test_local_paths_are_not_forwarded(serve, scripted):
    backend = scripted()
    program = serve(backend)
    for path in ("/health", "/readiness", "/version", "/v1/models", "/v1/models/none", "/openai/v1/models"):
        ask(program.port, target=path, method="GET", fields=[(b"x-test-case", b"forwarded")])
    assert backend.requests == []


def test_readiness_when_no_group_is_ready(serve):
    program = serve(f"http://127.0.0.1:{processes.unused_port()}")

    def unready():
        ask(program.port, CHAT)
        return ask(program.port, target="/readiness", method="GET").status == 503

    wait_until(unready, what="readiness to say 503")
    assert ask(program.port, target="/health", method="GET").status == 200


def test_no_ready_group_is_a_503_with_retry_after(serve):
    program = serve(f"http://127.0.0.1:{processes.unused_port()}")
    response = wait_until(
        lambda: (answer := ask(program.port, CHAT)).status == 503 and answer, what="503 for want of a group"
    )
    assert_openai_error(response, 503, "no_ready_group")
    assert int(response.value(b"retry-after")) >= 1


# Request ids and the access log --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(hub):
    backend = ScriptedBackend(hub, answer_as_asked, "logged")
    program = processes.serve(backend.url)
    yield program, backend
    program.stop()
    backend.stop()


SOURCES = (b"x-request-id", b"x-correlation-id", b"x-trace-id", b"request-id")


@pytest.mark.parametrize("first", range(4), ids=[name.decode() for name in SOURCES])
def test_request_id_is_taken_in_order(logged, first):
    """From the first of the four that is present, whatever their order in the request."""
    program, backend = logged
    fields = [(name, b"id-%d-from-%s" % (first, name)) for name in reversed(SOURCES[first:])]
    expected = b"id-%d-from-%s" % (first, SOURCES[first])
    response = ask(program.port, CHAT, fields=fields)
    assert response.value(b"x-request-id") == expected
    assert backend.requests[-1].values(b"x-request-id") == [expected]
    for name in SOURCES[max(first, 1) :]:
        assert len(backend.requests[-1].values(name)) == 1, "a field of the client was dropped"
    assert program.access_line(expected.decode())["status"] == 200


def test_request_id_is_made_if_absent(logged):
    program, backend = logged
    made = set()
    for _ in range(5):
        response = ask(program.port, CHAT)
        identifier = response.value(b"x-request-id")
        assert backend.requests[-1].values(b"x-request-id") == [identifier]
        assert len(identifier) >= 16
        program.access_line(identifier.decode())
        made.add(identifier)
    assert len(made) == 5


def test_request_id_over_http2(logged):
    program, backend = logged
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body=CHAT, fields=[(b"x-trace-id", b"over-http2")]))
    assert response.value(b"x-request-id") == b"over-http2"
    assert backend.requests[-1].values(b"x-request-id") == [b"over-http2"]


def test_request_id_on_local_answers_and_errors(logged):
    program, _ = logged
    for target in ("/health", "/v1/models/none"):
        response = ask(program.port, target=target, method="GET", fields=[(b"x-request-id", b"local")])
        assert response.value(b"x-request-id") == b"local"


def test_request_id_of_the_backend_does_not_double(serve, scripted):
    async def script(exchange):
        await exchange.answer(200, b"{}", ((b"x-request-id", b"engine-made"),))

    program = serve(scripted(script))
    assert len(ask(program.port, CHAT, fields=[(b"x-request-id", b"mine")]).values(b"x-request-id")) == 1


def test_access_line(logged):
    program, _ = logged
    ask(program.port, CHAT | {"stream": True}, fields=[(b"x-request-id", b"line-1")])
    line = program.access_line("line-1")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert line["stream"] is True
    assert line["model"] == "stub-model"
    assert line["group"]
    assert line["attempts"] == 1
    assert line["bytes_in"] > 0 and line["bytes_out"] > 0
    assert 0 <= line["ttft_ms"] <= line["duration_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["time"])


def test_access_line_of_a_stub_answer_has_its_usage(router):
    body = CHAT | {"messages": [{"role": "user", "content": "count me " * 50}]}
    for identifier in ("usage-1", "usage-2"):
        usage = ask(router.port, body, fields=[(b"x-request-id", identifier.encode())]).json["usage"]
        line = router.access_line(identifier)
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert line["completion_tokens"] == usage["completion_tokens"] == 3
        assert (line["cached_tokens"] or 0) == ((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def test_access_line_escapes_what_the_client_sends(logged):
    """A hostile id and model must not forge a second line or break the JSON."""
    program, _ = logged
    ask(program.port, b'{"model":"a\\"b\\n{\\u0001","prompt":"x"}', "/v1/completions?q=%22%0a",
        fields=[(b"x-request-id", b'quote"back\\slash')])  # fmt: skip
    assert program.access_line('quote"back\\slash')["status"] == 200


def test_refused_requests_are_logged_too(logged):
    program, _ = logged
    before = len([line for line in program.access_log() if line.get("status") == 400])
    with HTTP1Client(program.port) as client:
        client.send(b"GET /x HTTP/1.1\r\n\r\n")
        assert client.response().status == 400
    wait_until(
        lambda: len([line for line in program.access_log() if line.get("status") == 400]) > before,
        what="a line of the refused request",
    )


# Admin port ----------------------------------------------------------------------------------------------------------


def test_metrics(serve, scripted):
    """Parsed by Prometheus' own parser; the counters say what happened."""
    backends = [scripted(answer_as_asked, models=["stub-model"]) for _ in range(2)]
    program = serve(*backends, admin=True)
    for number in range(7):
        body = CHAT | {"stream": number % 2 == 0, "messages": [{"role": "user", "content": f"{number} " * 50}]}
        assert ask(program.port, body).status == 200

    def settled():
        requests = admin.family(admin.metrics(program), "counter", "requests")
        return admin.total(requests, "_total", model="stub-model") == 7

    wait_until(settled, what="seven requests to be counted")
    families = admin.metrics(program)
    assert all(name.startswith(("swiftlet_", "process_")) for name in families), sorted(families)
    flights = [f for name, f in families.items() if f.type == "gauge" and re.search("in_?flight|running", name)]
    assert flights and all(admin.total(flight) == 0 for flight in flights)
    ttft = next(
        f for name, f in families.items()
        if f.type == "histogram" and re.search("ttft|time_to_first_token|first_token", name)
    )  # fmt: skip
    latency = next(f for name, f in families.items() if f.type == "histogram" and re.search("duration|latency", name))
    for histogram in (ttft, latency):
        assert all({"model", "group"} <= set(sample.labels) for sample in histogram.samples)
    assert admin.total(latency, "_count") == 7
    assert admin.total(ttft, "_count") >= 4  # the four streams at least
    decisions = admin.family(families, "counter", "decisions")
    assert all("reason" in sample.labels for sample in decisions.samples if sample.name.endswith("_total"))
    assert admin.total(decisions, "_total") == 7


def test_histograms_are_cumulative(router):
    assert ask(router.port, CHAT).status == 200
    histograms = [family for family in admin.metrics(router).values() if family.type == "histogram"]
    assert histograms
    for histogram in histograms:
        series = {}
        for sample in histogram.samples:
            key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            kind = sample.name.removeprefix(histogram.name)
            if kind == "_bucket":
                series.setdefault(key, {}).setdefault("buckets", []).append((float(sample.labels["le"]), sample.value))
            else:
                series.setdefault(key, {})[kind] = sample.value
        for key, parts in series.items():
            bounds = [bound for bound, _ in parts["buckets"]]
            counts = [count for _, count in parts["buckets"]]
            assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), (histogram.name, key)
            assert counts == sorted(counts), (histogram.name, key)
            assert counts[-1] == parts["_count"], (histogram.name, key)
            assert "_sum" in parts


def test_groups(serve, scripted, gate):
    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    backends = [scripted(script) for _ in range(2)]
    program = serve(*backends, admin=True)
    groups = admin.groups(program)
    assert len({group["name"] for group in groups}) == 2
    assert [group["ready"] for group in groups] == [True, True]
    assert all(f"127.0.0.1:{backend.port}" in json.dumps([g["raw"] for g in groups]) for backend in backends)
    with HTTP1Client(program.port) as client:
        client.request(body=CHAT)
        wait_until(lambda: sum(admin.in_flight(program)) == 1, what="the request to be booked")
        gate.open()
        assert client.response().status == 200
    wait_until(lambda: sum(admin.in_flight(program)) == 0, what="the booking to be released")


def test_admin_paths_are_not_on_the_data_port(serve, scripted):
    """`/metrics` and `/groups` of the data port are the engine's business, like any path."""
    backend = scripted()
    program = serve(backend, admin=True)
    for path in ("/metrics", "/groups"):
        assert ask(program.port, target=path, method="GET", fields=[(b"x-test-case", b"1")]).status == 200
    assert [request.target for request in backend.requests] == [b"/metrics", b"/groups"]


# Signals -------------------------------------------------------------------------------------------------------------


def streaming_with_gate(gate):
    async def script(exchange):
        await exchange.event_stream_head()
        await exchange.event('{"choices":[]}')
        await gate.wait()
        await exchange.event("[DONE]")
        await exchange.last_chunk()

    return script


def test_sigterm_drains(serve, scripted, gate):
    """What is under way is finished, nothing new is taken, exit status 0."""
    program = serve(scripted(streaming_with_gate(gate)))
    with HTTP1Client(program.port) as client, HTTP2Client(program.port) as other:
        head = client.request(body=CHAT).read_head()
        stream = other.request(body=CHAT)
        while not other.responses[stream].body:
            other.pump()
        program.signal(signal.SIGTERM)
        wait_until(lambda: not program.accepts_connections(), what="the port to be closed")
        assert program.process.poll() is None
        gate.open()
        response = client.read_body(head)
        assert response.complete and sse_payloads(response.body)[-1] == "[DONE]"
        while not other.responses[stream].complete:
            other.pump()
    assert program.wait_exit(5) == 0
    assert len([line for line in program.access_log() if line.get("status") == 200]) == 2


def test_sigterm_when_idle(serve, scripted):
    """An idle keep-alive connection is no reason to stay."""
    program = serve(scripted())
    with HTTP1Client(program.port) as client, HTTP2Client(program.port) as other:
        assert client.request(body=CHAT).response().status == 200
        assert other.response(other.request(body=CHAT)).status == 200
        program.signal(signal.SIGTERM)
        assert program.wait_exit(5) == 0


def test_second_sigint_exits_at_once(serve, scripted, gate):
    program = serve(scripted(streaming_with_gate(gate)))
    with HTTP1Client(program.port) as client:
        client.request(body=CHAT).read_head()
        program.signal(signal.SIGINT)
        wait_until(lambda: not program.accepts_connections(), what="the first SIGINT to take effect")
        assert program.process.poll() is None
        program.signal(signal.SIGINT)
        program.wait_exit(2)


def test_engine_ends_on_sigterm(start):
    engine = start(processes.stub)
    assert ask(engine.port, CHAT).status == 200
    engine.signal(signal.SIGTERM)
    assert engine.wait_exit(7) == 0


# Configuration -------------------------------------------------------------------------------------------------------

REFERENCE = processes.REPOSITORY / "config" / "swiftlet.yaml"


def refused(*arguments):
    done = processes.run("serve", *arguments)
    assert done.returncode == 64, (done.returncode, done.stderr)
    assert "listening on" not in done.stderr
    return done.stderr


def test_unknown_key(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("# a comment\n\npolciy: least-cost\n")
    message = refused("--config", file, "--listen", "127.0.0.1:0")
    assert "polciy" in message and "bad.yaml:3" in message
    assert re.search(r"\bpolicy\b", message), "no suggestion"
    assert processes.run("check", "--config", file).returncode == 64


def test_bad_value(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("loops: 1\npolicy: fastest\n")
    message = refused("--config", file)
    assert "policy" in message and "bad.yaml:2" in message and "fastest" in message and "least-cost" in message


def test_broken_yaml(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("loops: 1\npolicy: [least-cost\n")
    assert "bad.yaml" in refused("--config", file)


def test_missing_file(tmp_path):
    assert "nowhere.yaml" in refused("--config", tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--backend", "ftp://127.0.0.1:1"), ("--backend", "http://127.0.0.1:0"), ("--backend", "http://127.0.0.1:99999"),
     ("--listen", "127.0.0.1:port"), ("--policy", "fastest"), ("--loops", "-1"), ("--tls-cert", "/no/such/file")],
)  # fmt: skip
def test_bad_flags(flag, value):
    arguments = {"--listen": "127.0.0.1:0", "--backend": "http://127.0.0.1:9"} | {flag: value}
    message = refused(*(f"{name}={setting}" for name, setting in arguments.items()))
    assert flag.lstrip("-").split("-")[0] in message


def test_reference_configuration_is_valid_and_its_effective_form_is_stable(tmp_path):
    done = processes.run("check", "--config", REFERENCE)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "effective.yaml"
    again.write_text(done.stdout)
    second = processes.run("check", "--config", again)
    assert second.returncode == 0, second.stderr
    assert second.stdout == done.stdout


def test_port_that_is_taken(serve, scripted):
    """A clear message and an end, not a router that listens nowhere."""
    program = serve(scripted())
    done = processes.run("serve", "--listen", f"127.0.0.1:{program.port}", "--backend", "http://127.0.0.1:9")
    assert done.returncode != 0
    assert str(program.port) in done.stderr


def test_several_listeners(serve, scripted):
    program = serve(scripted(), listeners=2)
    assert len(set(program.ports)) == 2
    assert [ask(port, CHAT).status for port in program.ports] == [200, 200]


# Size and loops ------------------------------------------------------------------------------------------------------


def test_resident_memory_after_start(serve, scripted):
    program = serve(scripted(), admin=True)
    assert program.resident_bytes() < 16 << 20, f"{program.resident_bytes() / (1 << 20):.1f} MiB"


@pytest.mark.parametrize("loops", [1, 2, 4])
def test_any_number_of_loops(serve, scripted, loops):
    program = serve(scripted(answer_stream), scripted(answer_stream), arguments=["--loops", loops])
    assert all(ask(program.port, CHAT | {"stream": True}).complete for _ in range(20))
