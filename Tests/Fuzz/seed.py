#!/usr/bin/env python3
"""Writes the seed corpora from what is written by hand here and from recordings of real engines (RECORDINGS, optional)."""

import base64
import hmac
import os
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent / "corpus"
RECORDINGS = pathlib.Path(os.environ.get("RECORDINGS", ROOT.parents[3] / "shared" / "engine-recordings"))


def escape(data):
    text, column = "", 0
    for byte in data:
        piece = {10: "\\n", 13: "\\r", 92: "\\\\"}.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
        text += piece
        column += len(piece)
        if byte == 10 or column >= 120:
            text, column = text + "\n", 0
    return text if text.endswith("\n") else text + "\n"


def seed(target, name, data):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(escape(data))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


SETTINGS, SETTINGS_ACK = frame(4, 0, 0), frame(4, 1, 0)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
JSON = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}'
SSE = (
    b': ping\n\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":5,'
    b'"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}\r\n\r\ndata: [DONE]\n\n'
)


def post(path, body=JSON, extra=b""):
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (path, extra, len(body), body)


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def request2(stream, path, body=b"", kind=b"application/json", trailers=False):
    head = b"\x83\x86" + literal(b":path", path) + literal(b":authority", b"a") + literal(b"content-type", kind)
    if not body:
        return frame(1, 5, stream, head)
    if trailers:
        return frame(1, 4, stream, head) + frame(0, 0, stream, body) + frame(1, 5, stream, literal(b"x-end", b"1"))
    return frame(1, 4, stream, head) + frame(0, 1, stream, body)


def response2(stream, body, trailers=False):
    head = frame(1, 4, stream, b"\x88" + literal(b"content-type", b"text/event-stream"))
    end = frame(1, 5, stream, literal(b"grpc-status", b"0"))
    return head + (frame(0, 0, stream, body) + end if trailers else frame(0, 1, stream, body))


H1 = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
H1_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(SSE[:40], SSE[40:])

for name, head in {
    "get": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "post": post(b"/v1/chat/completions"),
    "absolute": b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\nConnection: close, x-y\r\nX-Y: 1\r\n\r\n",
    "chunked": b"POST / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n",
    "http10": b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}.items():  # fmt: skip
    seed("request-head", name, head)
for name, head in {"length": H1, "chunked": H1_STREAM, "continue": b"HTTP/1.1 100 Continue\r\n\r\n", "old": b"HTTP/1.0 204 No\r\n\r\n"}.items():
    seed("response-head", name, b"\0" + head)
for name, body in {
    "plain": chunked(b"hello", b"world"), "extension": b"5 ; a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET", "empty": b"0\r\n\r\n",
}.items():  # fmt: skip
    seed("chunked", name, b"\x05" + body)
seed("grpc", "two", b"\x05" + b"\0\0\0\0\x03abc" + b"\1\0\0\0\0" + b"\0\0\0\0\x01x")
seed("grpc", "large", b"\x05" + b"\0\xff\0\0\0abc")


def field(number, value):
    """A protobuf field: a number as a varint, bytes with their length."""
    def varint(rest):
        return bytes([rest & 127 | 128]) + varint(rest >> 7) if rest > 127 else bytes([rest])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(body, flag=0):
    return struct.pack(">BI", flag, len(body)) + body


SAMPLING = field(4, field(8, 77) + field(15, 3) + field(23, 1))
TENSOR = field(1, b"text_input") + field(2, b"BYTES") + field(3, b"\1")
PARAMETERS = b"".join(field(4, field(1, key) + field(2, value)) for key, value in (
    (b"max_tokens", field(2, 40)), (b"cache_salt", field(3, b"s")), (b"lora_name", field(3, b"l"))))  # fmt: skip
for name, control, body in (
    ("text", 0, field(1, b"id") + field(3, b"It was a bright cold day in April") + SAMPLING + field(5, 1)),
    ("ids", 0, field(2, field(1, b"text") + field(2, b"\x01\xac\x02\xff\xff\x07\xff\xff\xff\xff\x0f\x80\x00" * 5)) + SAMPLING),
    ("single-ids", 0, field(2, field(2, 5) + field(2, 70_000)) + b"\x0d1234\x09" + b"12345678" + field(3, 1)),
    ("media", 0, field(2, field(2, b"\1\2\3")) + field(7, field(6, b"hash")) + field(10, b"x") + field(11, field(2, b""))),
    ("infer", 1, field(1, b"m") + field(5, TENSOR + field(5, field(8, b"All happy families are alike"))) + PARAMETERS),
    ("raw", 2, field(1, b"m") + field(5, field(1, b"seed")) + field(5, TENSOR) + field(7, b"") + field(7, b"\x05\0\0\0helloabc")),
):  # fmt: skip
    for cut in (0, 120, 246):
        seed("grpc-call", f"{name}-{cut}", bytes([control + cut]) + body)
CHUNK = field(1, b"\xcf\x0c") + field(2, 200) + field(3, 1) + field(4, 192)
for name, control, body in (
    ("chunks", 3, message(field(1, CHUNK)) * 3 + message(field(2, field(1, b"\x7a") + field(2, b"stop") + field(3, 200) + field(4, 1)))),
    ("complete", 3, message(field(2, field(1, b"\1\2") + field(3, 9) + field(4, 2) + field(5, 8) + field(6, b"\x0a\x04" + bytes(4)) + b"\x3d1234"))),
    ("compressed", 3, message(b"abc", 1) + message(b"") + message(field(1, CHUNK))), ("infer-answer", 4, message(field(1, b"m") + field(5, TENSOR))),
    ("stream-answer", 5, message(field(2, field(6, b"\0\0\0\0"))) + message(field(1, b"no") + field(2, field(3, b"id")))),
):  # fmt: skip
    seed("grpc-call", name, bytes([control]) + body)
seed("scanner", "events", b"\x05" + SSE)
seed("scanner", "error", b'\x05event: error\ndata: {"error":{"message":"x"}}\n\n')
seed("scanner", "json", b'\x05{"id":"x","usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":1}}')
seed("probe", "chat", JSON)
seed("probe", "duplicates", b'{"model":"a","model":"b","max_tokens":1,"max_tokens":2.0,"stream":1,"n":3,"seed":-1,"temperature":0.5}')
seed("probe", "tools", b'{"model":"a","tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"messages":[{"role":"user",'
     b'"content":[{"type":"text","text":"a\\u00e9\\ud83d\\ude00"},{"type":"image_url","image_url":{"url":"data:,"}}]}],"cache_salt":"s"}')  # fmt: skip
seed("probe", "responses", b'\xef\xbb\xbf{"model":"a","instructions":"i","input":[1,2,3],"lora":{"name":"l"},"max_output_tokens":7}')
seed("configuration", "small", b"listeners:\n  - address: 127.0.0.1:80\ngroups:\n  - name: a\n    leader: http://127.0.0.1:1\n")
reference = ROOT.parents[2] / "config" / "swiftlet.yaml"
lines = [line for line in reference.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
seed("configuration", "reference", "\n".join(lines).encode()[:4000])

for letter in b"01234567":
    path = b"/" + bytes([letter])
    seed("downstream", f"http1-{letter - 48}", b"\x14" + post(path) + post(path))
    seed("downstream", f"http2-{letter - 48}", b"\x14" + PREFACE + request2(1, path, JSON) + SETTINGS_ACK + request2(3, path))
seed("downstream", "http1-chunked", b"\x15" + b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n" + chunked(b"a", b"bc") + b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n")
seed("downstream", "http2-frames", b"\x15" + PREFACE + request2(1, b"/1", JSON, trailers=True) + frame(6, 0, 0, b"12345678") + frame(8, 0, 0, b"\0\0\1\0") + request2(3, b"/5") + frame(3, 0, 3, b"\0\0\0\x08") + frame(7, 0, 0, b"\0" * 8))
for control in (0, 1, 4, 8, 16, 64):
    for split in (8, 9):
        seed("upstream-http1", f"length-{control}-{split}", bytes([control, split]) + H1)
        seed("upstream-http1", f"stream-{control}-{split}", bytes([control, split]) + H1_STREAM)
        seed("upstream-http2", f"stream-{control}-{split}", bytes([control, split]) + SETTINGS + SETTINGS_ACK + response2(1, SSE, True) + response2(3, SSE))
seed("upstream-http1", "continue", b"\0\x08HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil close")
seed("upstream-http2", "goaway", b"\0\x08" + SETTINGS + frame(7, 0, 0, b"\0" * 8))
seed("upstream-http2", "refused", b"\0\x08" + SETTINGS + frame(3, 0, 1, b"\0\0\0\x07"))
for name, control, request, answer in (
    ("http1", 0, post(b"/v1/chat/completions") * 2, H1), ("http1-stream", 0x18, post(b"/v1/chat/completions"), H1_STREAM),
    ("busy", 0, post(b"/v1/x"), b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    ("gone", 4, post(b"/v1/x"), b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{\"error\":\"cannot schedule new futures after shutdown\"}"),
    ("to-http2", 1, post(b"/v1/x"), SETTINGS + response2(1, SSE)), ("http2", 2, PREFACE + request2(1, b"/v1/x", JSON), H1_STREAM),
    ("grpc", 0, PREFACE + request2(1, b"/x.Y/Z", b"\0\0\0\0\1a", b"application/grpc"), SETTINGS + response2(1, b"\0\0\0\0\1b", True)),
    ("generate", 0, PREFACE + request2(1, b"/vllm.grpc.engine.VllmEngine/Generate", message(field(3, b"It was a bright cold day") + field(5, 1)), b"application/grpc"),
     SETTINGS + response2(1, message(field(1, CHUNK)) * 2, True)),
    ("generate-later", 8, PREFACE + request2(1, b"/vllm.grpc.engine.VllmEngine/Generate", b"\0\0\0\1\0cut", b"application/grpc", trailers=True),
     SETTINGS + response2(1, message(field(1, CHUNK)), True)),
    ("infer", 0, PREFACE + request2(1, b"/inference.GRPCInferenceService/ModelStreamInfer", message(field(1, b"m")) * 2, b"application/grpc"),
     SETTINGS + response2(1, message(field(1, b"no")), True)),
    ("local", 0, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("chunked", 0, b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(JSON), H1),
):  # fmt: skip
    seed("proxy", name, bytes([control, len(request) >> 8, len(request) & 255]) + request + answer)

REPORT = b"\x42\x1f\n\x14num_requests_waiting\x11\0\0\0\0\0\0\x10@"
for name, control, report in (
    ("text", 0, b"TEXT named_metrics.num_requests_waiting=3.0, named_metrics.kv_cache_usage_perc=0.5"),
    ("json", 0, b'JSON {"named_metrics": {"num_requests_waiting": 3.0, "kv_cache_usage_perc": 0.5}, "x\\"": 1}'),
    ("bin", 0, b"BIN " + base64.b64encode(REPORT)), ("bare", 1, base64.b64encode(REPORT)),
):  # fmt: skip
    seed("load-header", name, bytes([control]) + report)
for name, text in {
    "vllm": b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_name="m"} 2.0\n'
    b'vllm:num_requests_running{engine="1",model_name="m"} 3.0\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100",kv_cache_size_tokens="1600"} 1.0\n',
    "lora": b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,\\"b\\\\",waiting_lora_adapters=""} 1.7e+09\n',
    "sglang": b'sglang:num_queue_reqs{priority="",tp_rank="0"} 4 1700000000\r\nsglang:token_usage 0.5 # {x="1"} 2\n',
    "sglang-loads": b'# TYPE sglang_num_waiting_reqs gauge\nsglang_num_waiting_reqs{dp_rank="0"} 4\nsglang_num_waiting_uncached_tokens{dp_rank="0"} 6144\n'
    b'sglang_num_prealloc_ready_tokens{dp_rank="0"} 0\n',
    "triton": b'nv_trt_llm_request_metrics{request_type="waiting"} 4\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 9\n',
    "broken": b'vllm:num_requests_running{engine="0\nvllm:num_requests_waiting{} NaN\nvllm:num_requests_waiting 1e400\nvllm:num_req',
}.items():
    seed("engine-metrics", name, b"\x09" + text)

def page(running, waiting, first_tokens, ended, looked_up, found, prefilled, prefilled_found, usage=0.25):
    """What of vLLM's metrics tells who has no first token yet."""
    return (
        "vllm:num_requests_running %g\nvllm:num_requests_waiting %g\nvllm:time_to_first_token_seconds_count %g\n"
        'vllm:request_success_total{finished_reason="stop"} %g\nvllm:prefix_cache_queries_total %g\nvllm:prefix_cache_hits_total %g\n'
        'vllm:prompt_tokens_total %g\nvllm:prompt_tokens_by_source_total{source="local_cache_hit"} %g\nvllm:kv_cache_usage_perc %g\n'
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n'
        % (running, waiting, first_tokens, ended, looked_up, found, prefilled, prefilled_found, usage)
    ).encode()


PAGES = [page(0, 0, 5, 5, 900, 100, 900, 100), page(2, 1, 5, 5, 1500, 200, 900, 100), page(3, 0, 6, 5, 1900, 300, 1200, 150, 0.95)]
seed("engine-metrics", "vllm-life", b"\x09" + b"\0".join([*PAGES, page(1, 0, 8, 7, 1900, 300, 1900, 300), PAGES[0]]))
seed("engine-metrics", "vllm-odd", b"\x09" + b"\0".join([PAGES[0], page(-1, 1e300, 2**53, 3, float("nan"), 4, 1, 9), PAGES[1]]))


def step(field, value, flags=0):
    return bytes([field | flags, 0, value])


READ = b"\x0c\x63"
BUSY = b"".join(step(*pair) for pair in ((0, 3), (1, 2), (2, 1), (5, 200), (6, 40), (7, 90), (8, 10), (9, 1), (10, 250)))
for name, data in {
    "life": READ + BUSY + READ + step(2, 2) + step(3, 1) + step(7, 80) + READ + step(0, 0, 0x80) + step(1, 0, 0x80) + step(3, 2) + READ,
    "preempted": BUSY + READ + step(4, 1) + step(1, 3) + READ + step(5, 90) + READ + READ,
    "again": BUSY + READ + step(2, 0, 0x80) + step(5, 0, 0x80) + READ,
    "without": BUSY + b"\x4c\x63" + READ + step(8, 0, 0x40) + READ, "forgotten": (BUSY + b"\x8c\xff") * 12,
    "ranks": step(11, 3) + (BUSY + READ) * 3, "extremes": b"\x80\x80\x05" + READ + b"\x8a\x80\x0a\x85\x80\x05" + READ + b"\x80\x80\x0a" + READ,
}.items():  # fmt: skip
    seed("engine-backlog", name, data)

# Ranks of a GetLoadsResponse: numbers, then the share of the cache.
RANK = b"\x08%c\x10\x03\x18\x02\x20\x05\x28\x80\x01\x30\x80\x08\x39" + struct.pack("<d", 0.125)
for name, message in {
    "empty": b"",
    "ranks": b"\x18\x02" + b"".join(b"\x22%c" % len(RANK % n) + RANK % n for n in range(2)) + b"\x2a\x02\x08\x06",
    "idle": b"\x0a\x01z\x12\x010\x18\x01\x22\x00",
    "extremes": b"\x22\x1e\x10" + b"\xff" * 9 + b"\x01\x30\xff\xff\xff\xff\x07\x39" + struct.pack("<d", float("nan")) + b"\x28\x01\x18\x07",
}.items():
    seed("engine-loads", name, b"\0" + struct.pack(">I", len(message)) + message)
seed("engine-loads", "compressed", b"\x01\0\0\0\x02\x22\0")

ENVELOPE = b"SWLR\x02%s\0\0" + struct.pack("<QQQ", 7, 1_700_000_000_000_000, 3)
for name, data in {
    "heartbeat": b"\0" + ENVELOPE % b"\0",
    "farewell": b"\0" + ENVELOPE % b"\2",
    "payload": b"\0" + ENVELOPE % b"\0" + b"news",
    "signed": b"\1" + ENVELOPE % b"\1" + b"news"
    + hmac.digest(b"sixteen bytes ok", ENVELOPE % b"\1" + b"news", "sha256")[:16],
    "unknown-tag": b"\0" + ENVELOPE % b"\1" + b"news" + bytes(16),
    "flags": b"\0" + ENVELOPE % b"\4",
    "version": b"\0" + (ENVELOPE % b"\0").replace(b"\x02", b"\x01", 1),
    "seal": b"\2some payload",
    "seal-signed": b"\x63some payload",
}.items():
    seed("replica-envelope", name, data)

# Records of 64-bit words; a group is known by XXH3 of its name, "a".
GROUP = 0xE6C632B61E964E1F
for name, words in {
    "load": [1, GROUP, 3 | 2 << 32, 0x4096_0000_0000_0000, 0x4099_0000_0000_0000], "placement": [2 | 4 << 16 | 512 << 32, GROUP, 11, 12, 13, 14],
    "turn": [3 | 4 << 16 | 100 << 32, GROUP, 99],
    "all": [1, GROUP, 3, 0, 0, 2 | 1 << 16 | 256 << 32, GROUP, 5, 3, GROUP, 1, 1, GROUP, 0, 0, 0],
    "former": [5 | 3 << 16 | 512 << 32, GROUP, 11, 12, 13, 2 | 2 << 16 | 512 << 32, GROUP, 11, 12],
    "taken-back": [2 | 2 << 16 | 512 << 32, GROUP, 11, 12, 2 | 4 << 16 | 512 << 32, GROUP, 11, 12, 13, 14, 6, GROUP, 14, 6, GROUP, 12],
    "taken-back-twice": [2 | 1 << 16 | 1 << 32, GROUP, 7, 6, GROUP, 7, 6, GROUP, 7, 6, 12_345, 7, 6 | 1 << 16, GROUP, 7],
    "nobody": [1, 12_345, 3, 0, 0], "negative": [1, GROUP, 2**64 - 1, 0xFFF0_0000_0000_0000, 0xBFF0_0000_0000_0000],
    "version-1": [1, GROUP, 3, 0], "short": [2 | 9 << 16 | 1 << 32, GROUP, 1],
}.items():  # fmt: skip
    seed("replica-message", name, struct.pack(f"<{len(words)}Q", *words))

for path in sorted(RECORDINGS.glob("*/*.re*"))[::9]:
    data = path.read_bytes()
    if len(data) > 3000:
        continue
    name = f"{path.parent.name}-{path.stem}"
    body = data.split(b"\r\n\r\n", 1)[-1]
    if path.suffix == ".req":
        seed("probe", name, body)
    elif data.startswith(b"HTTP/1"):
        seed("upstream-http1", name, b"\0\x08" + data)
        seed("scanner", name, b"\x05" + body)
