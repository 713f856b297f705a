"""The load of engines that speak only gRPC: `GetLoads` in place of `/metrics`, believed within the same bounds."""

import concurrent.futures
import contextlib
import math
import socket
import struct
import threading

import grpc
import h2.events
import httpx
import pytest

import admin
import engine_proto
import pki
import processes
from engine_proto import MESSAGES, SGLANG_MESSAGES, generate_request
from test_load_signals import load, running, scrapes
from waiting import wait_until

VLLM, SGLANG = f"/{engine_proto.SERVICE}/GetLoads", "/sglang.grpc.scheduler.SglangScheduler/GetLoads"
GENERATE = f"/{engine_proto.SERVICE}/Generate"
CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


def channel_to(port):
    return grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL)


def h2c(program):
    return f"h2c://127.0.0.1:{program.port}"


def state_of(router, url):
    leader = url.split("//")[1]
    return next(group["raw"] for group in admin.groups(router) if group["raw"]["leader"] == leader)


def generate(channel, text, **sampling):
    return engine_proto.call(channel, "Generate")(generate_request(text=text, **sampling), timeout=30)


@contextlib.contextmanager
def others(engine, count):
    """So many long answers of another client, straight from the engine."""
    with channel_to(engine.port) as channel:
        calls = [generate(channel, f"{n} of others", request_id=f"o-{n}", max_tokens=2_000, ignore_eos=True) for n in range(count)]
        try:
            yield
        finally:
            for call in calls:
                call.cancel()


def test_others_load_is_seen_and_avoided(eager):
    """What another client sends straight to one engine is known to the router, which sends its own elsewhere until it is over."""
    slow = {"decode_ms": 10, "arguments": ["--max-num-seqs", "4", "--max-model-len", "100000"]}
    with (
        running(processes.stub(**slow), processes.stub(**slow)) as (loaded, free),
        running(processes.serve(h2c(loaded), h2c(free), admin=True, arguments=eager())) as router,
    ):

        def told():
            return state_of(router, h2c(loaded)).get("load") or {}

        wait_until(lambda: told().get("outcome") == "ok", what="an answer")
        assert told()["engine"] == "vllm" and "running" not in told(), "no more than zeros so far"
        assert state_of(router, h2c(loaded))["kv_capacity_tokens"] != 500_000, "the engine's own, not what was assumed"
        with others(loaded, 12):
            seen = wait_until(lambda: (r := told()).get("others_waiting", 0) > 6 and r, 10, "others' requests")
            assert seen["running"] == 4 and seen["waiting"] == 8 and 0 < seen["kv_usage"] < 1
            assert 2.5 < seen["others_running"] < 5
            assert admin.in_flight(router) == [0, 0]
            # Once one of its likes has told of load, zeros are believed.
            wait_until(lambda: state_of(router, h2c(free))["load"].get("running") == 0, what="an idle engine")
            unseen = {"model": "stub-model", "messages": [{"role": "user", "content": "nothing of the kind"}]}
            explained = httpx.post(f"{router.admin_url}/explain", json=unseen, timeout=10).json()
            assert explained["group"] == state_of(router, h2c(free))["name"], explained
            with channel_to(router.port) as channel:
                for number in range(8):
                    call = generate(channel, f"{number} of ours {0:0200}", request_id=f"r-{number}", max_tokens=2)
                    assert list(call)
                    served = dict(call.initial_metadata())["x-served-by"]
                    assert served.endswith(str(free.port)), served
        wait_until(lambda: (r := told())["others_running"] < 0.1 and r["others_waiting"] < 0.1, 20, "nobody")
        assert told()["running"] == 0, "zeros of an engine that has told of load are believed"


def test_what_is_ours_is_not_others(eager):
    with (
        running(processes.stub(decode_ms=10)) as engine,
        running(processes.serve(h2c(engine), admin=True, arguments=eager())) as router,
        channel_to(router.port) as channel,
    ):
        calls = [generate(channel, f"{n} of ours", request_id=f"r-{n}", max_tokens=2_000, ignore_eos=True) for n in range(4)]
        seen = wait_until(lambda: (r := load(router)).get("running", 0) == 4 and r, 10, "our own load reported")
        assert seen["others_running"] < 0.5 and seen["others_waiting"] == 0
        for call in calls:
            call.cancel()


def test_an_engine_that_hangs_is_stale(eager):
    """Busy, and nothing has moved since the last answer: what it says grows old."""
    with (
        running(processes.stub(decode_ms=10)) as engine,
        running(processes.serve(h2c(engine), admin=True, arguments=eager())) as router,
        others(engine, 4),
    ):
        wait_until(lambda: load(router).get("running") == 4, what="a busy engine")
        assert httpx.post(f"{engine.url}/pause", timeout=5).status_code == 200
        wait_until(lambda: scrapes(router, "stale"), 20, "a stale answer")
        age = load(router)["age_seconds"]
        wait_until(lambda: load(router)["age_seconds"] > age + 0.3, what="an age that grows")
        assert httpx.post(f"{engine.url}/resume", timeout=5).status_code == 200
        wait_until(lambda: load(router)["age_seconds"] < 0.3, 20, "fresh again")


# A server of grpcio's -------------------------------------------------------------------------------------------------


class LoadServer(grpc.GenericRpcHandler):
    """grpcio's own server with no method but those of `answers`, each a function of request and context."""

    def __init__(self, answers, credentials=None):
        self.answers = answers
        self.asked = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[self])
        if credentials:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        else:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"{'h2' if credentials else 'h2c'}://127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(0).wait(5)

    def service(self, details):
        if details.method.endswith("/GetLoads"):
            self.asked.append(details.method)
        answer = self.answers.get(details.method)
        return answer and grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=MESSAGES["GetLoadsRequest"].FromString,
            response_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        )


def loads_of(*ranks):
    return MESSAGES["GetLoadsResponse"](version="1", dp_rank_count=len(ranks), loads=[MESSAGES["SchedulerLoad"](**rank) for rank in ranks])


def test_smgs_servicer_of_vllm(eager):
    """It knows sequences and the share of the cache, of one rank; and says zeros when it knows nothing."""
    current, calls = [{}], []

    def answer(request, context):
        calls.append((list(request.include), context.time_remaining()))
        return loads_of(*current)

    with (
        running(LoadServer({VLLM: answer})) as engine,
        running(processes.serve(engine.url, admin=True, arguments=eager())) as router,
    ):
        assumed = admin.groups(router)[0]["raw"]["kv_capacity_tokens"]

        def answered_anew():
            before = scrapes(router, "ok")
            wait_until(lambda: scrapes(router, "ok") > before + 1, what="another answer")
            return load(router)

        told = answered_anew()
        assert told["engine"] == "vllm" and not told.keys() & {"running", "waiting", "kv_usage", "age_seconds"}
        current[:] = [{"num_running_reqs": 6, "num_waiting_reqs": 2, "num_total_reqs": 8, "token_usage": 0.25}]
        told = answered_anew()
        assert (told["running"], told["waiting"], told["kv_usage"]) == (6, 2, 0.25)
        assert told["others_running"] > 4 and told["others_waiting"] > 0.5
        assert admin.groups(router)[0]["raw"]["kv_capacity_tokens"] == assumed
        current[:] = [{}]
        told = answered_anew()
        assert (told["running"], told["waiting"]) == (0, 0) and told["others_running"] < 0.1
        assert set(engine.asked) == {VLLM}
        assert all(include == ["core"] and 0 < remaining <= 1 for include, remaining in calls)


@pytest.mark.parametrize(("version", "queued"), [("0.5.18", None), ("0.5.19", 30_000)])
def test_sglang_and_its_ranks(eager, version, queued):
    """Older ones count in what is cached; newer ones send their memory (field 12) and more, whatever they are asked for."""
    ranks = [{"dp_rank": n, "num_running_reqs": 3 + n, "num_waiting_reqs": n, "max_total_num_tokens": 50_000,
              "num_used_tokens": 10_000 * (1 + n), "token_usage": 0.2 * (1 + n), "num_waiting_uncached_tokens": 10_000 * n}
             for n in range(3)]  # fmt: skip
    loads = [SGLANG_MESSAGES["SchedulerLoad"](**rank) for rank in ranks]
    for rank in loads:
        rank.MergeFromString(b"\x62\x04\x20\xd0\x86\x03")
    answer = SGLANG_MESSAGES["GetLoadsResponse"](version=version, dp_rank_count=3, loads=loads).SerializeToString()
    with (
        running(LoadServer({SGLANG: lambda request, context: answer})) as engine,
        running(processes.serve(engine.url, admin=True, arguments=eager())) as router,
    ):
        wait_until(lambda: scrapes(router, "ok") > 1, what="answers")
        told = load(router)
        assert (told["engine"], told["running"], told["waiting"], told.get("queued_tokens")) == ("sglang", 12, 3, queued)
        assert told["kv_usage"] == pytest.approx(0.4)
        assert admin.groups(router)[0]["raw"]["kv_capacity_tokens"] == 150_000
        assert engine.asked[0] == VLLM and set(engine.asked[1:]) == {SGLANG}


def test_an_engine_without_the_call_is_asked_rarely(eager):
    """Both services once; then it is let alone, however often its neighbour is asked."""
    with (
        running(LoadServer({})) as silent,
        running(processes.stub()) as neighbour,
        running(processes.serve(silent.url, h2c(neighbour), admin=True, arguments=eager())) as router,
    ):
        wait_until(lambda: scrapes(router, "missing") == 2, what="both questions")
        before = scrapes(router, "ok")
        wait_until(lambda: scrapes(router, "ok") > before + 10, 20, "many questions to the other")
        assert silent.asked == [VLLM, SGLANG]
        assert scrapes(router, "missing") == 2
        assert not any(group["blamed"] for group in admin.groups(router))


def test_over_tls(eager, tmp_path):
    authority = pki.Authority(tmp_path)
    identity = authority.issue("loads", "IP:127.0.0.1")
    credentials = grpc.ssl_server_credentials([(identity.key.read_bytes(), identity.certificate.read_bytes())])
    arguments = eager(f"upstream_tls: {{ca_file: {authority.file}}}\n")
    with (
        running(LoadServer({VLLM: lambda request, context: loads_of({"num_running_reqs": 5})}, credentials)) as engine,
        running(processes.serve(engine.url, admin=True, arguments=arguments)) as router,
    ):
        wait_until(lambda: load(router).get("running") == 5, what="its load")


def test_a_long_answer_is_given_up(eager):
    """Ten megabytes of ranks."""
    answer = loads_of(*[{"num_running_reqs": 9}] * 1_000).SerializeToString() * 2_500
    with (
        running(LoadServer({VLLM: lambda request, context: answer})) as engine,
        running(processes.serve(engine.url, admin=True, arguments=eager())) as router,
    ):
        wait_until(lambda: scrapes(router, "too_large") > 1, what="the end of it, twice")
        assert "running" not in load(router) and not admin.groups(router)[0]["blamed"]
        assert admin.total(admin.metrics(router)["swiftlet_load_scrape_bytes"]) < 1 << 20


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "missing"),
        (grpc.StatusCode.UNAUTHENTICATED, "refused"),
        (grpc.StatusCode.PERMISSION_DENIED, "refused"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "timeout"),
        (grpc.StatusCode.INTERNAL, "error"),
        (grpc.StatusCode.UNAVAILABLE, "error"),
    ],
)
def test_a_call_that_fails_tells_nothing(eager, code, outcome):
    """SGLang's servicer sends an empty message before the status of a call that failed; most send the status alone."""

    def bare(request, context):
        context.abort(code, "no")

    def with_message(request, context):
        context.set_code(code)
        return loads_of({"num_running_reqs": 9})

    for answer in (bare, with_message):
        with (
            running(LoadServer({VLLM: answer, SGLANG: answer})) as engine,
            running(processes.serve(engine.url, admin=True, arguments=eager())) as router,
        ):
            wait_until(lambda router=router: scrapes(router, outcome), what=outcome)
            assert "running" not in load(router) and not admin.groups(router)[0]["blamed"]


# Servers that go wrong ------------------------------------------------------------------------------------------------

CALL = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]


def framed(message, flag=0):
    return struct.pack(">BI", flag, len(message)) + message


class Engine:
    """A gRPC server whose `GetLoads` is `script(connection, stream)`, called when the question is whole; other calls succeed, or `hang`."""

    def __init__(self, by_frames, script, hang=False):
        self.hang = hang
        self.script = script
        self.paths, self.lock = {}, threading.Lock()
        self.asked = self.under_way = self.most = 0
        self.backend = by_frames(self.answer)
        self.backend._is_background = lambda event: False
        self.url = self.backend.url

    def answer(self, connection, event):
        key = connection, getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            self.paths[key] = dict(event.headers)[b":path"]
            if self.paths[key].endswith(b"/GetLoads"):
                with self.lock:
                    self.asked += 1
                    self.under_way += 1
                    self.most = max(self.most, self.under_way)
        elif isinstance(event, h2.events.StreamReset) and self.paths.get(key, b"").endswith(b"/GetLoads"):
            with self.lock:
                self.under_way -= 1
        elif isinstance(event, h2.events.StreamEnded):
            if self.paths[key].endswith(b"/GetLoads"):
                return self.script(connection, event.stream_id)
            if self.hang:
                return None
            connection.h2.send_headers(event.stream_id, CALL)
            connection.h2.send_data(event.stream_id, framed(MESSAGES["GenerateResponse"]().SerializeToString()))
            connection.h2.send_headers(event.stream_id, OK, end_stream=True)
        return None


def answers(body, head=CALL, trailers=OK):
    def script(connection, stream):
        connection.h2.send_headers(stream, head)
        for start in range(0, len(body), 8_192):
            connection.h2.send_data(stream, body[start : start + 8_192], end_stream=trailers is None and start + 8_192 >= len(body))
        if trailers is not None:
            connection.h2.send_headers(stream, trailers, end_stream=True)

    return script


def resets(connection, stream):
    connection.h2.reset_stream(stream, error_code=2)


def resets_in_the_middle(connection, stream):
    connection.h2.send_headers(stream, CALL)
    connection.h2.send_data(stream, b"\0\0")
    connection.h2.reset_stream(stream, error_code=2)


def leaves(connection, stream):
    connection.socket.shutdown(socket.SHUT_RDWR)


BUSY = loads_of({"num_running_reqs": 9, "num_waiting_reqs": 9}).SerializeToString()
NONSENSE = loads_of(
    {"num_running_reqs": -1, "num_waiting_reqs": -(2**31), "num_used_tokens": -5, "max_total_num_tokens": -1, "token_usage": math.nan},
    {"dp_rank": -1, "num_running_reqs": -7, "num_waiting_reqs": -7, "max_total_num_tokens": -(2**31), "token_usage": -math.inf,
     "gen_throughput": math.inf},
).SerializeToString()  # fmt: skip

SCRIPTS = {
    "silence": (lambda connection, stream: None, "timeout"),
    "a-head-alone": (lambda connection, stream: connection.h2.send_headers(stream, CALL), "timeout"),
    "a-reset": (resets, "unreachable"),
    "a-reset-in-the-middle": (resets_in_the_middle, "unreachable"),
    "a-close": (leaves, "unreachable"),
    "no-status": (answers(framed(BUSY), trailers=None), "unknown"),
    "cut": (answers(framed(BUSY)[:-3]), "unknown"),
    "too-much": (answers(framed(BUSY) + framed(BUSY)), "unknown"),
    "compressed": (answers(framed(BUSY, flag=1)), "unknown"),
    "noise": (answers(framed(bytes(range(64)))), "unknown"),
    "no-ranks": (answers(framed(b"")), "unknown"),
    "html": (answers(b"<html>It works!</html>", [(b":status", b"200"), (b"content-type", b"text/html")], None), "unknown"),
    "404": (answers(b"none", [(b":status", b"404")], None), "missing"),
    "403": (answers(b"none", [(b":status", b"403")], None), "refused"),
    "503": (answers(b"none", [(b":status", b"503")], None), "error"),
    "nonsense": (answers(framed(NONSENSE)), "ok"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_answers_that_say_nothing_change_nothing(by_frames, eager, name):
    script, outcome = SCRIPTS[name]
    engine = Engine(by_frames, script)
    with running(processes.serve(engine.url, admin=True, arguments=eager(timeout="200ms"))) as router:
        before = admin.groups(router)[0]["raw"]
        wait_until(lambda: scrapes(router, outcome), what=outcome)
        with channel_to(router.port) as channel:
            assert len(list(generate(channel, "a prompt"))) == 1
        after = admin.groups(router)[0]["raw"]
        assert after["kv_capacity_tokens"] == before["kv_capacity_tokens"] and "obstacle" not in after
        told = after["load"]
        assert [told[f"others_{kind}"] for kind in ("running", "waiting", "active_kv_tokens")] == [0, 0, 0]
        assert not told.keys() & {"running", "waiting", "kv_usage"}
        assert not admin.groups(router)[0]["blamed"]


@pytest.mark.parametrize("name", ["silence", "a-head-alone"])
def test_one_question_at_a_time(by_frames, eager, name):
    """An answer that never comes is given up before the next is asked for."""
    engine = Engine(by_frames, SCRIPTS[name][0])
    with running(processes.serve(engine.url, admin=True, arguments=eager(timeout="100ms"))):
        wait_until(lambda: engine.asked >= 4, 20, "questions one after the other")
        assert engine.most == 1


def test_an_engine_that_never_tells_is_found_out(by_frames, eager):
    """As vLLM without statistics does, it says zeros, with requests of ours under way; and then no zeros of it count."""
    told, mute = loads_of({"num_running_reqs": 1}).SerializeToString(), loads_of({}).SerializeToString()
    teller, silent = (Engine(by_frames, answers(framed(message)), hang=True) for message in (told, mute))
    with running(processes.serve(teller.url, silent.url, admin=True, arguments=eager())) as router:

        def state():
            return state_of(router, silent.url)

        wait_until(lambda: state().get("load", {}).get("running") == 0, 20, "zeros that are believed")
        with channel_to(router.port) as channel:
            calls = [generate(channel, f"{n} of ours {0:0200}", request_id=f"r-{n}") for n in range(8)]
            wait_until(lambda: state()["in_flight"] > 0, what="a request of ours")
            asked = silent.asked
            wait_until(lambda: silent.asked > asked + 4, what="more than three answers while it is under way")
            age, asked = state()["load"]["age_seconds"], silent.asked
            # Many times as long as it is between two answers.
            wait_until(lambda: state()["load"]["age_seconds"] > age + 0.3, what="an age that grows")
            assert silent.asked > asked + 1
            for call in calls:
                call.cancel()


def test_counts_beyond_belief_are_bounded(by_frames, eager):
    ranks = [{"dp_rank": n, "num_running_reqs": 2**31 - 1, "num_waiting_reqs": 2**31 - 1, "token_usage": 1} for n in range(64)]
    engine = Engine(by_frames, answers(framed(loads_of(*ranks).SerializeToString())))
    with running(processes.serve(engine.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: load(router).get("running"), what="its load")
        assert load(router)["running"] == load(router)["waiting"] == 16_384
        with channel_to(router.port) as channel:
            assert len(list(generate(channel, "a prompt"))) == 1


def test_a_port_for_metrics_goes_before_the_call(by_frames, eager):
    engine = Engine(by_frames, answers(framed(BUSY)))
    with running(processes.stub()) as metrics:
        with running(processes.serve(engine.url, admin=True, arguments=eager(port=metrics.port))) as router:
            wait_until(lambda: scrapes(router, "ok") > 3, what="answers")
            assert engine.asked == 0 and load(router)["running"] == 0
