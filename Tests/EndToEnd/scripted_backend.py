"""A backend that does exactly what a test tells it: any bytes, at any moment, and any way to die.

All backends share one asyncio loop in a thread of its own; tests talk to it through plain attributes and gates.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass, field

# What a router asks by itself, of every engine. A test that wants these paths for itself sends the field below.
BACKGROUND_PATHS = {b"/v1/models", b"/health", b"/metrics", b"/prometheus/metrics", b"/load", b"/version", b"/ping"}
FOR_THE_SCRIPT = b"x-test-case"


class Hub:
    """The thread with the asyncio loop on which scripted backends live."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine, timeout=10.0):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


class Gate:
    """Holds coroutines of the hub until a test opens it."""

    def __init__(self, hub):
        self._hub = hub
        self._event = asyncio.Event()

    def open(self):
        self._hub.loop.call_soon_threadsafe(self._event.set)

    async def wait(self):
        await self._event.wait()


@dataclass
class Received:
    """One request as it came off the wire; field names and values are bytes in their order."""

    method: bytes
    target: bytes
    version: bytes
    fields: list
    body: bytes = b""
    connection: int = 0
    index: int = 0
    head: bytes = field(default=b"", repr=False)  # as it stood on the wire
    trailers: list = field(default_factory=list)
    backend: object = field(default=None, repr=False)

    def values(self, name):
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def path(self):
        return self.target.split(b"?", 1)[0]


class PeerGone(Exception):
    """The router closed or reset the connection."""


class Exchange:
    """One request with the means to answer it, or not to."""

    def __init__(self, backend, request, reader, writer):
        self.backend = backend
        self.request = request
        self.reader = reader
        self.writer = writer
        self.closed = False

    async def send(self, data):
        if self.closed:
            raise PeerGone
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, RuntimeError):
            raise PeerGone from None

    async def head(self, status=200, fields=(), reason=b"Whatever"):
        lines = [b"HTTP/1.1 %d %s" % (status, reason)]
        lines += [b"%s: %s" % pair for pair in fields]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n")

    async def answer(self, status=200, body=b"", fields=((b"content-type", b"application/json"),)):
        """A whole answer with a content-length, naming the backend that gave it."""
        named = ((b"x-served-by", self.backend.name.encode()), *fields, (b"content-length", b"%d" % len(body)))
        await self.send(
            b"HTTP/1.1 %d Whatever\r\n" % status
            + b"".join(b"%s: %s\r\n" % pair for pair in named)
            + b"\r\n"
            + (b"" if self.request.method == b"HEAD" else body)
        )

    async def event_stream_head(self):
        """The head of an event stream, flushed before anything is computed, as vLLM does."""
        await self.head(
            200,
            (
                (b"x-served-by", self.backend.name.encode()),
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"transfer-encoding", b"chunked"),
            ),
        )

    async def chunk(self, data):
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, text):
        await self.chunk(b"data: " + text.encode() + b"\n\n")

    async def last_chunk(self):
        await self.send(b"0\r\n\r\n")

    def close(self):
        self.closed = True
        self.writer.close()

    def reset(self):
        """Ends the connection with RST."""
        self.closed = True
        self.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()

    async def peer_gone(self):
        """Returns when the router ends the connection; fails when it sends more bytes instead."""
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read(1) == b"", "bytes after the request"
        self.closed = True


class ScriptedBackend:
    """A listening server that calls `script(exchange)` for every request that is not the router's own probing."""

    def __init__(self, hub, script, name="scripted", models=None, send_buffer=None, tls=None, answers_early=None):
        self.hub = hub
        self.script = script
        self.name = name
        self.models = models
        #: Says of a request whose body has not been read whether the script is to be called now.
        self.answers_early = answers_early or (lambda request: False)
        self.tls = tls
        self.requests = []
        self.in_flight = 0
        self.connections = 0
        self.errors = []
        self._writers = set()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if send_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = hub.run(self._start())

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def _start(self):
        return await asyncio.start_server(
            self._connection, sock=self._socket, limit=1 << 20, backlog=4096, ssl=self.tls
        )

    def stop(self):
        """Closes the port and every connection: what is left of an engine whose process is gone."""
        self.hub.run(self._stop())

    async def _stop(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connection(self, reader, writer):
        self._writers.add(writer)
        self.connections += 1
        number, index = self.connections, 0
        try:
            while (request := await self._read_head(reader)) is not None:
                request.connection, request.index, request.backend = number, index, self
                is_early = self.answers_early(request)
                if not is_early:
                    await self._read_body(request, reader, writer)
                index += 1
                exchange = Exchange(self, request, reader, writer)
                if self._is_background(request):
                    await self._answer_background(exchange)
                else:
                    self.requests.append(request)
                    self.in_flight += 1
                    try:
                        await self.script(exchange)
                    finally:
                        self.in_flight -= 1
                if is_early and not exchange.closed:
                    await self._read_body(request, reader, writer)
                if exchange.closed:
                    return
        except (PeerGone, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:  # a script's own failure must reach the test, not only the log
            self.errors.append(error)
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(Exception):
                writer.close()

    @staticmethod
    def _is_background(request):
        return (
            request.method in (b"GET", b"HEAD")
            and request.path in BACKGROUND_PATHS
            and not request.values(FOR_THE_SCRIPT)
        )

    async def _answer_background(self, exchange):
        path = exchange.request.path
        if path == b"/v1/models" and self.models is not None:
            # A name alone is a base model; a pair is a LoRA adapter and its base model.
            entries = [
                {"id": model, "object": "model", "created": 1, "owned_by": "test"}
                if isinstance(model, str)
                else {"id": model[0], "object": "model", "created": 1, "owned_by": "test", "parent": model[1]}
                for model in self.models
            ]
            await exchange.answer(200, json.dumps({"object": "list", "data": entries}).encode())
        elif path in (b"/health", b"/ping"):
            await exchange.answer(200)
        else:
            await exchange.answer(404, b'{"detail":"Not Found"}')

    async def _read_head(self, reader):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.errors.append(AssertionError(f"request cut in its head: {error.partial[:200]!r}"))
            return None
        request_line, *lines = head[:-4].split(b"\r\n")
        method, target, version = request_line.split(b" ", 2)
        fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines]
        return Received(method, target, version, fields, head=head)

    async def _read_body(self, request, reader, writer):
        if request.values(b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lengths, codings = request.values(b"content-length"), request.values(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, f"ambiguous framing reached the backend: {request.head!r}"
        if codings:
            assert codings == [b"chunked"], codings
            request.body = await self._read_chunked(reader, request.trailers)
        elif lengths:
            request.body = await reader.readexactly(int(lengths[0]))

    @staticmethod
    async def _read_chunked(reader, trailers):
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            trailers.append(tuple(part.strip() for part in line.split(b":", 1)))
        return bytes(body)


def events(count):
    """Payloads of a small chat stream."""
    return [json.dumps({"choices": [{"index": 0, "delta": {"content": f"w{i} "}}]}) for i in range(count)]


async def answer_stream(exchange, count=3):
    """A whole, well-ended event stream."""
    await exchange.event_stream_head()
    for payload in events(count):
        await exchange.event(payload)
    await exchange.event("[DONE]")
    await exchange.last_chunk()


async def answer_ok(exchange):
    """A small JSON answer."""
    await exchange.answer(200, b'{"object":"ok"}')


async def answer_as_asked(exchange):
    """A stream when the request asks for one, else JSON."""
    if b'"stream": true' in exchange.request.body:
        await answer_stream(exchange)
    else:
        await answer_ok(exchange)
