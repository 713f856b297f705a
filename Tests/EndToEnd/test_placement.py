"""What operators and clients may say about where requests go, and what they are told of it."""

import itertools
import json

import httpx
import pytest

import admin
import processes
from scripted_backend import answer_ok
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error

numbers = itertools.count()


def chat(text, **extra):
    return {"model": "stub-model", "messages": [{"role": "user", "content": text}], "max_tokens": 4} | extra


def fresh(words=40, **extra):
    """A prompt that no other test has."""
    return chat(f"{next(numbers)} a prompt of its own " * words, **extra)


def explain(program, body, **headers):
    answer = httpx.post(f"{program.admin_url}/explain", json=body, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def served(backends):
    return [len(backend.requests) for backend in backends]


# Explanations --------------------------------------------------------------------------------------------------------


def test_explain_foretells_and_books_nothing(router):
    body = fresh(200)
    for turn in range(3):
        foretold = explain(router, body)
        assert admin.in_flight(router) == [0] * 4
        assert foretold["policy"] == "least-cost" and len(foretold["groups"]) == 4
        response = ask(router.port, body)
        assert foretold["group"].endswith(response.served_by.removeprefix("stub-"))
        # Cold at first, then where it was.
        assert foretold["reason"] == ("cold" if turn == 0 else "prefix")
        chosen = next(group for group in foretold["groups"] if group["chosen"])
        assert (chosen["cached_tokens"] > 0) == (turn > 0)
        for group in foretold["groups"]:
            terms = dict(group["seconds"])
            assert abs(terms.pop("total") - sum(terms.values())) < 1e-6, group


def test_a_next_turn_is_foretold_to_find_the_answer(router):
    body = fresh(100, max_tokens=200)
    for turn in range(3):
        explained = explain(router, body)
        foretold = next(group for group in explained["groups"] if group["chosen"])["cached_tokens"] / explained["prompt_tokens"]
        answer = httpx.post(f"{router.url}/v1/chat/completions", json=body, timeout=10).json()
        found = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        prompt = answer["usage"]["prompt_tokens"]
        # Engines count whole blocks; and what an answer weighs in the bytes of the next prompt is learned.
        assert abs(foretold - found / prompt) <= 0.1, turn
        if turn > 0:
            assert foretold > former / prompt, "more than the former turn's prompt"
        former = prompt
        answered = answer["choices"][0]["message"]
        body["messages"] += [{"role": answered["role"], "content": answered["content"]}, {"role": "user", "content": "And then?"}]


def test_short_questions_behind_one_system_prompt_go_on_where_they_were_answered(configured, fleet, tmp_path):
    """By chunks all these conversations begin alike, and every engine holds their beginning."""
    token = tmp_path / "token"
    token.write_text("a token of some length\n")
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    program = configured(f"routing: {{pin_token_file: {token}}}\n", *urls, admin=True)
    system = {"role": "system", "content": f"{next(numbers)} be brief " * 200}

    def answer(messages, **headers):
        body = {"model": "stub-model", "messages": messages, "max_tokens": 200}
        response = httpx.post(f"{program.url}/v1/chat/completions", json=body, headers=headers, timeout=10)
        return response.headers["x-served-by"], response.json()

    homes, conversations = [], []
    for number in range(12):
        messages = [system, {"role": "user", "content": f"Why {number}?"}]
        pin = {"x-swiftlet-group": f"127.0.0.1:{fleet.ports[number % 4]}", "x-swiftlet-pin-token": "a token of some length"}
        home, answered = answer(messages, **pin)
        homes.append(home)
        conversations.append([*messages, answered["choices"][0]["message"], {"role": "user", "content": "And then?"}])
    assert len(set(homes)) == 4
    for home, messages in zip(homes, conversations, strict=True):
        there, answered = answer(messages)
        assert there == home
        usage = answered["usage"]
        # All but what is new, and what fills no block.
        assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 40


def test_explain_hears_the_wishes_of_a_request(router):
    body = fresh()
    assert all(group["seconds"]["lateness"] == 0 for group in explain(router, body)["groups"])
    for name in ("x-slo-ttft-ms", "x-llm-d-slo-ttft-ms", "x-slo-tpot-ms", "X-LLM-D-SLO-TPOT-MS"):
        assert all(group["seconds"]["lateness"] > 0 for group in explain(router, body, **{name: "1"})["groups"]), name
        for nonsense in ("0", "soon", "-5", "1e9", ""):
            assert all(group["seconds"]["lateness"] == 0 for group in explain(router, body, **{name: nonsense})["groups"])


def test_explain_refuses_what_it_cannot_read(router):
    url = f"{router.admin_url}/explain"
    assert httpx.post(url, content=b"no JSON").status_code == 400
    assert httpx.get(url).status_code == 404
    answer = httpx.post(url, content=b" " * (17 << 20), timeout=20)
    assert answer.status_code == 413
    assert explain(router, {"model": "nobody has this one"})["failure"] == "model_not_found"


def test_an_answer_tells_why_only_when_that_is_allowed_and_asked_for(configured, scripted, router):
    asks = [(b"X-Swiftlet-Explain", b"1")]
    assert ask(router.port, fresh(), fields=asks).values(b"x-swiftlet-explain") == []
    backend = scripted()
    program = configured("routing: {explain_header: true}\n", backend)
    assert ask(program.port, fresh()).values(b"x-swiftlet-explain") == []
    told = ask(program.port, fresh(), fields=asks).value(b"x-swiftlet-explain").decode()
    fields = dict(part.split("=", 1) for part in told.split(";"))
    assert fields["group"] == f"127.0.0.1:{backend.port}" and fields["reason"] == "only_group"
    assert int(fields["prefill_us"]) > 0 and int(fields["total_us"]) >= int(fields["prefill_us"])
    assert not any(request.values(b"x-swiftlet-explain") for request in backend.requests)
    with HTTP2Client(program.port) as client:
        body = json.dumps(fresh()).encode()
        answer = client.response(client.request(body=body, fields=[(b"x-swiftlet-explain", b"1")]))
        assert answer.value(b"x-swiftlet-explain")


# Sessions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["session", "consistent-hash"])
@pytest.mark.parametrize(
    "field, member",
    [
        ((b"X-Session-Id", b"a session"), None),
        ((b"x-smg-routing-key", b"a key"), None),
        (None, {"user": "somebody"}),
        (None, {"prompt_cache_key": "k"}),
        (None, {"metadata": {"user_id": "u"}}),
    ],
)
def test_a_session_keeps_its_group(serve, fleet, policy, field, member):
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    program = serve(*urls, arguments=["--policy", policy])
    places = {ask(program.port, fresh(**(member or {})), fields=[field] if field else []).served_by for _ in range(6)}
    assert len(places) == 1


def test_session_keys_are_configurable_and_ordered(configured, fleet):
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    lines = 'policy: session\nrouting: {session_keys: ["header:x-tenant", "body:conversation.id"]}\n'
    program = configured(lines, *urls)

    def place(tenant=None, conversation=None):
        fields = [(b"x-tenant", tenant)] if tenant else []
        return ask(program.port, fresh(conversation={"id": conversation}), fields=fields).served_by

    # The header comes first, whatever the body says; the body alone counts, too; and keys spread over the fleet.
    assert len({place(b"one", number) for number in range(6)}) == 1
    assert len({place(None, 77) for _ in range(6)}) == 1
    assert len({place(b"%d" % number) for number in range(24)}) == 4


# Pins and drains -----------------------------------------------------------------------------------------------------


def test_a_pinned_request_gets_its_groups_own_answer_however_that_is(configured, scripted, tmp_path):
    async def full(exchange):
        await exchange.answer(429, b'{"error":{"message":"full"}}')

    token = tmp_path / "token"
    token.write_text("a token of some length\n")
    backends = [scripted(full), scripted()]
    program = configured(f"routing: {{pin_token_file: {token}}}\n", *backends, admin=True)
    fields = [(b"x-swiftlet-group", b"127.0.0.1:%d" % backends[0].port), (b"x-swiftlet-pin-token", b"a token of some length")]
    response = ask(program.port, fresh(), fields=fields)
    assert (response.status, response.json["error"]["message"]) == (429, "full")
    assert served(backends) == [1, 0]


def test_a_pinned_request_goes_to_its_group_and_nowhere_else(configured, scripted, tmp_path):
    token = tmp_path / "token"
    token.write_text("a token of some length\n")
    backends = [scripted() for _ in range(3)]
    program = configured(f"routing: {{pin_token_file: {token}}}\n", *backends, admin=True)
    name = f"127.0.0.1:{backends[1].port}"

    def pinned(group=name, token=b"a token of some length"):
        return ask(program.port, fresh(), fields=[(b"x-swiftlet-group", group.encode()), (b"X-Swiftlet-Pin-Token", token)])

    for _ in range(5):
        assert pinned().status == 200
    assert served(backends) == [0, 5, 0]
    for request in backends[1].requests:
        assert not request.values(b"x-swiftlet-group") and not request.values(b"x-swiftlet-pin-token")
    # Nor does an engine see a token that names no group.
    assert ask(program.port, fresh(), fields=[(b"x-swiftlet-pin-token", b"a token of some length")]).status == 200
    seen = [request for backend in backends for request in backend.requests]
    assert len(seen) == 6 and not any(request.values(b"x-swiftlet-pin-token") for request in seen)
    for backend in backends:
        backend.requests.clear()
    assert_openai_error(pinned(token=b"a token of some lengtX"), 403, "pin_refused")
    twice = [(b"x-swiftlet-group", name.encode())] * 2 + [(b"x-swiftlet-pin-token", b"a token of some length")]
    assert_openai_error(ask(program.port, fresh(), fields=twice), 403, "pin_refused")
    assert_openai_error(ask(program.port, fresh(), fields=[(b"x-swiftlet-group", name.encode())]), 403, "pin_refused")
    assert_openai_error(pinned(group="nobody"), 503, "no_ready_group")
    assert served(backends) == [0, 0, 0]
    # A drained group still takes it: that is how an operator tries it out.
    assert httpx.post(f"{program.admin_url}/groups/{name}/drain").json() == {"group": name, "drained": True}
    assert pinned().status == 200 and served(backends) == [0, 1, 0]


def test_without_a_token_nobody_pins(serve, scripted):
    backends = [scripted() for _ in range(2)]
    program = serve(*backends)
    for _ in range(6):
        fields = [(b"x-swiftlet-group", f"127.0.0.1:{backends[0].port}".encode()), (b"x-swiftlet-pin-token", b"")]
        assert ask(program.port, fresh(), fields=fields).status == 200
    assert min(served(backends)) > 0


def test_a_token_that_is_too_short_is_no_token(tmp_path, scripted):
    token = tmp_path / "token"
    token.write_text("short")
    configuration = tmp_path / "swiftlet.yaml"
    configuration.write_text(f"routing: {{pin_token_file: {token}}}\n")
    done = processes.run("serve", "--config", configuration, "--backend", scripted().url, "--listen", "127.0.0.1:0")
    assert done.returncode == 64 and "pin_token_file" in done.stderr


def test_a_group_is_drained_and_taken_back(serve, scripted, gate):
    async def script(exchange):
        if exchange.request.values(b"x-hold"):
            await gate.wait()
        await answer_ok(exchange)

    backends = [scripted(script) for _ in range(2)]
    program = serve(*backends, admin=True)
    name = f"127.0.0.1:{backends[0].port}"
    url = f"{program.admin_url}/groups/{name}"
    assert httpx.post(f"{url}/drain").status_code == 200
    assert next(group["raw"] for group in admin.groups(program) if group["name"] == name)["obstacle"] == "drained"
    for _ in range(6):
        assert ask(program.port, fresh()).status == 200
    assert served(backends) == [0, 6]
    assert httpx.post(f"{url}/resume").json()["drained"] is False
    for _ in range(8):
        assert ask(program.port, fresh()).status == 200
    assert backends[0].requests
    for target in ("nobody/drain", f"{name}/paint", "drain", ""):
        assert httpx.post(f"{program.admin_url}/groups/{target}").status_code == 404
    assert httpx.get(f"{url}/drain").status_code == 404


# Adapters and places -------------------------------------------------------------------------------------------------


def test_an_adapter_goes_where_it_is_listed_then_where_it_is_in_use(configured, scripted):
    models = [["llama", ("sql", "llama")], ["llama", ("sql", "llama")], ["llama"]]
    backends = [scripted(models=names) for names in models]
    program = configured("routing: {adapters_on_demand: true}\n", *backends, admin=True)
    wait_until(lambda: "sql" in str(httpx.get(f"{program.url}/v1/models").json()), what="the adapter's name")
    wait_until(lambda: all(group["raw"]["models"] for group in admin.groups(program)), what="all lists")

    def prices():
        return [group["seconds"]["adapter"] for group in explain(program, fresh(model="sql"))["groups"]]

    assert prices() == [0.02, 0.02, 0.5]
    assert ask(program.port, fresh(model="sql")).status == 200
    first = served(backends).index(1)
    assert prices()[first] == 0 and first < 2
    for _ in range(4):
        assert ask(program.port, fresh(model="sql")).status == 200
    assert served(backends)[first] == 5
    assert all(price["seconds"]["adapter"] == 0 for price in explain(program, fresh(model="llama"))["groups"])


def test_a_sidecar_prefers_its_own_node(configured, scripted):
    backends = [scripted() for _ in range(3)]
    places = zip(backends, ("n0", "n1", "n1"), ("a", "a", "b"), strict=True)
    groups = "".join(f"  - {{leader: {backend.url}, node: {node}, zone: {zone}}}\n" for backend, node, zone in places)
    program = configured(f"groups:\n{groups}", arguments_after=("--node", "n0", "--zone", "a"), admin=True)
    for _ in range(6):
        assert ask(program.port, fresh()).status == 200
    assert served(backends) == [6, 0, 0]
    assert [group["raw"]["distance_seconds"] for group in admin.groups(program)] == pytest.approx([0, 0.001, 0.006])


# Prompts as other routers misread them --------------------------------------------------------------------------------


def test_a_long_shared_beginning_is_a_hit_under_a_longer_tail(router):
    """A fifth of the prompt, as a ratio a miss; as seconds, the 8,000 tokens that need not be computed."""
    system = {"role": "system", "content": "Instructions that everybody shares. " * 900}
    first = ask(router.port, {"model": "stub-model", "max_tokens": 2, "messages": [system, {"role": "user", "content": "Hi"}]})
    tail = "".join(f"{number} of a document that nobody else has; " for number in range(3_000))
    body = {"model": "stub-model", "max_tokens": 2, "messages": [system, {"role": "user", "content": tail}]}
    told = explain(router, body)
    assert told["reason"] == "prefix" and told["group"].endswith(first.served_by.removeprefix("stub-"))
    chosen = next(group for group in told["groups"] if group["chosen"])
    assert 0.1 < chosen["cached_tokens"] / told["prompt_tokens"] < 0.35


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["messages"][0].update(role="user"),
        lambda body: body.update(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        lambda body: body.update(cache_salt="another"),
        lambda body: body["messages"].insert(0, {"role": "system", "content": "Be brief."}),
    ],
    ids=["role", "tools", "salt", "system"],
)
def test_what_changes_the_rendered_prompt_is_no_hit(router, change):
    body = {
        "model": "stub-model",
        "max_tokens": 2,
        "messages": [{"role": "system", "content": f"{next(numbers)} Instructions of one kind. " * 200}, {"role": "user", "content": "Hi"}],
    }
    ask(router.port, body)
    assert explain(router, body)["reason"] == "prefix"
    change(body)
    told = explain(router, body)
    assert told["reason"] == "cold" and all(group["cached_tokens"] == 0 for group in told["groups"])


def test_tenants_share_no_prefix_where_engines_keep_them_apart(configured, fleet):
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    program = configured("routing: {tenant_header: X-Tenant}\n", *urls, admin=True)
    body = fresh(100)
    ask(program.port, body, fields=[(b"x-tenant", b"a")])
    assert explain(program, body, **{"x-tenant": "a"})["reason"] == "prefix"
    assert explain(program, body, **{"x-tenant": "b"})["reason"] == "cold"
    assert explain(program, body)["reason"] == "cold"


def test_prompts_that_never_come_again_leave_nothing_behind(configured, scripted):
    """smg grew by 86 MB in two minutes of 200 prompts of 500 characters a second, production-stack until it was killed."""
    program = configured("routing: {index_blocks: 1024}\nloops: 1\n", *[scripted() for _ in range(2)])
    with HTTP1Client(program.port) as client:

        def ask_new(count):
            for _ in range(count):
                assert client.request(body=fresh(24)).response().status == 200

        ask_new(1_500)
        before = program.resident_bytes()
        ask_new(3_000)
        assert program.resident_bytes() - before < 1 << 19
