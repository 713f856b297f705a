"""An HTTP/2 backend whose test decides every frame."""

import contextlib
import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings
from hyperframe.frame import WindowUpdateFrame

from scripted_backend import BACKGROUND_PATHS


class FrameBackend:
    """Calls `answer(connection, event)` for every event of a request that is not the router's own probing."""

    def __init__(self, answer, stream_limit=100, tls=None, port=0):
        self.answer = answer
        self.stream_limit = stream_limit
        #: A server's `ssl.SSLContext`. OpenSSL wants one thread for a connection: then nothing may be sent but from `answer`.
        self.tls = tls
        self.connections = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'h2' if tls else 'h2c'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        # A close alone would leave the thread's accept() going. A test may have stopped it already.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve_until_gone, args=(accepted,), daemon=True).start()

    def _serve_until_gone(self, accepted):
        with contextlib.suppress(OSError):
            if self.tls:
                accepted = self.tls.wrap_socket(accepted, server_side=True)
            with accepted:
                connection = FrameConnection(accepted, self.stream_limit)
                self.connections.append(connection)
                try:
                    self._serve(connection)
                finally:
                    connection.ended.set()

    def _serve(self, connection):
        while data := connection.socket.recv(1 << 18):
            with connection.lock:
                for event in connection.h2.receive_data(data):
                    if self._is_background(event):
                        connection.h2.send_headers(event.stream_id, [(b":status", b"404")], end_stream=True)
                        connection.background.add(event.stream_id)
                    elif getattr(event, "stream_id", None) not in connection.background:
                        self.answer(connection, event)
                connection.flush()

    @staticmethod
    def _is_background(event):
        if not isinstance(event, h2.events.RequestReceived):
            return False
        head = dict(event.headers)
        if head[b":path"].endswith(b"/GetLoads"):
            return True
        return head[b":method"] == b"GET" and head[b":path"] in BACKGROUND_PATHS


class FrameConnection:
    def __init__(self, accepted, stream_limit):
        self.socket = accepted
        self.lock = threading.Lock()
        self.background = set()
        #: The router has closed it.
        self.ended = threading.Event()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: stream_limit}
        )
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def open_windows(self, stream, size):
        """Credits past what the library counts, so that it may be done after the stream has been answered."""
        frames = [WindowUpdateFrame(stream_id=number, window_increment=size) for number in (stream, 0)]
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))
