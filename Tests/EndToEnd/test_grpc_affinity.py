"""gRPC calls by the prompt in their first message: affinity with the official client, and what must not change for it."""

import collections
import re
import struct
import time
from concurrent import futures

import grpc
import h2.events
import httpx
import pytest

import admin
import engine_proto
import kserve
import processes
from frame_backend import FrameBackend
from kserve import MESSAGES
from test_http2_bounds import CALL
from waiting import wait_until
from wire_clients import HTTP2Client

GENERATE = f"/{engine_proto.SERVICE}/Generate"
INFER, STREAM_INFER = (f"/inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))
EXPLAIN = (("x-swiftlet-explain", "1"),)
# As fast as a router takes engines to be before it knows, with answers too short to tell of steps: so they look alike and stay so.
ORDINARY = {"prefill_us": 50, "decode_ms": 5}
TOKENS = 6
CONFIGURATION = "routing: {explain_header: true}\nload_signals: {interval: 0s}\n"


@pytest.fixture(scope="module")
def engines():
    program = processes.stub(replicas=4, **ORDINARY, arguments=["--max-model-len", "100000"])
    yield program
    program.stop()


@pytest.fixture
def router(engines, configured):
    return configured(CONFIGURATION, *(f"h2c://127.0.0.1:{port}" for port in engines.ports), admin=True)


def channel_to(router, **options):
    # Proxies from the environment and retries of the client would hide what the router does.
    arguments = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    return grpc.insecure_channel(f"127.0.0.1:{router.port}", arguments, **options)


@pytest.fixture
def channel(router):
    with channel_to(router) as channel:
        yield channel


def explained(call):
    """The group that a call went to, and how many of its tokens the router expected there."""
    # Of an answer that is a head alone it stands among the trailing metadata.
    text = dict([*call.initial_metadata(), *call.trailing_metadata()])["x-swiftlet-explain"]
    return re.search("group=([^;]*)", text)[1], int(re.search("cached_tokens=([0-9]*)", text)[1])


# Conversations -------------------------------------------------------------------------------------------------------

Answer = collections.namedtuple("Answer", "group expected cached reply")


def generate(channel, **request):
    call = engine_proto.call(channel, "Generate")(
        engine_proto.generate_request(max_tokens=TOKENS, ignore_eos=True, **request), timeout=10, metadata=EXPLAIN
    )
    answers = list(call)
    return call, answers[-1].complete, [token for answer in answers for token in answer.chunk.token_ids]


def by_text(channel, prompt):
    call, complete, _ = generate(channel, text=prompt)
    return Answer(*explained(call), complete.cached_tokens, " and so on" * 20)


def by_tokens(channel, prompt):
    call, complete, reply = generate(channel, tokens=[ord(letter) * 1_000 for letter in prompt])
    assert len(reply) == TOKENS
    return Answer(*explained(call), complete.cached_tokens, " and so on" * 20)


def in_one_piece(channel, prompt):
    call, complete, _ = generate(channel, text=prompt, stream=False)
    return Answer(*explained(call), complete.cached_tokens, " and so on" * 20)


def limited(request):
    limit = request.parameters.add(key="max_tokens")
    limit.value.int64_param = TOKENS
    return request


def inference(prompt):
    return limited(kserve.infer_request(prompt))


def by_inference(channel, prompt):
    call = kserve.method(channel, INFER, "ModelInferRequest", "ModelInferResponse")
    answer, details = call.with_call(inference(prompt), timeout=10, metadata=EXPLAIN)
    return Answer(*explained(details), None, kserve.infer_text(answer))


def by_raw_inference(channel, prompt):
    request = MESSAGES["ModelInferRequest"](model_name="stub-model")
    request.inputs.add(name="seed", datatype="INT64", shape=[1])
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text = prompt.encode()
    request.raw_input_contents.extend([bytes(8), struct.pack("<I", len(text)) + text])
    call = kserve.method(channel, INFER, "ModelInferRequest", "ModelInferResponse")
    answer, details = call.with_call(limited(request), timeout=10, metadata=EXPLAIN)
    return Answer(*explained(details), None, kserve.infer_text(answer))


def by_streamed_inference(channel, prompt):
    call = kserve.method(channel, STREAM_INFER, "ModelInferRequest", "ModelStreamInferResponse", "stream_stream")
    answers = call(iter([inference(prompt)]), timeout=10, metadata=EXPLAIN)
    text = "".join(kserve.infer_text(answer.infer_response) for answer in answers)
    return Answer(*explained(answers), None, text)


@pytest.mark.parametrize("ask", [by_text, by_tokens, in_one_piece, by_inference, by_raw_inference, by_streamed_inference])
def test_conversations_keep_their_groups_and_new_ones_spread(channel, ask):
    prompts = [f"{ask.__name__} {number}: a beginning of its own. " + f"{number} and how it goes on, " * 60 for number in range(12)]
    with futures.ThreadPoolExecutor(12) as clients:
        firsts = list(clients.map(lambda prompt: ask(channel, prompt), prompts))
    groups = collections.Counter(first.group for first in firsts)
    assert len(groups) == 4 and max(groups.values()) <= 6, groups
    for number, (prompt, first) in enumerate(zip(prompts, firsts, strict=True)):
        assert first.expected == 0 and not first.cached
        for turn in range(2):
            prompt += first.reply + f" Turn {turn}: what then?" * 10
            later = ask(channel, prompt)
            assert later.group == first.group, (number, turn)
            # All of the first turn but for chunks and blocks that are not full.
            assert later.expected > 100
            assert later.cached is None or later.cached > 100


def test_the_engines_of_streamed_inference_say_that_they_have_it(engines, channel):
    """The Open Inference Protocol has no usage; the engines' own counters tell."""
    hits = "vllm:prefix_cache_hits_total"
    before = sum(stub_counter(port, hits) for port in engines.ports)
    for _ in range(3):
        by_inference(channel, "what has been said before, word for word " * 60)
    assert sum(stub_counter(port, hits) for port in engines.ports) - before > 600


def stub_counter(port, name):
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M))


def test_what_answers_used_is_counted_and_learned(router, channel):
    for _ in range(3):
        by_text(channel, "a prompt that comes three times " * 80)
    wait_until(lambda: sum(admin.in_flight(router)) == 0, what="all calls to be booked out")
    families = admin.metrics(router)

    def tokens(name):
        return admin.total(families[name], "_total")

    assert tokens("swiftlet_completion_tokens") == 3 * TOKENS
    assert tokens("swiftlet_prompt_tokens") > 1_000
    cached = tokens("swiftlet_cached_tokens")
    assert cached > 600 and tokens("swiftlet_predicted_cached_tokens") == pytest.approx(cached, rel=0.25)
    assert admin.total(families["swiftlet_time_to_first_token_seconds"], "_count") == 3


def test_token_ids_teach_nothing_of_text(router, channel):
    """A token of these prompts would be 4 bytes of text, or one of 40: neither is known."""

    def ratio():
        return {group["raw"]["tokens_per_byte"] for group in admin.groups(router)}

    before = ratio()
    for number in range(4):
        by_tokens(channel, f"{number} " * 500)
    assert ratio() == before
    by_text(channel, "some text " * 400)
    wait_until(lambda: ratio() != before, what="a lesson from text")


def test_replies_wanted_are_sequences_that_are_booked(start, configured):
    engine = start(processes.stub, decode_ms=20)
    router = configured(CONFIGURATION, f"h2c://127.0.0.1:{engine.port}", admin=True)
    with channel_to(router) as channel:
        request = engine_proto.generate_request(text="hello", n=3, temperature=1.0, max_tokens=1_000, ignore_eos=True)
        call = engine_proto.call(channel, "Generate")(request, timeout=10)
        next(call)
        assert admin.in_flight(router) == [3]
        call.cancel()
        wait_until(lambda: admin.in_flight(router) == [0], what="the end of the call")


def test_what_an_engine_refuses_leaves_no_prefix(channel):
    prompt = "a prompt that is refused " * 80
    for _ in range(2):
        call = engine_proto.call(channel, "Generate")(
            engine_proto.generate_request(text=prompt, max_tokens=0), timeout=10, metadata=EXPLAIN
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert explained(call)[1] == 0


def test_an_engine_that_fails_fast_is_spared(start, configured):
    """Three times INTERNAL in a row is the engine's own fault: its prompts go elsewhere for a while."""
    broken, well = (start(processes.stub, **ORDINARY) for _ in range(2))
    fault = {"faults": {"error": {"status": 500, "grpc_status": 13, "path": GENERATE}}}
    assert httpx.post(f"{broken.url}/admin/config", json=fault, trust_env=False).status_code == 200
    router = configured(CONFIGURATION, f"h2c://127.0.0.1:{broken.port}", f"h2c://127.0.0.1:{well.port}", admin=True)
    failures = []
    with channel_to(router) as channel:
        for number in range(40):
            # Each comes five times, and had it failed five times it would have gone to the same group.
            try:
                generate(channel, text=f"{number // 5} a question of its own " * 60)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INTERNAL
                failures.append(number)
    assert 3 <= len(failures) <= 6, failures


# Models --------------------------------------------------------------------------------------------------------------


def test_models_are_found_and_unknown_ones_are_the_engines_to_refuse(start, serve):
    named = {name: start(processes.stub, model=name) for name in ("alpha", "beta")}
    router = serve(*(f"h2c://127.0.0.1:{engine.port}" for engine in named.values()), admin=True)
    wait_until(lambda: all(group["raw"]["models"] for group in admin.groups(router)), what="the lists of models")
    with channel_to(router) as channel:
        call = kserve.method(channel, INFER, "ModelInferRequest", "ModelInferResponse")
        for number in range(12):
            for name in named:
                request = kserve.infer_request(f"{number} a prompt", model=name)
                assert call(request, timeout=10).model_name == name
        with pytest.raises(grpc.RpcError) as caught:
            call(kserve.infer_request("a prompt", model="gamma"), timeout=10)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown model 'gamma'")
    names = {sample.labels["model"] for sample in admin.metrics(router)["swiftlet_requests"].samples if sample.value}
    assert "gamma" not in names and {"alpha", "beta"} <= names


# What operators and clients may say ----------------------------------------------------------------------------------

PIN = "a token of some length"


def explain(router, path, body, **headers):
    answer = httpx.post(
        f"{router.admin_url}/explain",
        params={"path": path} if path else {},
        content=body,
        headers={"content-type": "application/grpc", **headers},
        timeout=10,
        trust_env=False,
    )
    return answer.status_code, answer.json()


MESSAGES_ASKED = {
    "text": (GENERATE, lambda prompt: engine_proto.generate_request(text=prompt, max_tokens=TOKENS, ignore_eos=True)),
    "token ids": (
        GENERATE,
        lambda prompt: engine_proto.generate_request(tokens=[ord(letter) for letter in prompt], max_tokens=TOKENS, ignore_eos=True),
    ),
    "inference": (INFER, lambda prompt: inference(prompt)),
    "streamed inference": (STREAM_INFER, lambda prompt: inference(prompt)),
}


@pytest.mark.parametrize("kind", MESSAGES_ASKED)
def test_explain_foretells_a_call_and_books_nothing(router, channel, kind):
    path, message = MESSAGES_ASKED[kind]
    asked = message(f"{kind}, a beginning of its own, and how it goes on; " * 60).SerializeToString()
    for turn in range(2):
        status, foretold = explain(router, path, framed(asked))
        assert status == 200 and admin.in_flight(router) == [0] * 4
        call = channel.stream_stream(path)(iter([asked]), timeout=10, metadata=EXPLAIN)
        assert list(call)
        group, expected = explained(call)
        assert foretold["reason"] == ("prefix" if turn else "cold") and foretold["group"] == group
        chosen = next(group for group in foretold["groups"] if group["chosen"])
        # One is rounded, the other cut.
        assert abs(chosen["cached_tokens"] - expected) <= 1 and (expected > 100) == (turn > 0)
        assert foretold["prompt_tokens"] > 300
        wait_until(lambda: sum(admin.in_flight(router)) == 0, what="the end of the call")


def test_explain_knows_what_a_request_needs_its_group_to_speak(start, serve):
    one, two = (start(processes.stub) for _ in range(2))
    http1, http2 = f"http://127.0.0.1:{one.port}", f"h2c://127.0.0.1:{two.port}"
    router = serve(http1, http2, admin=True)
    body = framed(engine_proto.generate_request(text="hello").SerializeToString())
    for path in (GENERATE, INFER, "/some.other/Method"):
        told = explain(router, path, body)[1]
        assert (told["group"], told["reason"]) == (f"127.0.0.1:{two.port}", "only_group"), path
    url = f"{router.admin_url}/explain"
    told = httpx.post(url, params={"protocol": "websocket", "model": "stub-model"}, trust_env=False).json()
    assert (told["group"], told["reason"]) == (f"127.0.0.1:{one.port}", "only_group")
    told = httpx.post(url, json={"model": "stub-model", "messages": []}, trust_env=False).json()
    assert told["reason"] != "only_group"
    for backend, path, failure in ((http1, GENERATE, "no_ready_group"), (http2, None, "no_ready_group")):
        lone = serve(backend, admin=True)
        if path:
            assert explain(lone, path, body)[1]["failure"] == failure
        else:
            asked = httpx.post(f"{lone.admin_url}/explain", params={"protocol": "websocket"}, trust_env=False)
            assert asked.json()["failure"] == failure


def test_explain_tells_what_of_a_call_it_cannot_read(router):
    body = framed(engine_proto.generate_request(text="a prompt of some length " * 50).SerializeToString())
    assert explain(router, None, body)[0] == 400
    assert explain(router, "Generate", body)[0] == 400
    for mistake in (body[5:], b"", body[:-1], b"\0\0", b"{}"):
        status, told = explain(router, GENERATE, mistake)
        assert status == 400 and "gRPC message" in told["error"]["message"], mistake
    # As the router does: what is compressed, malformed, or of another method is placed without having been read.
    for path, unread in ((GENERATE, framed(b"\x1f\x8b", flag=1)), (GENERATE, framed(b"\xff\xff")), ("/other.Service/Ask", body)):
        status, told = explain(router, path, unread)
        assert status == 200 and told["group"] and told["prompt_tokens"] < 100, path


def test_explain_leaves_models_that_nobody_lists_to_the_engines(start, serve):
    engine = start(processes.stub, model="alpha")
    router = serve(f"h2c://127.0.0.1:{engine.port}", admin=True)
    wait_until(lambda: all(group["raw"]["models"] for group in admin.groups(router)), what="the list of models")
    for model in ("alpha", "gamma"):
        told = explain(router, INFER, framed(kserve.infer_request("a prompt", model=model).SerializeToString()))[1]
        assert told.get("failure") is None and told["group"], model


@pytest.fixture
def pinnable(engines, configured, tmp_path):
    token = tmp_path / "token"
    token.write_text(PIN + "\n")
    lines = CONFIGURATION.replace("{explain", f"{{pin_token_file: {token}, explain")
    return configured(lines, *(f"h2c://127.0.0.1:{port}" for port in engines.ports), admin=True)


def test_an_operator_pins_a_call(engines, pinnable):
    group = f"127.0.0.1:{engines.ports[2]}"
    pin = (("x-swiftlet-group", group), ("x-swiftlet-pin-token", PIN))
    body = framed(engine_proto.generate_request(text="hello").SerializeToString())
    told = explain(pinnable, GENERATE, body, **dict(pin))[1]
    assert (told["group"], told["reason"]) == (group, "pinned")
    told = httpx.post(f"{pinnable.admin_url}/explain", json={"messages": []}, headers=dict(pin), trust_env=False).json()
    assert (told["group"], told["reason"]) == (group, "pinned")
    with channel_to(pinnable) as channel:

        def places(**request):
            call = engine_proto.call(channel, "Generate")
            for number in range(6):
                asked = engine_proto.generate_request(text=f"{number} a prompt " * 60, max_tokens=1)
                answers = call(asked, timeout=10, metadata=(*EXPLAIN, *request.get("pin", pin)))
                assert list(answers)
                yield explained(answers)[0]

        assert set(places()) == {group}
        assert httpx.post(f"{pinnable.admin_url}/groups/{group}/drain", trust_env=False).status_code == 200
        assert group not in set(places(pin=()))
        assert set(places()) == {group}, "to try it out"
        for wrong, code in (
            ((pin[0], ("x-swiftlet-pin-token", PIN[:-1] + "X")), "PERMISSION_DENIED"),
            ((pin[0],), "PERMISSION_DENIED"),
            ((pin[0], *pin), "PERMISSION_DENIED"),
            ((("x-swiftlet-group", "nobody"), pin[1]), "UNAVAILABLE"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(places(pin=wrong))
            assert caught.value.code().name == code, wrong
            status, told = explain(pinnable, GENERATE, body, **dict(wrong))
            if len(wrong) == 3:
                continue  # a dictionary has no field twice
            if code == "UNAVAILABLE":
                assert told["failure"] == "no_ready_group"
            else:
                assert (status, told["error"]["code"]) == (403, "pin_refused")


def test_no_engine_sees_the_pin_of_a_call(configured, by_frames, tmp_path):
    token = tmp_path / "token"
    token.write_text(PIN)
    backend = by_frames(kind=Recorder)
    router = configured(f"routing: {{pin_token_file: {token}}}\n", backend)
    group = backend.url.split("//")[1]
    fields = [*CALL, (b"x-swiftlet-group", group.encode()), (b"x-swiftlet-pin-token", PIN.encode()), (b"x-other", b"1")]
    with HTTP2Client(router.port) as client:
        assert (b"grpc-status", b"0") in client.response(client.request(framed(TEXT), GENERATE, fields=fields)).trailers
    names = {name for name, _ in backend.heads[0]}
    assert b"x-other" in names and not any(name.startswith(b"x-swiftlet") for name in names)


@pytest.mark.parametrize("policy", ["session", "consistent-hash"])
def test_a_session_in_the_metadata_keeps_its_group(engines, configured, policy):
    lines = f"policy: {policy}\n{CONFIGURATION}"
    router = configured(lines, *(f"h2c://127.0.0.1:{port}" for port in engines.ports))
    with channel_to(router) as channel:

        def place(key, number):
            asked = engine_proto.generate_request(text=f"{number} a prompt of its own " * 60, max_tokens=1)
            call = engine_proto.call(channel, "Generate")(asked, timeout=10, metadata=(*EXPLAIN, *key))
            assert list(call)
            return explained(call)[0]

        for key in ("x-session-id", "x-smg-routing-key"):
            assert len({place([(key, "one")], number) for number in range(6)}) == 1
        assert len({place([("x-session-id", str(number))], 0) for number in range(64)}) == 4
        assert len({place([("x-session-id", ""), ("x-smg-routing-key", "two")], number) for number in range(6)}) == 1, "empty is no key"


@pytest.mark.parametrize("prefix", ["x-slo", "x-llm-d-slo"])
def test_wishes_in_the_metadata_of_a_call_weigh(router, channel, prefix):
    def lateness(*wishes):
        asked = engine_proto.generate_request(text="a prompt of some length " * 60, max_tokens=1)
        call = engine_proto.call(channel, "Generate")(asked, timeout=10, metadata=(*EXPLAIN, *wishes))
        assert list(call)
        text = dict([*call.initial_metadata(), *call.trailing_metadata()])["x-swiftlet-explain"]
        return int(re.search("lateness_us=([0-9]*)", text)[1])

    assert lateness() == 0 and lateness((f"{prefix}-ttft-ms", "soon")) == 0
    assert lateness((f"{prefix}-ttft-ms", "3600000")) == 0
    body = framed(engine_proto.generate_request(text="a prompt that nobody has " * 60).SerializeToString())
    for wish in ("ttft", "tpot"):
        assert lateness((f"{prefix}-{wish}-ms", "1")) > 0, wish
        told = explain(router, GENERATE, body, **{f"{prefix}-{wish}-ms": "1"})[1]
        assert all(group["seconds"]["lateness"] > 0 for group in told["groups"]), wish


# What cannot be read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"\x12\0", b"\xff\xff", b"\x0a\x05ab", b"\x1a\x80", b"\x08" + b"\x80" * 11, b"\x0b"])
def test_malformed_messages_are_the_engines_to_refuse(router, channel, message):
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(GENERATE)(message, timeout=10))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [group["blamed"] for group in admin.groups(router)] == [False] * 4


class Recorder(FrameBackend):
    """Takes what comes on each stream as it comes; answers a call at its end, or with a head at its beginning."""

    def __init__(self, speaks_first=False):
        self.speaks_first = speaks_first
        self.opened = []
        self.heads = []
        self.bodies = collections.defaultdict(bytes)
        super().__init__(self._answer)

    def _answer(self, connection, event):
        head = [(b":status", b"200"), CALL[0]]
        if isinstance(event, h2.events.RequestReceived):
            self.opened.append(time.monotonic())
            self.heads.append(event.headers)
            if self.speaks_first:
                connection.h2.send_headers(event.stream_id, head)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if not self.speaks_first:
                connection.h2.send_headers(event.stream_id, head)
            connection.h2.send_data(event.stream_id, b"\0\0\0\0\0")
            connection.h2.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)


def framed(message, flag=0):
    return struct.pack(">BI", flag, len(message)) + message


TEXT = engine_proto.generate_request(text="a prompt of some length " * 50).SerializeToString()
LONG = engine_proto.generate_request(text="and on it goes " * 200_000).SerializeToString()
BODIES = {
    "plain": framed(TEXT),
    "compressed": framed(b"\x1f\x8b\x08 no matter", flag=1),
    "no framing": b"\x09what is this",
    "cut in the prefix": b"\0\0",
    "cut in the message": framed(TEXT)[:-7],
    "several messages": framed(TEXT) + framed(b"") + framed(b"\x0a\x01x"),
    "longer than is kept": framed(LONG),
    "a length that does not come": b"\0\xff\xff\xff\xffabc",
}


@pytest.mark.parametrize("path", [GENERATE, INFER, STREAM_INFER])
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("piece", [None, 1_000])
def test_bytes_go_on_as_they_came(serve, by_frames, name, path, piece):
    body = BODIES[name]
    backend = by_frames(kind=Recorder)
    router = serve(backend, admin=True)
    with HTTP2Client(router.port) as client:
        if piece is None or len(body) > 100_000:
            stream = client.request(body, path, fields=CALL)
        else:
            stream = client.request(b"", path, fields=CALL, end=False)
            for start in range(0, len(body), piece):
                client.connection.send_data(stream, body[start : start + piece])
                client.flush()
            client.connection.end_stream(stream)
            client.flush()
        response = client.response(stream)
    assert (b"grpc-status", b"0") in response.trailers
    assert list(backend.bodies.values()) == [body]
    wait_until(lambda: sum(admin.in_flight(router)) == 0, what="the end of the call")


def claims_of_ids(claimed, sent):
    """The beginning of a `Generate` whose packed token ids are said to take so many bytes, and so many of them."""

    def length(number):
        groups = []
        while number > 127:
            groups.append(number & 127 | 128)
            number >>= 7
        return bytes([*groups, number])

    ids = b"\x12" + length(claimed)
    tokenized = b"\x12" + length(len(ids) + claimed) + ids
    return struct.pack(">BI", 0, len(tokenized) + claimed) + tokenized + b"\x05" * sent


@pytest.mark.parametrize("sent, is_end", [(10, True), (3 << 20, False)])
def test_what_a_message_only_claims_is_not_booked(configured, by_frames, sent, is_end):
    """Sixty million tokens would keep everybody else from the group, for as long as the client likes."""
    backend = by_frames(kind=Recorder, speaks_first=True)
    router = configured(CONFIGURATION, backend, admin=True)
    with HTTP2Client(router.port) as client:
        fields = [*CALL, (b"x-swiftlet-explain", b"1")]
        stream = client.request(b"", GENERATE, fields=fields, end=False)
        body = claims_of_ids(60 << 20, sent)
        for start in range(0, len(body), 16_000):
            while client.connection.local_flow_control_window(stream) < 16_000:
                client.pump()
            client.connection.send_data(stream, body[start : start + 16_000])
            client.flush()
        if is_end:
            client.connection.end_stream(stream)
            client.flush()
        while not client.responses[stream].status:
            client.pump()
        told = dict(part.split("=", 1) for part in client.responses[stream].value(b"x-swiftlet-explain").decode().split(";"))
    # Of the first MiB at the presumed 20,000 tokens a second, each of which attends to all before it: 17 times 52 s. Of all it would be weeks.
    assert int(told["prefill_us"]) < 900_000_000


def test_a_message_that_stays_away_holds_nothing_up(serve, by_frames):
    """A client may wait for the backend to speak first: a second after its head the call goes on without a message."""
    backend = by_frames(kind=Recorder, speaks_first=True)
    router = serve(backend, admin=True)
    with HTTP2Client(router.port) as client:
        began = time.monotonic()
        stream = client.request(b"", STREAM_INFER, fields=CALL, end=False)
        while not client.responses[stream].status:
            client.pump()
        waited = time.monotonic() - began
        client.connection.send_data(stream, framed(b"\x0a\x01m"), end_stream=True)
        client.flush()
        assert (b"grpc-status", b"0") in client.response(stream).trailers
    assert 0.9 < waited < 3
    assert list(backend.bodies.values()) == [framed(b"\x0a\x01m")]


def test_a_message_that_comes_slowly_is_not_waited_for_to_its_end(serve, by_frames):
    backend = by_frames(kind=Recorder)
    router = serve(backend, admin=True)
    body = framed(TEXT)
    with HTTP2Client(router.port) as client:
        stream = client.request(b"", GENERATE, fields=CALL, end=False)
        client.connection.send_data(stream, body[:100])
        client.flush()
        wait_until(lambda: backend.bodies and list(backend.bodies.values()) == [body[:100]], 5, what="the first part of the message")
        client.connection.send_data(stream, body[100:], end_stream=True)
        client.flush()
        assert (b"grpc-status", b"0") in client.response(stream).trailers
    assert list(backend.bodies.values()) == [body]


def test_a_client_that_leaves_before_its_message_leaves_nothing_behind(serve, by_frames):
    backend = by_frames(kind=Recorder)
    router = serve(backend, admin=True)
    with HTTP2Client(router.port) as client:
        stream = client.request(b"", GENERATE, fields=CALL, end=False)
        client.connection.send_data(stream, framed(TEXT)[:50])
        client.flush()
        client.reset(stream)
        # Long after the message would have been given up.
        stream = client.request(framed(TEXT), GENERATE, fields=CALL)
        assert (b"grpc-status", b"0") in client.response(stream).trailers
    wait_until(lambda: admin.sample(router, "swiftlet_requests_in_flight") == 0, what="the end of both calls")
    assert len(backend.opened) == 1


def test_the_clients_deadline_holds_while_its_message_is_awaited(serve, by_frames):
    backend = by_frames(kind=Recorder)
    router = serve(backend)
    with HTTP2Client(router.port) as client:
        stream = client.request(b"", GENERATE, fields=(*CALL, (b"grpc-timeout", b"100m")), end=False)
        response = client.response(stream)
        assert (b"grpc-status", b"4") in response.fields
    assert not backend.opened


def test_a_call_is_sent_again_and_read_again(start, configured):
    """Its first group is gone: the second one gets all of it, and has the prefix from then on."""
    gone = start(processes.stub)
    well = start(processes.stub)
    urls = [f"h2c://127.0.0.1:{engine.port}" for engine in (gone, well)]
    router = configured(CONFIGURATION, *urls, admin=True)
    gone.kill()
    with channel_to(router) as channel:
        for number in range(8):
            prompt = f"{number} a conversation that has to go elsewhere " * 60
            first, second = (by_text(channel, prompt) for _ in range(2))
            assert first.group == second.group and second.expected > 100 and second.cached > 100
