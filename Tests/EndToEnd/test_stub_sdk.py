"""The stub with the clients that people have: openai's SDK and grpcio, straight at it."""

import json
import time

import grpc
import httpx
import openai
import pytest

import processes
from engine_proto import call, generate_request
from kserve import MESSAGES, infer_request, infer_text, method
from waiting import wait_until

SERVICE = "/inference.GRPCInferenceService"
NO_PROXY = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


@pytest.fixture(scope="module")
def stub():
    program = processes.stub(arguments=["--max-model-len", "4096", "--max-loras", "1"])
    yield program
    program.stop()


@pytest.fixture
def channel(stub):
    with grpc.insecure_channel(f"127.0.0.1:{stub.port}", options=NO_PROXY) as channel:
        yield channel


def infer(channel):
    return method(channel, f"{SERVICE}/ModelInfer", "ModelInferRequest", "ModelInferResponse")


def stream_infer(channel):
    return method(channel, f"{SERVICE}/ModelStreamInfer", "ModelInferRequest", "ModelStreamInferResponse", "stream_stream")


def wishing(text, **parameters):
    request = infer_request(text)
    for name, value in parameters.items():
        field = "bool_param" if isinstance(value, bool) else "int64_param"
        request.parameters.add(key=name, value={field: value})
    return request


# MARK: Open Inference Protocol


def test_inference_says_what_http_says(stub, channel):
    answer = infer(channel)(wishing("Once upon a time", max_tokens=9, seed=4, ignore_eos=True), timeout=10)
    assert (answer.model_name, answer.id) == ("stub-model", "r-1")
    body = {"prompt": "Once upon a time", "max_tokens": 9, "seed": 4, "ignore_eos": True}
    assert infer_text(answer) == httpx.post(f"{stub.url}/v1/completions", json=body).json()["choices"][0]["text"]
    other = infer(channel)(wishing("Once upon a time", max_tokens=9, seed=5, ignore_eos=True), timeout=10)
    assert infer_text(other) != infer_text(answer)


def test_raw_contents_are_answered_in_kind(channel):
    plain = infer(channel)(infer_request("raw or not"), timeout=10)
    request = MESSAGES["ModelInferRequest"](model_name="stub-model", id="raw")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text = b"raw or not"
    request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    raw = infer(channel)(request, timeout=10)
    assert raw.raw_output_contents and not raw.outputs[0].contents.bytes_contents
    assert infer_text(raw) == infer_text(plain)


def test_a_stream_has_an_answer_per_token_and_takes_request_after_request(channel):
    requests = [wishing(text, max_tokens=5, ignore_eos=True) for text in ("first", "second")]
    for number, request in enumerate(requests):
        request.id = str(number)
    answers = list(stream_infer(channel)(iter(requests), timeout=10))
    assert [answer.infer_response.id for answer in answers] == ["0"] * 5 + ["1"] * 5
    for number, request in enumerate(requests):
        whole = infer_text(infer(channel)(request, timeout=10))
        assert whole == "".join(infer_text(a.infer_response) for a in answers if a.infer_response.id == str(number))


def test_a_bad_request_does_not_end_a_stream_that_others_share(channel):
    requests = [infer_request("x", model="nope", identifier="bad"), wishing("x", max_tokens=2, ignore_eos=True)]
    answers = list(stream_infer(channel)(iter(requests), timeout=10))
    assert (answers[0].error_message, answers[0].infer_response.id) == ("unknown model 'nope'", "bad")
    assert [bool(answer.error_message) for answer in answers] == [True, False, False]


@pytest.mark.parametrize("text, model, code", [("x", "nope", "NOT_FOUND"), ("", "stub-model", "INVALID_ARGUMENT"),
                                                ("word " * 5000, "stub-model", "INVALID_ARGUMENT")])  # fmt: skip
def test_what_inference_refuses(channel, text, model, code):
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel)(infer_request(text, model=model), timeout=5)
    assert caught.value.code().name == code


def test_what_the_protocol_tells_of_server_and_model(channel):
    def ask(what, **fields):
        request = MESSAGES[f"{what}Request"](**fields)
        return method(channel, f"{SERVICE}/{what}", f"{what}Request", f"{what}Response")(request, timeout=5)

    assert ask("ServerLive").live and ask("ServerReady").ready
    assert ask("ModelReady", name="stub-model").ready and not ask("ModelReady", name="nope").ready
    model = ask("ModelMetadata", name="stub-model")
    assert (model.name, model.platform) == ("stub-model", "swiftlet-stub")
    assert [(t.name, t.datatype, list(t.shape)) for t in [*model.inputs, *model.outputs]] == [
        ("text_input", "BYTES", [1]), ("text_output", "BYTES", [1])]  # fmt: skip
    with pytest.raises(grpc.RpcError) as caught:
        ask("ModelMetadata", name="nope")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_stream_that_its_client_cancels_ends_its_sequence(stub, channel):
    answers = stream_infer(channel)(iter([wishing("x", max_tokens=4000, ignore_eos=True)]), timeout=30)
    next(answers)
    answers.cancel()
    wait_until(lambda: httpx.get(f"{stub.url}/load").json() == {"server_load": 0}, what="the sequence's end")


# MARK: vLLM's service


def test_sampling_parameters_of_vllms_service(channel):
    def generate(**fields):
        request = generate_request(list(range(1, 40)), stream=False, **fields)
        return next(call(channel, "Generate")(request, timeout=10)).complete

    assert generate(max_tokens=9, seed=1).output_ids == generate(max_tokens=9, seed=1).output_ids
    assert generate(max_tokens=9, seed=1).output_ids != generate(max_tokens=9, seed=2).output_ids
    # Left alone a reply ends by itself within 255 tokens; told not to, it goes on.
    natural = generate(max_tokens=300)
    assert natural.finish_reason == "stop" and 128 <= natural.completion_tokens < 256
    assert generate(max_tokens=300, ignore_eos=True).completion_tokens == 300
    assert generate(max_tokens=300, min_tokens=290).completion_tokens == 290


# MARK: openai's SDK


def test_errors_are_the_sdks_own(client):
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError, match="resp_nope"):
        client.responses.create(model="stub-model", input="x", previous_response_id="resp_nope")
    with pytest.raises(openai.NotFoundError, match="resp_nope"):
        client.responses.retrieve("resp_nope")
    for n in (129, 1 << 40):
        with pytest.raises(openai.BadRequestError, match="n must be at most 128"):
            client.completions.create(model="stub-model", prompt="x", n=n)
    with pytest.raises(openai.BadRequestError, match="n must be at most 64"):
        client.completions.create(model="stub-model", prompt=["x", "y"], n=65)
    with pytest.raises(openai.BadRequestError, match="at most 128 prompts"):
        client.completions.create(model="stub-model", prompt=["x"] * 129)


def test_an_echo_with_logprobs_has_those_of_the_prompt(client):
    fields = {"model": "stub-model", "prompt": "Once upon a time", "max_tokens": 3, "echo": True, "logprobs": 2}
    whole = client.completions.create(**fields).choices[0]
    logprobs = whole.logprobs
    assert "".join(logprobs.tokens) == whole.text and whole.text.startswith("Once upon a time")
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:place])) for place in range(len(logprobs.tokens))]
    # Nothing stands before the first token that could have predicted it.
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:]) and all(len(top) == 2 for top in logprobs.top_logprobs[1:])
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**fields, stream=True)]
    assert [token for part in parts for token in part.tokens] == logprobs.tokens
    assert [value for part in parts for value in part.token_logprobs] == logprobs.token_logprobs
    assert [offset for part in parts for offset in part.text_offset] == logprobs.text_offset


# MARK: Operations


def test_sleep_and_adapters_refuse_what_makes_no_sense(stub):
    bad = httpx.post(f"{stub.url}/sleep?level=abc")
    assert (bad.status_code, bad.json()["error"]["message"]) == (400, "invalid literal for int() with base 10: 'abc'")
    assert httpx.get(f"{stub.url}/is_sleeping").json() == {"is_sleeping": False}

    def load(verb="load", **fields):
        answer = httpx.post(f"{stub.url}/v1/{verb}_lora_adapter", json=fields)
        return answer.status_code, answer.json()["error"]["message"]

    assert load(lora_name="a") == (400, "1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_path', "
                                        "'msg': 'Field required', 'input': '<dict of 1 items>'}")  # fmt: skip
    assert load(lora_path="/a")[1].startswith("1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_name'")
    assert load(lora_name="", lora_path="/a") == (400, "Both 'lora_name' and 'lora_path' must be provided.")
    assert load(lora_name="a", lora_path="") == (400, "Both 'lora_name' and 'lora_path' must be provided.")
    assert load("unload", lora_name="") == (400, "'lora_name' needs to be provided to unload a LoRA adapter.")


def test_a_preset_wakes_up_when_its_weights_are_back(start):
    """Llama-3-70B on four A100 has 35 GB of weights on each: from the host in 1.4 s, from storage in 70; here a fiftieth of it."""
    stub = start(processes.Program, "stub", "--listen", "127.0.0.1:0", "--preset", "llama-3-70b-a100-tp4", "--time-scale", "0.02")
    stub.wait_ready()
    httpx.post(f"{stub.url}/sleep?level=1")
    began = time.monotonic()
    assert httpx.post(f"{stub.url}/wake_up", timeout=30).json() == {"status": "awake", "tags": None}
    took = time.monotonic() - began
    assert took >= 0.028
    # From storage it takes several times as long: its client need not wait for it, and what comes meanwhile waits.
    httpx.post(f"{stub.url}/sleep?level=2")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{stub.url}/wake_up", timeout=0.05)
    assert httpx.get(f"{stub.url}/is_sleeping").json() == {"is_sleeping": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}, timeout=0.05)
    wait_until(lambda: json.loads(httpx.get(f"{stub.url}/is_sleeping").text) == {"is_sleeping": False}, 30, "the wake-up")
    assert httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
