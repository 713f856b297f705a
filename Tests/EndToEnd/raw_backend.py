"""A backend that holds the bare socket: it may answer before it has read, read half, or go in any state."""

import contextlib
import socket
import struct
import threading

from scripted_backend import BACKGROUND_PATHS


class RawConnection:
    """One accepted connection with the head that came first on it and what came behind."""

    def __init__(self, accepted):
        self.socket = accepted
        # A short answer would wait until what came before it, a TLS ticket for one, is acknowledged; and a reset would take it away.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def read_head(self):
        """The next head, or None when the router has closed."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.buffer += data
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return head

    def read(self, size):
        """Exactly so many bytes, or fewer at the end."""
        while len(self.buffer) < size:
            data = self.socket.recv(1 << 16)
            if not data:
                break
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def send(self, data):
        self.socket.sendall(data)

    def answer(self, body=b"ok", fields=b""):
        self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), fields, body))

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class RawBackend:
    """Calls `script(connection, head)` in a thread for each connection that brings a request which is not the router's own."""

    def __init__(self, script, backlog=128, tls=None):
        self.script = script
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        if tls:
            self._listener = tls.wrap_socket(self._listener, server_side=True)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted):
        connection = RawConnection(accepted)
        with contextlib.suppress(OSError), accepted:
            head = connection.read_head()
            while head is not None and head.startswith(b"GET ") and head.split(b" ", 2)[1] in BACKGROUND_PATHS:
                connection.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                head = connection.read_head()
            if head is not None:
                self.connections += 1
                self.script(connection, head)
