"""Where requests go: even spread, affinity while it pays, policies and models."""

import asyncio
import json
import threading
from collections import Counter

import httpx
import pytest

import admin
import processes
from scripted_backend import answer_ok
from waiting import wait_until
from wire_clients import HTTP1Client, ask, assert_openai_error


def chat(*turns, **extra):
    """A chat body whose messages alternate between user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
    return {"model": "stub-model", "messages": messages, "max_tokens": 4} | extra


def holding(gate):
    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    return script


# Spread --------------------------------------------------------------------------------------------------------------


async def arrive_at_once(port, bodies, arrived):
    """Sends all requests at the same moment on connections opened before; returns the heads' first lines."""
    pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in bodies))
    for (_, writer), body in zip(pairs, bodies, strict=True):
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    arrived.set()
    lines = await asyncio.gather(*(reader.readline() for reader, _ in pairs))
    for _, writer in pairs:
        writer.close()
    return lines


def test_a_thousand_simultaneous_arrivals(configured, scripted, gate):
    """Distinct prompts of equal size, four equal groups, all held there and none in the router: no group ever has two more than another."""
    backends = [scripted(holding(gate)) for _ in range(4)]
    lines = "routing: {held_requests: 0}\n"
    program = configured(lines, *backends, admin=True, arguments_after=("--policy", "least-cost"))
    bodies = [json.dumps(chat(f"{number:06} " + "filler words " * 100)).encode() for number in range(1_000)]
    sent, answers = threading.Event(), []
    client = threading.Thread(target=lambda: answers.extend(asyncio.run(arrive_at_once(program.port, bodies, sent))))
    client.start()
    samples = []

    def all_held():
        samples.append(admin.in_flight(program))
        return sum(backend.in_flight for backend in backends) == 1_000

    wait_until(all_held, 20, "all requests at the backends")
    samples.append(admin.in_flight(program))
    gate.open()
    client.join(20)
    assert all(line.startswith(b"HTTP/1.1 200") for line in answers) and len(answers) == 1_000
    assert [len(backend.requests) for backend in backends] == [250] * 4
    assert samples[-1] == [250] * 4
    assert all(max(sample) - min(sample) <= 1 for sample in samples), samples
    wait_until(lambda: admin.in_flight(program) == [0] * 4, what="every booking to be released")


def test_requests_without_a_prompt_spread_too(serve, scripted):
    """Equal costs rotate: no group is the favourite of an idle router."""
    backends = [scripted() for _ in range(4)]
    program = serve(*backends)
    for _ in range(80):
        assert ask(program.port, target="/ping-pong", method="GET").status == 200
    assert min(len(backend.requests) for backend in backends) >= 5


def test_new_conversations_spread(serve, scripted):
    backends = [scripted() for _ in range(4)]
    program = serve(*backends)
    for number in range(80):
        assert ask(program.port, chat(f"{number} a question of its own " * 30)).status == 200
    assert min(len(backend.requests) for backend in backends) >= 5


# Affinity ------------------------------------------------------------------------------------------------------------


def test_conversation_keeps_its_group(router):
    """Eight turns on idle engines stay where their cache is, and the engine reports the hits."""
    turns = ["The beginning of a long talk. " * 60]
    served, cached = [], []
    for turn in range(8):
        response = ask(router.port, chat(*turns))
        assert response.status == 200
        served.append(response.served_by)
        usage = response.json["usage"]
        cached.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        turns += [response.json["choices"][0]["message"]["content"], f"Turn {turn}: and then? " * 10]
    assert len(set(served)) == 1, served
    assert all(later > 0 for later in cached[1:]), cached


def test_own_answers_are_not_others_work(start, fleet):
    """An engine has the answer to the last turn too; a router alone expects nothing of others for that."""
    program = start(processes.serve, *(f"http://127.0.0.1:{port}" for port in fleet.ports), admin=True)
    for number in range(8):
        messages = [{"role": "user", "content": f"{number} a beginning of its own " * 100}]
        for turn in range(4):
            body = {"model": "stub-model", "messages": messages, "max_tokens": 400, "ignore_eos": True}
            reply = ask(program.port, body).json["choices"][0]["message"]["content"]
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": f"{turn} and then? " * 20}]
    unseen = {"model": "stub-model", "messages": [{"role": "user", "content": "what nobody has asked " * 1_000}]}
    told = httpx.post(f"{program.admin_url}/explain", json=unseen, timeout=10).json()
    assert [group["others_tokens"] for group in told["groups"]] == [0] * 4


def test_conversations_are_told_apart(router):
    """Several conversations interleaved: each keeps its own group, and not all share one."""
    talks = {name: [f"Conversation {name}. " * 100] for name in range(12)}
    served = {name: [] for name in talks}
    for _ in range(3):
        for name, turns in talks.items():
            response = ask(router.port, chat(*turns))
            served[name].append(response.served_by)
            turns += [response.json["choices"][0]["message"]["content"], "Go on. " * 20]
    assert all(len(set(places)) == 1 for places in served.values()), served
    assert len({places[0] for places in served.values()}) > 1


def test_conversation_leaves_its_group_when_the_queue_costs_more(serve, scripted, gate):
    """Branches of one long conversation, all held: affinity wins at first, recomputing elsewhere wins later."""
    prefix = "A common history of some length. " * 2_000  # 66 KB: recomputing it costs seconds

    async def script(exchange):
        if exchange.request.values(b"x-hold"):
            await gate.wait()
        await exchange.answer(200, b'{"usage":{"prompt_tokens":16500,"completion_tokens":4,"total_tokens":16504}}')

    backends = [scripted(script) for _ in range(2)]
    program = serve(*backends, admin=True, arguments=["--policy", "least-cost"])
    home = ask(program.port, chat(prefix)).served_by
    assert ask(program.port, chat(prefix, "an answer", "a short question")).served_by == home
    before = {backend.name: len(backend.requests) for backend in backends}
    assert sorted(before.values()) == [0, 2]

    held, order = [], []
    for number in range(12):
        client = HTTP1Client(program.port)
        held.append(client)
        branch = f"branch {number} " * 1_600  # about a quarter of the prefix
        client.request(body=chat(prefix, "an answer", branch), fields=[(b"x-hold", b"1")])

        def arrival():
            for backend in backends:
                if len(backend.requests) > before[backend.name]:
                    before[backend.name] = len(backend.requests)
                    return backend.name

        order.append(wait_until(arrival, what="the branch at a backend"))
    gate.open()
    for client in held:
        assert client.response().status == 200
        client.close()
    # The second finds one branch queued at home and nobody elsewhere: waiting for a quarter of the prefix is cheaper
    # than computing all of it. Placement by a hash alone would go home with the first and leave with the second.
    assert order[:2] == [home, home], order
    assert order.count(home) < 12, f"all twelve queued where the cache is: {order}"


def test_model_and_cache_salt_separate_caches(router):
    """The same text under another cache salt shares no cache; it is served all the same."""
    text = "Salted words. " * 200
    plain = [ask(router.port, chat(text)) for _ in range(2)]
    salted = ask(router.port, chat(text, cache_salt="tenant-b"))
    assert plain[0].served_by == plain[1].served_by
    assert salted.status == 200
    assert not (salted.json["usage"].get("prompt_tokens_details") or {}).get("cached_tokens")


# Policies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    ["least-cost", "round-robin", "random", "least-request", "prefix-affinity", "power-of-two", "consistent-hash", "session"],
)
def test_every_policy_serves(serve, scripted, policy):
    backends = [scripted() for _ in range(3)]
    program = serve(*backends, arguments=["--policy", policy])
    for number in range(30):
        assert ask(program.port, chat(f"{number} words of its own " * 20)).status == 200
    counts = [len(backend.requests) for backend in backends]
    assert sum(counts) == 30
    if policy == "round-robin":
        assert counts == [10, 10, 10]
    elif policy != "prefix-affinity":
        assert min(counts) >= 1


def test_least_request_counts_what_is_in_flight(serve, scripted, gate):
    backends = [scripted(holding(gate)) for _ in range(3)]
    program = serve(*backends, arguments=["--policy", "least-request"])
    clients = []
    for _ in range(9):
        clients.append(HTTP1Client(program.port).request(body=chat("the same words")))
        wait_until(lambda: sum(len(b.requests) for b in backends) == len(clients), what="the request at a backend")
        counts = [len(backend.requests) for backend in backends]
        assert max(counts) - min(counts) <= 1
    gate.open()
    for client in clients:
        assert client.response().status == 200
        client.close()


# Models --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_models(serve, scripted):
    backends = [scripted(models=["alpha", "shared"]), scripted(models=["beta", "shared"])]
    program = serve(*backends)
    url = f"{program.url}/v1/models"
    wait_until(
        lambda: {model["id"] for model in httpx.get(url).json()["data"]} == {"alpha", "beta", "shared"},
        what="the union of the engines' model lists",
    )
    return program, backends


def test_models_is_the_union_without_duplicates(two_models):
    program, _ = two_models
    answer = httpx.get(f"{program.url}/v1/models").json()
    assert answer["object"] == "list"
    assert sorted(model["id"] for model in answer["data"]) == ["alpha", "beta", "shared"]
    assert all(model["object"] == "model" for model in answer["data"])
    assert httpx.get(f"{program.url}/v1/models/beta").json()["id"] == "beta"


def test_requests_go_where_their_model_is(two_models):
    program, (alpha, beta) = two_models
    for model, count in (("alpha", 5), ("beta", 5), ("shared", 8)):
        for number in range(count):
            body = chat(f"{number} of {model}") | {"model": model}
            assert ask(program.port, body).status == 200
    assert "beta" not in {request.json["model"] for request in alpha.requests}
    assert "alpha" not in {request.json["model"] for request in beta.requests}


def test_last_of_duplicate_model_keys_counts(two_models):
    """As the engine reads it: routing by the first would send it to the wrong engine."""
    program, (alpha, beta) = two_models
    assert ask(program.port, b'{"model":"beta","model":"alpha","prompt":"x"}', "/v1/completions").status == 200
    assert (len(alpha.requests), len(beta.requests)) == (1, 0)


def test_unknown_model(two_models):
    program, backends = two_models
    assert_openai_error(ask(program.port, chat("x") | {"model": "gamma"}), 404, "model_not_found")
    assert_openai_error(ask(program.port, target="/v1/models/gamma", method="GET"), 404, "model_not_found")
    assert all(backend.requests == [] for backend in backends)


@pytest.mark.parametrize("model", [None, ""], ids=["null", "empty"])
def test_missing_model_is_served(two_models, model):
    program, _ = two_models
    assert ask(program.port, chat("x") | {"model": model}).status == 200
    assert ask(program.port, {"prompt": "no model at all"}, "/v1/completions").status == 200


def test_replicas_share_the_work(router, fleet):
    """Over the whole fleet of stubs, by the name that each answer carries."""
    places = Counter(ask(router.port, chat(f"{number} alone " * 50)).served_by for number in range(60))
    assert set(places) == {f"stub-{port}" for port in fleet.ports}


def test_two_routers_place_a_cold_prompt_alike(start, fleet):
    """A fixed hash seed: replicas of the router agree without a word between them."""
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    first, second = (start(processes.serve, *urls) for _ in range(2))
    bodies = [chat(f"{number} the same for both " * 80) for number in range(12)]
    placed = [[ask(program.port, body).served_by for body in bodies] for program in (first, second)]
    agreeing = sum(a == b for a, b in zip(*placed, strict=True))
    # Four groups: chance alone gives three of twelve; nine by chance has a probability under 0.0004.
    assert agreeing >= 9, placed
