"""What the stub says when it is told what to say: echoes, replies from a file, calls of functions; and what else peers' stubs can."""

import json
import re

import httpx
import openai
import pytest

import processes

MODEL = "stub-model"
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}, "unit": {"enum": ["C", "F"]},
        "places": {"type": "array", "items": {"type": "object", "properties": {"north": {"type": "boolean"}}}}}}}},
    {"type": "function", "function": {"name": "time"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def stub():
    program = processes.stub(arguments=["--admin-listen", "127.0.0.1:0"])
    yield program
    program.stop()


def say(client, text="What will the weather be?", **fields):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **fields)


# MARK: Calls of functions


def test_a_required_call_fits_its_schema(client):
    names = set()
    for seed in range(8):
        choice = say(client, tools=TOOLS, tool_choice="required", seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        call = choice.message.tool_calls[0]
        assert re.fullmatch("chatcmpl-tool-[0-9a-f]{16}", call.id) and call.type == "function"
        arguments = json.loads(call.function.arguments)
        names.add(call.function.name)
        if call.function.name == "weather":
            assert sorted(arguments) == ["city", "days", "places", "unit"]
            assert isinstance(arguments["city"], str) and 1 <= arguments["days"] <= 7 and arguments["unit"] in "CF"
            assert [list(place) for place in arguments["places"]] == [["north"]]
        else:
            assert arguments == {}
    assert names == {"weather", "time"}


def test_a_streamed_call_is_the_whole_one_in_pieces(client):
    whole = say(client, tools=TOOLS, tool_choice="required", seed=3, n=2).choices
    calls, ends, events = [{}, {}], [None, None], 0
    for chunk in say(client, tools=TOOLS, tool_choice="required", seed=3, n=2, stream=True):
        events += 1
        choice = chunk.choices[0]
        ends[choice.index] = choice.finish_reason or ends[choice.index]
        for piece in choice.delta.tool_calls or []:
            call = calls[choice.index]
            call["id"] = piece.id or call["id"]
            call["name"] = piece.function.name or call["name"]
            call["arguments"] = call.get("arguments", "") + (piece.function.arguments or "")
    assert [(call.id, call.function.name, call.function.arguments) for call in (choice.message.tool_calls[0] for choice in whole)] == [
        (call["id"], call["name"], call["arguments"]) for call in calls
    ]
    assert ends == ["tool_calls", "tool_calls"] and events > 8


def test_a_named_call_is_of_that_function_and_just_stops(client):
    choice = say(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "time"}}).choices[0]
    assert (choice.message.tool_calls[0].function.name, choice.finish_reason) == ("time", "stop")


def test_automatic_calls_are_some_and_none_are_none(client):
    called = [bool(say(client, tools=TOOLS, tool_choice="auto", seed=seed, max_tokens=60).choices[0].message.tool_calls) for seed in range(12)]
    assert True in called and False in called
    assert called == [
        bool(say(client, tools=TOOLS, tool_choice="auto", seed=seed, max_tokens=60).choices[0].message.tool_calls) for seed in range(12)
    ]
    for fields in ({"tool_choice": "none"}, {}):
        assert not say(client, tools=TOOLS, max_tokens=9, **fields).choices[0].message.tool_calls


def test_a_call_that_is_cut_is_text(client):
    choice = say(client, tools=TOOLS, tool_choice="required", max_tokens=4).choices[0]
    assert choice.finish_reason == "length" and not choice.message.tool_calls
    assert choice.message.content.startswith("<tool_call>\n{")


@pytest.mark.parametrize("fields", [
    {"tool_choice": "required"}, {"tool_choice": "auto"}, {"tools": TOOLS, "tool_choice": "perhaps"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
])  # fmt: skip
def test_choices_that_fit_no_tool(client, fields):
    with pytest.raises(openai.BadRequestError, match="tool"):
        say(client, **fields)


# MARK: Given replies


@pytest.fixture(scope="module")
def echoing():
    program = processes.stub(arguments=["--mode", "echo"])
    yield program
    program.stop()


TEXT = 'Grüße, 世界 👋🏽: "quoted" \\ and\ta tab\nand lines'


def test_an_echo_says_what_was_asked(echoing):
    with openai.OpenAI(base_url=f"{echoing.url}/v1", api_key="none", max_retries=0) as client:
        choice = say(client, TEXT).choices[0]
        assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
        pieces = [chunk.choices[0].delta.content or "" for chunk in say(client, TEXT, stream=True)]
        assert "".join(pieces) == TEXT and len(pieces) > 8
        assert client.completions.create(model=MODEL, prompt=TEXT, max_tokens=100).choices[0].text == TEXT
        assert client.responses.create(model=MODEL, input=TEXT).output_text == TEXT
        cut = say(client, "one two three", max_tokens=2).choices[0]
        assert (cut.message.content, cut.finish_reason) == ("one two", "length")
        longer = say(client, "one", max_tokens=9, extra_body={"ignore_eos": True})
        assert longer.choices[0].message.content.startswith("one ") and longer.usage.completion_tokens == 9
        assert say(client, "one two three", stop="two").choices[0].message.content == "one "
    message = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": TEXT}]}
    assert httpx.post(f"{echoing.url}/v1/messages", json=message).json()["content"][0]["text"] == TEXT


def test_what_was_echoed_is_in_the_cache_of_the_next_turn(echoing):
    """The reply's tokens are those that the same text has in a prompt, also where a character is of several."""
    text = "世界 " * 40
    turns = [{"role": "user", "content": text}]
    with openai.OpenAI(base_url=f"{echoing.url}/v1", api_key="none", max_retries=0) as client:
        first = client.chat.completions.create(model=MODEL, messages=turns)
        turns += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "go on"}]
        second = client.chat.completions.create(model=MODEL, messages=turns)
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens + 16


def test_replies_come_from_a_file(start, tmp_path):
    file = tmp_path / "replies.txt"
    file.write_text('The first reply.\n\n"A second,\\nof two lines."\n')
    stubs = [start(processes.stub, arguments=["--replies", file]) for _ in range(2)]
    said = []
    for stub in stubs:
        with openai.OpenAI(base_url=f"{stub.url}/v1", api_key="none", max_retries=0) as client:
            said.append([say(client, seed=seed).choices[0].message.content for seed in range(9)])
    assert set(said[0]) == {"The first reply.", "A second,\nof two lines."}
    assert said[0] == said[1]


def test_flags_for_replies_that_make_no_sense(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for arguments in (["--mode", "echo", "--replies", tmp_path / "x"], ["--replies", tmp_path / "x"], ["--replies", tmp_path / "empty.txt"]):
        assert processes.run("stub", *arguments).returncode != 0


def test_a_prompt_alone_comes_back_when_no_token_is_wanted(stub, client):
    ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 0}
    whole = client.completions.create(**ask, echo=True)
    assert (whole.choices[0].text, whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("Once upon a time", "length", 1)
    scored = client.completions.create(**ask, echo=True, logprobs=2).choices[0].logprobs
    assert "".join(scored.tokens) == "Once upon a time" and scored.token_logprobs[0] is None
    chunks = [chunk.choices[0] for chunk in client.completions.create(**ask, echo=True, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == "Once upon a time" and chunks[-1].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
        client.completions.create(**ask)
    with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
        say(client, max_tokens=0, extra_body={"echo": True})


# MARK: Beside replies


def test_a_key_opens_what_it_guards(start):
    stub = start(processes.stub, arguments=["--api-key", "sekret"])
    with openai.OpenAI(base_url=f"{stub.url}/v1", api_key="sekret", max_retries=0) as client:
        assert say(client, max_tokens=3).choices[0].message.content
    with openai.OpenAI(base_url=f"{stub.url}/v1", api_key="wrong", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        say(client, max_tokens=3)
    for scheme, status in (("bearer sekret", 200), ("Basic sekret", 401), ("sekret", 401), ("Bearer  sekret", 401)):
        assert httpx.get(f"{stub.url}/v1/models", headers={"authorization": scheme}).status_code == status
    assert httpx.get(f"{stub.url}/v1/nope").status_code == 401
    for path in ("/health", "/metrics", "/version", "/load"):
        assert httpx.get(f"{stub.url}{path}").status_code == 200


def value_of(stub, name):
    found = re.findall(rf"^{name}\{{.*\}} (\S+)$", httpx.get(f"{stub.url}/metrics").text, re.M)
    return [float(value) for value in found]


def test_metrics_say_what_they_are_told_to(stub):
    def configure(table):
        answer = httpx.post(f"{stub.admin_url}/admin/config", json={"fake_metrics": table})
        assert answer.status_code == (200 if answer.json().get("fake_metrics") is not None else 400)
        return answer.status_code

    try:
        table = {"vllm:num_requests_waiting": 30, "vllm:kv_cache_usage_perc": "ramp:0.25:0.75:1ms", "sglang:num_queue_reqs": 4}
        assert configure(table) == 200
        assert value_of(stub, "vllm:num_requests_waiting") == [30]
        assert value_of(stub, "vllm:kv_cache_usage_perc") == [0.75]
        assert value_of(stub, "sglang:num_queue_reqs") == [4]
        for wrong in ({"a b": 1}, {"x": "ramp:0:1"}, {"x": "hop:0:1:1s"}, {"x": "ramp:0:1:0s"}, {"x": [1]}, {"": 1}, {"1x": 1}):
            assert configure(wrong) == 400
    finally:
        configure(dict.fromkeys(table))
    assert value_of(stub, "vllm:num_requests_waiting") == [0] and value_of(stub, "sglang:num_queue_reqs") == []


def test_an_engine_with_a_connector_says_where_its_blocks_lie(start, stub):
    asked = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None}
    body = {"prompt": [1] * 40, "max_tokens": 1, "kv_transfer_params": asked}
    assert httpx.post(f"{stub.url}/v1/completions", json=body).json()["kv_transfer_params"] is None
    prefill = start(processes.stub, arguments=["--kv-connector", "--served-by", "p0"])
    given = httpx.post(f"{prefill.url}/v1/completions", json=body).json()["kv_transfer_params"]
    assert (given["do_remote_prefill"], given["do_remote_decode"]) == (True, False)
    assert (given["remote_block_ids"], given["remote_engine_id"]) == ([0, 1], "p0")
    back = httpx.post(f"{prefill.url}/v1/completions", json={**body, "kv_transfer_params": given}).json()["kv_transfer_params"]
    assert back == given
