"""Backends of the any-to-any matrix: each request names the plan of its answer, over HTTP/1.1 and over HTTP/2 alike."""

import asyncio
import contextlib
import itertools
import random
import threading
from dataclasses import dataclass, field

import h2.events
import h2.exceptions

from scripted_backend import Received

SEED = random.Random(7).randbytes((1 << 20) + 9)


def content(size, offset=0):
    """Bytes that are the same nowhere else; the larger ones repeat after a megabyte and some."""
    return (SEED * (size // len(SEED) + 2))[offset : offset + size]


@dataclass
class Plan:
    """What a backend does with the request that names it."""

    body: bytes = b""
    fields: tuple = ()
    declared: bool = True
    pieces: int = 1
    trailers: tuple = ()
    #: early: before the body is read. stall, reset: in the middle of the body.
    way: str = "whole"
    request: Received = None
    begun: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    #: The client has the head: over HTTP/1.1 a reset waits for it, which throws away what has not been passed on.
    told: threading.Event = field(default_factory=threading.Event)

    def cut(self, total=None):
        total = len(self.body) if total is None else total
        step = max(1, -(-total // self.pieces))
        return [self.body[at : min(at + step, total)] for at in range(0, total, step)]

    @property
    def sent(self):
        """What of the body is sent before the backend stops."""
        return len(self.body) // 2 if self.way in ("stall", "reset") else len(self.body)


class Plans(dict):
    """Path: Plan."""

    def __init__(self):
        self._numbers = itertools.count()

    def add(self, **named):
        path = f"/cell-{next(self._numbers)}"
        self[path.encode()] = Plan(**named)
        return path, self[path.encode()]


async def http1_script(plans, exchange):
    plan = plans[exchange.request.path]
    plan.request = exchange.request
    is_head = exchange.request.method == b"HEAD"
    framing = (b"Content-Length", b"%d" % len(plan.body)) if plan.declared else (b"Transfer-Encoding", b"chunked")
    head = b"".join(b"%s: %s\r\n" % pair for pair in (*plan.fields, framing))
    data = [b"HTTP/1.1 200 Fine\r\n" + head + b"\r\n"]
    if not is_head:
        for piece in plan.cut(plan.sent):
            data.append(piece if plan.declared else b"%x\r\n%s\r\n" % (len(piece), piece))
        if not plan.declared and plan.way not in ("stall", "reset"):
            data.append(b"0\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in plan.trailers) + b"\r\n")
    for part in data if plan.pieces > 1 else [b"".join(data)]:
        await exchange.send(part)
        await asyncio.sleep(0)
    plan.begun.set()
    if plan.way == "reset":
        await asyncio.to_thread(plan.told.wait, 10)
        exchange.reset()
    elif plan.way == "stall":
        await exchange.peer_gone()
        plan.gone.set()


class StreamAnswers:
    """The same over HTTP/2: what `FrameBackend` calls for every event."""

    def __init__(self, plans):
        self.plans = plans
        self.requests = {}
        self.left = {}

    def __call__(self, connection, event):
        key = (connection, getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            head = dict(event.headers)
            fields = [pair for pair in event.headers if not pair[0].startswith(b":")]
            request = Received(head[b":method"], head[b":path"], b"HTTP/2", [(b"host", head[b":authority"]), *fields])
            request.body = bytearray()
            self.requests[key] = request
            if self.plans[request.path].way == "early":
                self.begin(connection, *key[1:])
        elif isinstance(event, h2.events.DataReceived):
            self.requests[key].body += event.data
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.requests[key].trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamReset):
            self.plans[self.requests[key].path].gone.set()
            self.left.pop(key, None)
        elif isinstance(event, h2.events.StreamEnded):
            plan = self.plans[self.requests[key].path]
            plan.request = self.requests[key]
            if plan.way != "early":
                self.begin(connection, event.stream_id)
        for other, stream in list(self.left):
            if other is connection:
                try:
                    self.push(connection, stream)
                except h2.exceptions.StreamClosedError:  # its reset came in the same read and is the next event
                    self.left.pop((connection, stream), None)

    def begin(self, connection, stream):
        request = self.requests[connection, stream]
        plan = self.plans[request.path]
        fields = [(name.lower(), value) for name, value in plan.fields]
        if plan.declared:
            fields.append((b"content-length", b"%d" % len(plan.body)))
        if request.method == b"HEAD":
            connection.h2.send_headers(stream, [(b":status", b"200"), *fields], end_stream=True)
            return
        connection.h2.send_headers(stream, [(b":status", b"200"), *fields])
        self.left[connection, stream] = [bytearray(piece) for piece in plan.cut(plan.sent)]
        self.push(connection, stream)

    def push(self, connection, stream):
        pieces, plan = self.left[connection, stream], self.plans[self.requests[connection, stream].path]
        while pieces:
            size = min(len(pieces[0]), connection.h2.local_flow_control_window(stream), 16_384)
            if size <= 0:
                return
            connection.h2.send_data(stream, bytes(pieces[0][:size]))
            del pieces[0][:size]
            if not pieces[0]:
                pieces.pop(0)
        del self.left[connection, stream]
        plan.begun.set()
        if plan.way == "reset":
            connection.h2.reset_stream(stream, 2)
        elif plan.way != "stall":
            if plan.trailers:
                connection.h2.send_headers(stream, plan.trailers, end_stream=True)
            else:
                connection.h2.end_stream(stream)
