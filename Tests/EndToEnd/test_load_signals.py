"""What engines tell of their load: asked for sparingly, believed within bounds, and seen by every router of a fleet."""

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import socket
import threading
import time

import httpx
import pytest

import admin
import processes
import recordings
from scripted_backend import answer_ok
from waiting import wait_until

QUIET = ("--scrape-interval", "0s", "--log-level", "warning")
CHAT = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@contextlib.contextmanager
def running(*programs):
    try:
        yield programs if len(programs) > 1 else programs[0]
    finally:
        for program in programs:
            program.stop()


def load(router, index=0):
    return admin.groups(router)[index]["raw"].get("load") or {}


def scrapes(router, outcome):
    return sum(
        sample.value
        for family in admin.metrics(router).values()
        for sample in family.samples
        if sample.name == "swiftlet_load_scrapes_total" and sample.labels["outcome"] == outcome
    )


def ask(url, headers=None, **fields):
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT | fields, headers=headers or {}, timeout=20)


def configure(stub, patch):
    assert httpx.post(f"{stub.url}/admin/config", json=patch).status_code == 200


class Asker(threading.Thread):
    """Keeps one long answer under way."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url = url
        self.stopped = threading.Event()
        self.start()

    def run(self):
        body = CHAT | {"max_tokens": 400, "stream": True, "ignore_eos": True}
        while not self.stopped.is_set():
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=20) as answer,
            ):
                for _ in answer.iter_raw():
                    if self.stopped.is_set():
                        break


@contextlib.contextmanager
def busy(url, count):
    askers = [Asker(url) for _ in range(count)]
    try:
        yield
    finally:
        for asker in askers:
            asker.stopped.set()
        for asker in askers:
            asker.join(10)


def test_capacity_and_load_come_from_metrics(eager):
    with running(processes.stub()) as stub, running(processes.serve(stub.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: load(router).get("outcome") == "ok", what="a scrape")
        state = admin.groups(router)[0]["raw"]
        assert state["load"]["engine"] == "vllm"
        assert state["kv_capacity_tokens"] != 500_000, "the engine's own, not what was assumed"
        assert state["load"]["running"] == 0 and state["load"]["kv_usage"] == 0
        metrics = admin.metrics(router)
        for name in ("swiftlet_load_report_age_seconds", "swiftlet_load_scrape_bytes", "swiftlet_load_scrape_seconds"):
            assert metrics[name].samples, name


def test_two_routers_see_each_others_load(eager):
    with running(processes.stub(decode_ms=10)) as stub:
        routers = [processes.serve(stub.url, admin=True, arguments=eager()) for _ in range(2)]
        with running(*routers), busy(routers[0].url, 4):
            seen = wait_until(lambda: (r := load(routers[1])).get("others_running", 0) > 2.5 and r, 10, "others' load")
            assert admin.in_flight(routers[1]) == [0]
            assert seen["others_running"] < 8
            mine = wait_until(lambda: (r := load(routers[0])).get("running", 0) >= 4 and r, 10, "our own load reported")
            assert mine["others_running"] < 2, "what is ours is not others'"


@contextlib.contextmanager
def prefilling(url, prompt):
    """A request of another client, whose prompt is being computed until it goes away."""
    body = json.dumps(CHAT | {"messages": [{"role": "user", "content": prompt}]}).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield


def gauge(stub, name):
    families = text_families(httpx.get(f"{stub.url}/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def test_the_stub_counts_when_vllm_does():
    """Look-ups when a prompt is scheduled, the prompt and its first token when that comes, the end at the end, an abort nowhere."""
    names = (
        "prefix_cache_queries_total",
        "prompt_tokens_total",
        "prompt_tokens_by_source_total",
        "time_to_first_token_seconds_count",
        "request_success_total",
    )
    with running(processes.stub(prefill_us=100, decode_ms=20)) as stub:

        def counts():
            return [gauge(stub, f"vllm:{name}") for name in names]

        def settled(number):
            wait_until(lambda: gauge(stub, "vllm:num_requests_running") == number, what=f"{number} in the batch")
            return counts()

        with prefilling(stub.url, "some words " * 30_000):
            looked_up, *others = settled(1)
            assert looked_up > 20_000 and others == [0, 0, 0, 0]
        assert settled(0) == [looked_up, 0, 0, 0, 0]
        with httpx.stream("POST", f"{stub.url}/v1/chat/completions", json=CHAT | {"max_tokens": 400, "stream": True}, timeout=20) as answer:
            next(line for line in answer.iter_lines() if '"content":"' in line.replace('": "', '":"') and '"content":""' not in line)
            queries, prompt, sources, first_tokens, ended = counts()
            assert queries - looked_up == prompt == sources > 0
            assert (first_tokens, ended) == (1, 0)
        assert settled(0) == [queries, prompt, prompt, 1, 0]
        assert ask(stub.url).status_code == 200
        assert settled(0)[3:] == [2, 1]
        assert gauge(stub, "vllm:prompt_tokens_total") == gauge(stub, "vllm:prompt_tokens_by_source_total") > prompt


def test_what_others_have_prefilled_is_seen_though_no_queue_tells_it(eager):
    """vLLM takes a prompt from its queue as soon as it computes the first chunk of it: seconds of work that no gauge shows."""
    with running(processes.stub(prefill_us=400, decode_ms=20), processes.stub()) as (loaded, free):
        backends = [loaded.url, free.url]
        with running(processes.serve(*backends, admin=True, arguments=eager())) as router:

            def seen():
                return next(g for g in admin.groups(router) if g["raw"]["leader"] in loaded.url)["raw"].get("load") or {}

            def known(name):
                return admin.total(admin.metrics(router)[name], group=router_group)

            router_group = next(g["raw"]["name"] for g in admin.groups(router) if g["raw"]["leader"] in loaded.url)
            # From a first reading among prefills nothing could be told of them.
            wait_until(lambda: seen().get("awaiting_first_token") == 0, 20, "an empty engine")
            with busy(loaded.url, 2):
                decoding = wait_until(lambda: (r := seen()).get("others_running", 0) > 1.5 and r, 20, "others' answers")
                assert decoding["others_waiting"] < 0.5
                with prefilling(loaded.url, "some words " * 30_000):
                    told = wait_until(lambda: (r := seen()).get("others_waiting", 0) > 0.5 and r, 20, "others' prompt")
                    assert gauge(loaded, "vllm:num_requests_waiting") == 0 and told["waiting"] == 0
                    assert told["awaiting_first_token"] == 1 and told["prefill_tokens"] > 20_000
                    assert known("swiftlet_reported_awaiting_first_token") == 1
                    assert known("swiftlet_reported_prefill_tokens") == told["prefill_tokens"]
                    for index in range(8):
                        answer = ask(router.url, messages=[{"role": "user", "content": f"{index} {0:0400}"}])
                        assert answer.headers["x-served-by"].endswith(free.url.rsplit(":")[-1])
                    assert gauge(loaded, "vllm:num_requests_running") >= 3, "all the while it was being computed"
                wait_until(lambda: (r := seen())["others_waiting"] < 0.1 and r["awaiting_first_token"] == 0, 20, "its end")
            wait_until(lambda: (r := seen())["others_running"] < 0.1 and r["prefill_tokens"] == 0, 20, "nobody")


def test_no_storm_of_scrapes(eager):
    """One question at a time, no more often than told, whatever the traffic."""
    with running(processes.stub()) as stub:
        with running(processes.serve(stub.url, admin=True, arguments=eager(interval="200ms"))) as router:
            began = time.monotonic()
            while time.monotonic() - began < 1:
                assert ask(router.url).status_code == 200
            elapsed = time.monotonic() - began + 0.2
            counted = sum(
                sample.value
                for family in text_families(httpx.get(f"{stub.url}/metrics").text)
                for sample in family.samples
                if sample.name == "http_requests_total" and sample.labels.get("handler") == "/metrics"
            )
            assert 1 <= counted <= 2 + elapsed / 0.16


class SlowLookUps:
    """An engine that takes its time over every look-up of its load, and counts those that are under way at once."""

    def __init__(self, scripted, slow, seconds):
        self.slow, self.seconds = slow, seconds
        self.under_way = self.most = self.begun = self.ended = 0
        self.backend = scripted(self.script)
        self.backend._is_background = lambda request: False

    async def script(self, exchange):
        path = exchange.request.path
        if path not in (b"/metrics", b"/load"):
            return await exchange.answer(404, b"")
        self.begun += 1
        # A look-up that was given up before this one began is known to be over a moment later.
        for _ in range(20):
            if self.under_way:
                await asyncio.sleep(0.001)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if path == self.slow and self.seconds is DRIPPED:
                await exchange.head(200, ((b"content-type", b"text/plain"), (b"content-length", b"1000000")))
            while path == self.slow:
                with contextlib.suppress(asyncio.TimeoutError):
                    return await asyncio.wait_for(exchange.peer_gone(), self.seconds or 0.02)
                if self.seconds is not DRIPPED:
                    break
                await exchange.send(b"#")
            if path == b"/load":
                return await exchange.answer(200, b'{"server_load":3}')
            text = f"vllm:num_requests_running 3\nvllm:generation_tokens_total {self.begun}\n"
            await exchange.answer(200, text.encode(), fields=((b"content-type", b"text/plain"),))
        finally:
            self.under_way -= 1
            self.ended += 1


# Seconds that a look-up takes: several of its intervals; longer than anybody waits; for ever, byte by byte.
SLOW, SILENT, DRIPPED = 0.5, 60, None


@pytest.mark.parametrize(
    ("path", "seconds", "count"),
    [
        (b"/metrics", SLOW, 1),
        (b"/metrics", SILENT, 3),
        (b"/metrics", DRIPPED, 3),
        (b"/load", SLOW, 4),
        (b"/load", SILENT, 3),
        (b"/load", DRIPPED, 3),
    ],
    ids=["slow-metrics", "silent-metrics", "dripped-metrics", "slow-load", "silent-load", "dripped-load"],
)
def test_an_engine_is_never_asked_twice_at_once(scripted, eager, path, seconds, count):
    """Its answers take longer than the interval, or never come: a look-up begins when the last is answered or given up."""
    engine = SlowLookUps(scripted, path, seconds)
    arguments = eager(timeout="5s" if seconds == SLOW else "150ms")
    with running(processes.serve(engine.backend.url, admin=True, arguments=arguments)):
        wait_until(lambda: engine.ended > count, 20, what="look-ups one after the other")
        assert engine.most == 1


def test_an_engine_that_answers_slowly_is_left_alone_the_longer(scripted, eager):
    """No more of its time than the share that is set goes into answers: ten times as long as one takes passes before the next question."""
    times = []

    async def script(exchange):
        if exchange.request.path != b"/metrics":
            return await exchange.answer(404, b"")
        began = time.monotonic()
        await asyncio.sleep(0.04)
        times.append((began, time.monotonic()))
        await exchange.answer(200, b"vllm:num_requests_running 0\n", fields=((b"content-type", b"text/plain"),))

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager(greatest_share=0.1))):
        wait_until(lambda: len(times) >= 3, 20, "questions")
    for (_, answered), (asked, _) in itertools.pairwise(times):
        assert asked - answered > 0.75 * 10 * 0.04


def test_a_group_that_comes_again_is_not_asked_twice_at_once(scripted, eager, tmp_path):
    """What was being asked of the group that went is given up with it."""
    engine, other = SlowLookUps(scripted, b"/metrics", SILENT), scripted(answer_ok)
    file = tmp_path / "groups.json"

    def write(*backends):
        beside = file.with_suffix(".new")
        groups = [{"name": backend.name, "leader": backend.url} for backend in backends]
        beside.write_text(json.dumps({"groups": groups}))
        os.replace(beside, file)

    write(engine.backend, other)
    with running(processes.serve(admin=True, arguments=("--groups-file", file, *eager(timeout="20s")))) as router:
        for turn in range(1, 4):
            wait_until(lambda turn=turn: engine.begun == turn, what="a look-up that is not answered")
            write(other)
            wait_until(lambda: len(admin.groups(router)) == 1, what="the group to go")
            write(engine.backend, other)
        assert engine.most == 1


def text_families(text):
    from prometheus_client.parser import text_string_to_metric_families

    return text_string_to_metric_families(text)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"stall": {"path": "/metrics"}}, "timeout"),
        ({"error": {"status": 404, "path": "/metrics"}}, "missing"),
        ({"error": {"status": 401, "path": "/metrics"}}, "refused"),
        ({"error": {"status": 500, "path": "/metrics"}}, "error"),
        ({"close": {"path": "/metrics"}}, "unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metrics_that_fail_do_not_fail_requests(eager, fault, outcome):
    with running(processes.stub()) as stub:
        configure(stub, {"faults": fault})
        with running(processes.serve(stub.url, admin=True, arguments=eager(timeout="100ms"))) as router:
            wait_until(lambda: scrapes(router, outcome), what=outcome)
            assert ask(router.url).status_code == 200
            assert not admin.groups(router)[0]["blamed"]


NONSENSE = b"""vllm:num_requests_running NaN
vllm:num_requests_waiting -7
vllm:kv_cache_usage_perc +Inf
vllm:cache_config_info{block_size="999999999999999999",num_gpu_blocks="999999999999999999"} 1
vllm:cache_config_info{block_size="16",num_gpu_blocks="-1"} 1
vllm:lora_requests_info{max_lora="-3",running_lora_adapters="a"} NaN
"""


@pytest.mark.parametrize(
    ("body", "fields", "outcome"),
    [
        (NONSENSE, [(b"content-type", b"text/plain")], "ok"),
        (gzip.compress(b"vllm:num_requests_running 3\n" * 9), [(b"content-encoding", b"gzip")], "unknown"),
        (b"<html>It works!</html>", [(b"content-type", b"text/html")], "unknown"),
        (b'{"vllm:num_requests_running": 3}', [(b"content-type", b"application/json")], "unknown"),
        (b"# a comment\n" * 900_000, [(b"content-type", b"text/plain")], "too_large"),
        (None, [(b"content-type", b"text/plain")], "timeout"),
    ],
    ids=["nonsense", "gzip", "html", "json", "10MB", "dripped"],
)
def test_metrics_that_say_nothing_change_nothing(scripted, eager, body, fields, outcome):
    async def script(exchange):
        if exchange.request.path != b"/metrics":
            return await (answer_ok(exchange) if exchange.request.method == b"POST" else exchange.answer(404, b""))
        if body is not None:
            return await exchange.answer(200, body, fields=fields)
        await exchange.head(200, (*fields, (b"content-length", b"1000")))
        while True:
            await exchange.send(b"v")
            await asyncio.sleep(0.02)

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager(timeout="200ms"))) as router:
        before = admin.groups(router)[0]["raw"]
        wait_until(lambda: scrapes(router, outcome), what=outcome)
        assert ask(router.url).status_code == 200
        after = admin.groups(router)[0]["raw"]
        assert after["kv_capacity_tokens"] == before["kv_capacity_tokens"] and "obstacle" not in after
        told = after["load"]
        assert [told[f"others_{name}"] for name in ("running", "waiting", "active_kv_tokens")] == [0, 0, 0]
        assert "running" not in told and "waiting" not in told


@pytest.mark.parametrize(
    "report",
    [
        b"TEXT named_metrics.kv_cache_usage_perc=NaN, named_metrics.num_requests_waiting=-3, max_token_capacity=1e308",
        b'JSON {"named_metrics":{"num_requests_waiting":1e999,"kv_cache_usage_perc":-1}}',
        b"BIN ////",
        b"TEXT max_token_capacity=0.5",
        b"TEXT " + b"num_requests_waiting=9," * 900,
    ],
    ids=["text", "json", "binary", "fraction", "long"],
)
def test_reports_of_nonsense_change_nothing(scripted, report):
    async def script(exchange):
        await exchange.answer(200, b"{}", fields=((b"content-type", b"application/json"), (b"endpoint-load-metrics", report)))

    with running(processes.serve(scripted(script).url, admin=True)) as router:
        before = admin.groups(router)[0]["raw"]
        assert [ask(router.url).status_code for _ in range(3)] == [200] * 3
        after = admin.groups(router)[0]["raw"]
        assert after["kv_capacity_tokens"] == before["kv_capacity_tokens"]
        assert not any((after.get("load") or {}).get(f"others_{name}") for name in ("running", "waiting", "active_kv_tokens"))


def test_frozen_metrics_of_a_busy_engine_are_stale(eager):
    arguments = eager(load_interval="0s")
    with running(processes.stub(decode_ms=10)) as stub:
        with running(processes.serve(stub.url, admin=True, arguments=arguments)) as router, busy(router.url, 2):
            wait_until(lambda: load(router).get("running", 0) >= 2, what="a busy engine")
            configure(stub, {"faults": {"stale-metrics": {}}})
            wait_until(lambda: scrapes(router, "stale"), what="a stale answer")
            age = load(router)["age_seconds"]
            wait_until(lambda: load(router)["age_seconds"] > age + 0.3, what="an age that grows")
            configure(stub, {"faults": {"stale-metrics": None}})
            wait_until(lambda: load(router)["age_seconds"] < 0.3, what="fresh again")


def test_counters_that_go_back_empty_the_index(eager):
    with running(processes.stub()) as stub, running(processes.serve(stub.url, admin=True, arguments=eager())) as router:
        assert ask(router.url, messages=[{"role": "user", "content": "x" * 4_000}]).status_code == 200
        assert admin.groups(router)[0]["raw"]["prefix_index_blocks"] > 0
        # Both of the next two readings count more than none.
        before = scrapes(router, "ok")
        wait_until(lambda: scrapes(router, "ok") > before + 1, what="a reading with tokens in it")
        configure(stub, {"faults": {"reset-metrics": {"times": 1}}})
        wait_until(lambda: load(router).get("restarts") == 1, what="a restart seen")
        assert admin.groups(router)[0]["raw"]["prefix_index_blocks"] == 0


def test_an_engine_reports_its_load_with_answers():
    with running(processes.stub()) as stub:
        arguments = ("--orca", "text", *QUIET)
        with running(processes.serve(stub.url, admin=True, arguments=arguments)) as router:
            answer = ask(router.url)
            assert answer.status_code == 200
            assert "endpoint-load-metrics" not in answer.headers, "only the router asked"
            assert load(router)["waiting"] == 0 and load(router)["age_seconds"] < 20
            answer = ask(router.url, headers={"endpoint-load-metrics-format": "JSON"})
            assert json.loads(answer.headers["endpoint-load-metrics"].removeprefix("JSON "))["named_metrics"]
            reports = admin.metrics(router)["swiftlet_load_reports_in_answers"]
            assert admin.total(reports, "_total", outcome="read") == 2


def test_nothing_is_asked_for_that_is_off():
    with running(processes.stub()) as stub, running(processes.serve(stub.url, admin=True, arguments=QUIET)) as router:
        answer = ask(router.url)
        assert answer.status_code == 200 and "endpoint-load-metrics" not in answer.headers
        assert load(router) == {}
        assert 'handler="/metrics"' not in httpx.get(f"{stub.url}/metrics").text


METRICS = {
    "vllm-life/queue_metrics_busy.resp": ("vllm", 3, 2_097_152),
    "vllm-dp2/metrics_end.resp": ("vllm", 0, 4_194_304),
    "llama/metrics_busy.resp": ("llama.cpp", None, 500_000),
}


@pytest.mark.skipif(not recordings.FOLDER.is_dir(), reason="no recordings")
@pytest.mark.parametrize("name", METRICS)
def test_recorded_engines_are_understood(scripted, eager, name):
    engine, count, capacity = METRICS[name]
    answer = (recordings.FOLDER / name).read_bytes()

    async def script(exchange):
        await exchange.send(answer if exchange.request.path == b"/metrics" else NOT_FOUND)

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: load(router).get("engine") == engine, what=engine)
        state = admin.groups(router)[0]["raw"]
        assert count is None or state["load"]["running"] == count
        assert state["kv_capacity_tokens"] == capacity


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def test_a_cheap_count_is_preferred_where_there_is_one(scripted, eager):
    """vLLM with --enable-server-load-tracking: /load tells the load, and /metrics is asked for less often."""
    paths = []

    async def script(exchange):
        paths.append(exchange.request.path)
        if exchange.request.path == b"/load":
            return await exchange.answer(200, b'{"server_load":7}')
        if exchange.request.path == b"/metrics":
            text = f"vllm:num_requests_running 7\nvllm:generation_tokens_total {len(paths)}\n"
            return await exchange.answer(200, text.encode(), fields=((b"content-type", b"text/plain"),))
        await exchange.answer(404, b"")

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: paths.count(b"/load") >= 2, what="more than one /load")
        assert load(router)["in_flight"] == 7
        assert load(router)["others_running"] > 5


async def missing(exchange):
    await exchange.answer(404, b"")


def sglang(scripted, loads, other=missing):
    """An engine that has SGLang's /metrics, 2 running and 6 waiting, answers the question for its loads with `loads(exchange, count)`, and all
    else with `other(exchange)`."""
    targets = []

    async def script(exchange):
        targets.append(exchange.request.target)
        if exchange.request.path == b"/metrics":
            text = f"sglang:num_running_reqs 2\nsglang:num_queue_reqs 6\nsglang:token_usage 0.5\nsglang:generation_tokens_total {len(targets)}\n"
            return await exchange.answer(200, text.encode(), fields=((b"content-type", b"text/plain"),))
        if exchange.request.path == b"/v1/loads":
            return await loads(exchange, sum(target.startswith(b"/v1/loads") for target in targets))
        await other(exchange)

    backend = scripted(script)
    backend._is_background = lambda request: False
    return backend, targets


def loads_text(waiting, tokens, ready="sglang_num_prealloc_ready_tokens"):
    """What SGLang says with format=prometheus, as of September 2026."""
    figures = {"sglang_num_running_reqs": 5, "sglang_num_waiting_reqs": waiting, "sglang_num_waiting_uncached_tokens": tokens, ready: 0}
    lines = [f'# TYPE {name} gauge\n{name}{{dp_rank="0"}} {value}\n' for name, value in (figures | {"sglang_token_usage": 0.25}).items()]
    return "".join(lines).encode()


def queue_wait(router):
    return httpx.post(f"{router.admin_url}/explain", json=CHAT, timeout=10).json()["groups"][0]["seconds"]["queue_wait"]


def test_sglang_tells_the_tokens_of_its_queue(scripted, eager):
    async def loads(exchange, count):
        await exchange.answer(200, loads_text(1, 100_000), fields=((b"content-type", b"text/plain"),))

    backend, targets = sglang(scripted, loads)
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: sum(target.startswith(b"/v1/loads") for target in targets) >= 3, what="more than two answers")
        assert {target for target in targets if b"load" in target} == {b"/v1/loads?include=core&format=prometheus"}
        told = load(router)
        assert (told["engine"], told["running"], told["waiting"], told["queued_tokens"]) == ("sglang", 5, 1, 100_000)
        rate = admin.groups(router)[0]["raw"]["prefill_tokens_per_second"]
        wait_until(lambda: queue_wait(router) > 90_000 / rate, what="a queue of so many tokens")


def old(status, body=b""):
    async def loads(exchange, count):
        await exchange.answer(status, body, fields=((b"content-type", b"text/plain"),))

    return loads


async def never(exchange, count):
    await asyncio.sleep(5)


async def reset(exchange, count):
    exchange.reset()


async def endless(exchange, count):
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    with contextlib.suppress(Exception):
        while True:
            await exchange.send(b"sglang_num_waiting_reqs 1\n" * 1_000)


@pytest.mark.parametrize(
    "loads",
    [old(404), old(401), old(500), old(200), old(200, b"{}"), old(200, b"sglang_num_running_reqs NaN\n"), never, reset, endless],
    ids=["missing", "refused", "error", "empty", "json", "nonsense", "silent", "reset", "endless"],
)
def test_sglang_without_loads_is_asked_for_its_metrics(scripted, eager, loads):
    asked = []

    async def at_their_time(exchange, count):
        asked.append(time.monotonic())
        await loads(exchange, count)

    backend, targets = sglang(scripted, at_their_time)
    arguments = eager(timeout="100ms" if loads is never else "1s")
    with running(processes.serve(backend.url, admin=True, arguments=arguments)) as router:
        wait_until(lambda: b"/v1/loads?include=core&format=prometheus" in targets, what="the question")
        wait_until(lambda: targets.count(b"/metrics") >= 15, 20, "many readings")
        told = load(router)
        assert (told["running"], told["waiting"], told.get("queued_tokens")) == (2, 6, None)
        # Once a minute where there is none, and ever more seldom where there may be one.
        if loads not in (never, reset):
            assert len(asked) == 1
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert all(pause > 0.7 * 0.05 * 2**number for number, pause in enumerate(pauses, 1)), pauses


def test_an_sglang_that_may_count_what_is_cached_is_believed_its_counts_alone(scripted, eager):
    async def loads(exchange, count):
        await exchange.answer(200, loads_text(1, 1e300 if count > 2 else 100_000, ready="sglang_another"))

    backend, targets = sglang(scripted, loads)
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: sum(target.startswith(b"/v1/loads") for target in targets) >= 4, what="answers")
        told = load(router)
        assert (told["running"], told["waiting"], told.get("queued_tokens")) == (5, 1, None)
        assert queue_wait(router) < 1


def test_sglang_whose_loads_fail_for_once_is_asked_again(scripted, eager):
    async def loads(exchange, count):
        if count == 2:
            return exchange.reset()
        await exchange.answer(200, loads_text(3, 1e300 if count > 3 else 700), fields=((b"content-type", b"text/plain"),))

    backend, _ = sglang(scripted, loads)
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: load(router).get("queued_tokens") == 700, what="its loads")
        wait_until(lambda: scrapes(router, "unreachable"), what="the failure")
        wait_until(lambda: load(router).get("queued_tokens") == 1e9, 20, "what is absurd, bounded")
        assert load(router)["waiting"] == 3 and 0 < queue_wait(router) < 1e6


def test_tensorrt_llm_tells_it_at_a_path_of_its_own(scripted, eager):
    async def script(exchange):
        if exchange.request.path != b"/prometheus/metrics":
            return await exchange.answer(404, b"")
        text = b"""trtllm_num_requests_running 4
trtllm_num_requests_waiting 2
trtllm_kv_cache_utilization 0.5
trtllm_kv_cache_tokens_per_block 32
trtllm_kv_cache_max_blocks 1000
"""
        await exchange.answer(200, text, fields=((b"content-type", b"text/plain"),))

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: load(router).get("engine") == "tensorrt-llm", what="its load")
        assert (load(router)["running"], load(router)["waiting"]) == (4, 2)
        assert admin.groups(router)[0]["raw"]["kv_capacity_tokens"] == 32_000


def test_an_endless_answer_is_given_up(scripted, eager):
    async def script(exchange):
        if exchange.request.path != b"/metrics":
            return await exchange.answer(404, b"")
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        with contextlib.suppress(Exception):
            while True:
                await exchange.send(b"vllm:num_requests_running 1\n" * 1_000)

    backend = scripted(script)
    backend._is_background = lambda request: False
    with running(processes.serve(backend.url, admin=True, arguments=eager())) as router:
        wait_until(lambda: scrapes(router, "too_large"), what="the end of it")
        assert load(router).get("running") is None


def test_retry_after_is_honoured():
    with running(processes.stub(), processes.stub()) as (full, idle):
        configure(full, {"faults": {"error": {"status": 503, "retry_after": 7}}})
        with running(processes.serve(full.url, idle.url, admin=True, arguments=QUIET)) as router:
            for index in range(20):
                prompt = [{"role": "user", "content": f"{index} {0:0300}"}]
                assert ask(router.url, messages=prompt).status_code == 200
            spared = [g["raw"] for g in admin.groups(router) if g["raw"].get("obstacle") == "saturated"]
            assert [g["leader"] for g in spared] == [full.url.removeprefix("http://")]
            assert 2 < spared[0]["obstacle_seconds"] <= 7
