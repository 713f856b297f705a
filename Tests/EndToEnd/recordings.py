"""The recorded answers of real engines: found, parsed and judged fit to be served again."""

import os
import pathlib
from dataclasses import dataclass

import processes

FOLDER = pathlib.Path(
    os.environ.get("SWIFTLET_RECORDINGS", processes.REPOSITORY.parent / "shared" / "engine-recordings")
)
FOLDERS = ("vllm", "llama", "vllm-embed", "vllm-lora", "vllm-b")

# Fields that belong to one hop (RFC 9110 section 7.6.1) or frame the body: the router makes its own.
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer", b"upgrade",
    b"content-length",
}  # fmt: skip

# Paths that the router answers itself.
LOCAL = ("/health", "/readiness", "/version", "/v1/models", "/openai/v1/models")


class Unfit(Exception):
    """Why a recording is not a single well-framed HTTP/1.1 answer."""


@dataclass
class Recording:
    """One recorded answer: what to ask for it, the bytes to serve, and what must arrive."""

    name: str
    method: str
    target: str
    request_body: bytes
    raw: bytes
    status: int
    fields: list
    body: bytes
    closes: bool


def forwarded_fields(fields):
    """The fields that a proxy must hand on, with lower-case names, in their order."""
    named = {
        token.strip().lower() for name, value in fields if name.lower() == b"connection" for token in value.split(b",")
    }
    return [
        (name.lower(), value)
        for name, value in fields
        if name.lower() not in HOP_BY_HOP | named and name.lower() != b"x-request-id"
    ]


def parse_fields(lines):
    fields = []
    for line in lines:
        if b":" not in line:
            raise Unfit(f"a header line without a colon: {line[:60]!r}")
        name, value = line.split(b":", 1)
        fields.append((name, value.strip(b" \t")))
    return fields


def dechunk(data):
    """The decoded body and what follows it."""
    body = b""
    while True:
        line, mark, data = data.partition(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise Unfit(f"not a chunk size: {line[:40]!r}") from None
        if not mark or len(data) < size + 2:
            raise Unfit("cut within its chunks")
        if size == 0:
            trailer, mark, rest = data.partition(b"\r\n")
            if trailer or not mark:
                raise Unfit("trailer or no end after the last chunk")
            return body, rest
        if data[size : size + 2] != b"\r\n":
            raise Unfit("a chunk longer than its size")
        body, data = body + data[:size], data[size + 2 :]


def load(path):
    """Parses `NAME.resp` with its `NAME.req`; raises `Unfit`."""
    raw = path.read_bytes()
    head, mark, rest = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    if not mark or not status_line.startswith(b"HTTP/1."):
        raise Unfit("no HTTP answer")
    status = int(status_line.split(b" ")[1])
    if status < 200:
        raise Unfit("an interim answer only")
    fields = parse_fields(lines)
    method, target, request_body = request_of(path.with_suffix(".req"), path)
    names = {name.lower(): value for name, value in fields}
    if method == "HEAD":
        body, left = b"", rest
    elif b"transfer-encoding" in names:
        body, left = dechunk(rest)
    elif b"content-length" in names:
        length = int(names[b"content-length"])
        if len(rest) < length:
            raise Unfit(f"content-length {length}, recorded body {len(rest)}")
        body, left = rest[:length], rest[length:]
    else:
        body, left = rest, b""
    if left:
        raise Unfit("more than one answer in the file")
    framed = method == "HEAD" or b"transfer-encoding" in names or b"content-length" in names
    return Recording(
        name=f"{path.parent.name}/{path.stem}",
        method=method, target=target, request_body=request_body,
        raw=raw, status=status, fields=fields, body=body,
        closes=not framed or b"close" in names.get(b"connection", b"").lower(),
    )  # fmt: skip


def request_of(path, response_path):
    """Method, target and body of the recorded request; a stand-in where the router would not forward it as it is."""
    stand_in = f"/replay/{response_path.parent.name}/{response_path.stem}"
    head, _, body = path.read_bytes().partition(b"\r\n\r\n") if path.exists() else (b"", b"", b"")
    words = head.split(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or words[0] == "PRI":
        return "POST", stand_in, b"{}"
    method, target, _ = words
    route = target.split("?")[0].rstrip("/")
    if not target.startswith("/") or route in LOCAL or route.startswith("/v1/models/"):
        target = stand_in
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    if not lengths or len(body) != int(lengths[0]):  # chunked, abridged or absent: the body is not the point here
        body = b"{}" if method == "POST" else b""
    return method, target, body


def load_all():
    """All fit recordings, and the unfit with their reasons."""
    fit, unfit = [], {}
    for folder in FOLDERS:
        for path in sorted((FOLDER / folder).glob("*.resp")):
            try:
                fit.append(load(path))
            except Unfit as reason:
                unfit[f"{folder}/{path.stem}"] = str(reason)
    return fit, unfit
