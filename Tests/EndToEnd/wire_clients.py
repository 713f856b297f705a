"""Clients close to the wire: HTTP/1.1 over a plain socket, and HTTP/2 frame by frame."""

import contextlib
import json
import socket
import ssl
import struct
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events


@dataclass
class Response:
    """An answer as it came: field names and values are bytes in their order."""

    status: int = 0
    version: bytes = b""
    fields: list = field(default_factory=list)
    body: bytes = b""
    trailers: list = field(default_factory=list)
    interim: list = field(default_factory=list)  # informational answers before this one: (status, fields)
    chunked: bool = False
    complete: bool = False  # ended as its framing says; False when the connection ended or the stream was reset
    reset_code: int = None

    def values(self, name):
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name):
        values = self.values(name)
        assert len(values) == 1, f"{name!r} occurs {len(values)} times in {self.fields}"
        return values[0]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def served_by(self):
        return self.value(b"x-served-by").decode()


class ConnectionEnded(Exception):
    """The peer closed or reset the connection; carries what had come before."""

    def __init__(self, received):
        super().__init__(f"connection ended after {received[:300]!r}")
        self.received = received


def connect(port, timeout, receive_buffer=None, tls=None, protocol=None):
    """A connected socket; `tls` is a certificate file to trust, `protocol` what to offer by ALPN."""
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.settimeout(timeout)
    plain.connect(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(tls))
    context.set_alpn_protocols([protocol])
    secured = context.wrap_socket(plain, server_hostname="localhost")
    assert secured.selected_alpn_protocol() == protocol
    return secured


class HTTP1Client:
    """One connection on which a test may send anything at all."""

    def __init__(self, port, timeout=10.0, receive_buffer=None, tls=None):
        self.socket = connect(port, timeout, receive_buffer, tls, "http/1.1")
        self._buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_unless_refused(self, data):
        """Sends as much as the peer takes: it may have answered and closed already."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.socket.sendall(data)

    def request(self, method="POST", target="/v1/chat/completions", body=b"", fields=(), host=b"test"):
        """Sends one request; `body` may be bytes or a JSON value."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + host]
        lines += [b"%s: %s" % pair for pair in fields]
        if body:
            names = {name.lower() for name, _ in fields}
            if b"content-type" not in names:
                lines.append(b"Content-Type: application/json")
            lines.append(b"Content-Length: %d" % len(body))
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        return self

    def _fill(self):
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            raise ConnectionEnded(bytes(self._buffer))
        self._buffer += data

    def _take(self, count):
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def read_until(self, mark):
        start = 0
        while (at := self._buffer.find(mark, start)) < 0:
            start = max(0, len(self._buffer) - len(mark) + 1)
            self._fill()
        return self._take(at + len(mark))

    def read_head(self):
        """The next final head; informational ones before it are in its `interim`."""
        interim = []
        while True:
            status_line, *lines = self.read_until(b"\r\n\r\n")[:-4].split(b"\r\n")
            version, status, *_ = status_line.split(b" ", 2)
            response = Response(int(status), version)
            for line in lines:
                name, value = line.split(b":", 1)
                response.fields.append((name, value.strip(b" \t")))
            if response.status >= 200 or response.status == 101:
                response.interim = interim
                return response
            interim.append((response.status, response.fields))

    def read_body(self, response, method="POST"):
        """Reads the body that belongs to `response`; an early end leaves `complete` False."""
        body = bytearray()
        try:
            if method == "HEAD" or response.status in (204, 304):
                pass
            elif response.values(b"transfer-encoding"):
                assert response.value(b"transfer-encoding").lower() == b"chunked"
                response.chunked = True
                while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
                    body += self._exactly(size, body)
                    assert self._exactly(2, body) == b"\r\n"
                while (line := self.read_until(b"\r\n")) != b"\r\n":
                    name, value = line.split(b":", 1)
                    response.trailers.append((name, value.strip()))
            elif response.values(b"content-length"):
                body += self._exactly(int(response.value(b"content-length")), body)
            else:
                self._to_end(body)
            response.complete = True
        except ConnectionEnded:
            pass
        response.body = bytes(body)
        return response

    def _exactly(self, count, body):
        while len(self._buffer) < count:
            try:
                self._fill()
            except ConnectionEnded:
                body += self._take(len(self._buffer))
                raise
        return self._take(count)

    def _to_end(self, body):
        with contextlib.suppress(ConnectionEnded):
            while True:
                self._fill()
        body += self._take(len(self._buffer))

    def response(self, method="POST"):
        return self.read_body(self.read_head(), method)

    def ended(self):
        """Whether the peer has closed and nothing was left to read; waits up to the socket's time limit."""
        if self._buffer:
            return False
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def ask(port, body=b"", target="/v1/chat/completions", method="POST", fields=(), timeout=10.0, tls=None):
    """One request on a fresh connection, answered in full."""
    with HTTP1Client(port, timeout, tls=tls) as client:
        return client.request(method, target, body, fields).response(method)


class HTTP2Client:
    """One HTTP/2 connection, cleartext with prior knowledge or by ALPN; the test decides what is sent and what is read."""

    def __init__(self, port, timeout=10.0, strict=True, receive_buffer=None, tls=None):
        self.socket = connect(port, timeout, receive_buffer, tls, "h2")
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=strict,
                normalize_outbound_headers=strict,
            )
        )
        self.connection.initiate_connection()
        self.responses = {}
        self.goaway = None
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def request(self, body=b"", target="/v1/chat/completions", method="POST", fields=(), end=True, trailers=()):
        """Starts a stream and returns its id."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        stream = self.connection.get_next_available_stream_id()
        head = [(b":method", method.encode()), (b":scheme", b"http"), (b":authority", b"test"),
                (b":path", target.encode()), *fields]  # fmt: skip
        end = end and not trailers
        self.connection.send_headers(stream, head, end_stream=end and not body)
        self.responses[stream] = Response(body=bytearray())
        self.flush()
        view = memoryview(body)
        while len(view):
            if self.responses[stream].reset_code is not None:
                return stream
            size = min(len(view), self.connection.local_flow_control_window(stream), 16_384)
            if size == 0:
                self.pump()
                continue
            self.connection.send_data(stream, bytes(view[:size]), end_stream=end and size == len(view))
            view = view[size:]
            self.flush()
        if trailers:
            self.connection.send_headers(stream, trailers, end_stream=True)
            self.flush()
        return stream

    def reset(self, stream):
        self.connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.flush()

    def pump(self, acknowledge=True):
        """Reads once; without `acknowledge` the flow-control windows stay as used up as they are."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionEnded(b"")
        self.take(data, acknowledge)

    def take(self, data, acknowledge=True):
        """Takes bytes that were read, and sends what is to be said to them."""
        for event in self.connection.receive_data(data):
            response = self.responses.get(getattr(event, "stream_id", None))
            if isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = event.error_code
            elif response is None:
                continue
            elif isinstance(event, h2.events.InformationalResponseReceived):
                fields = [pair for pair in event.headers if not pair[0].startswith(b":")]
                response.interim.append((int(dict(event.headers)[b":status"]), fields))
            elif isinstance(event, h2.events.ResponseReceived):
                response.fields = [pair for pair in event.headers if not pair[0].startswith(b":")]
                response.status = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                response.body += event.data
                if acknowledge:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                response.trailers = list(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                response.complete = True
            elif isinstance(event, h2.events.StreamReset):
                response.reset_code = event.error_code
        self.flush()

    def response(self, stream):
        """Reads until the stream has ended, was reset, or the connection went away."""
        response = self.responses[stream]
        with contextlib.suppress(ConnectionEnded, ConnectionError):
            while not response.complete and response.reset_code is None and self.goaway is None:
                self.pump()
        return response


def sse_payloads(body):
    """The `data:` payloads of an event stream, in order."""
    return [line[6:].decode() for line in body.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]


def assert_openai_error(response, status, code=None):
    """An error of the router: OpenAI's shape with all four members."""
    assert response.status == status, (response.status, response.body[:500])
    error = response.json["error"]
    assert set(error) >= {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"]
    if code is not None:
        assert error["code"] == code, error
