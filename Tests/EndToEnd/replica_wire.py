"""What routers of one fleet say to one another, byte by byte: written and read here by another hand than theirs."""

import contextlib
import ctypes
import hmac
import random
import socket
import struct
import time

HEADER = struct.Struct("<4sBBHQQQ")
TAG = 16
VERSION = 2
SIGNED, FAREWELL, QUESTION, HANDOVER = 1, 2, 4, 8


def microseconds():
    return time.time_ns() // 1000


def datagram(payload=b"", key=None, sender=None, clock=None, number=0, flags=0, version=VERSION):
    flags |= SIGNED if key else 0
    clock = microseconds() if clock is None else clock
    sender = random.getrandbits(64) if sender is None else sender
    bare = HEADER.pack(b"SWLR", version, flags, 0, sender, clock, number) + payload
    return bare + (hmac.digest(key, bare, "sha256")[:TAG] if key else b"")


def identity(group):
    """How a group is named in a payload: XXH3 of its name."""
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_64bits.restype = ctypes.c_uint64
    return library.XXH3_64bits(group.encode(), ctypes.c_size_t(len(group.encode())))


def load(group, in_flight, awaiting_first_token, tokens, work=None):
    """What the sender has on a group; the work is no less than the tokens."""
    return struct.pack("<QQIIdd", 1, identity(group), in_flight, awaiting_first_token, tokens, tokens if work is None else work)


def placement(group, hashes, chunk_bytes=512):
    """That a prompt was placed on a group, by the chained hashes of its chunks."""
    return struct.pack(f"<QQ{len(hashes)}Q", 2 | len(hashes) << 16 | chunk_bytes << 32, identity(group), *hashes)


def lesson(group, kind, first, second):
    """What an answer of the group is said to have taught."""
    return struct.pack("<QQff", 4 | kind << 16, identity(group), first, second)


class Read:
    """A datagram that must be one, signed with `key` if there is one."""

    def __init__(self, data, key=None):
        magic, version, flags, zero, self.sender, self.clock, self.number = HEADER.unpack_from(data)
        assert (magic, version, zero) == (b"SWLR", VERSION, 0)
        assert bool(flags & SIGNED) == bool(key)
        end = len(data) - (TAG if key else 0)
        if key:
            assert data[end:] == hmac.digest(key, data[:end], "sha256")[:TAG]
        self.payload = data[HEADER.size : end]
        self.is_farewell = bool(flags & FAREWELL)
        self.is_question = bool(flags & QUESTION)
        self.is_handover = bool(flags & HANDOVER)


class Peer:
    """A socket among the replicas that says what a test wants."""

    def __init__(self, host="127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.heard = []

    def send(self, port, data):
        # A full buffer is no fault of the router's.
        with contextlib.suppress(BlockingIOError):
            self.socket.sendto(data, ("127.0.0.1", port))

    def listen(self):
        """All that has come so far, as bytes."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(self.socket.recv(1 << 16))
        return self.heard

    def close(self):
        self.socket.close()


def udp_ports(count, hosts=("127.0.0.1",)):
    """Ports that are free for UDP on all these hosts; nobody is given them again soon."""
    probes, ports = [], []
    try:
        while len(ports) < count:
            first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            probes.append(first)
            first.bind((hosts[0], 0))
            port = first.getsockname()[1]
            try:
                for host in hosts[1:]:
                    probes.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    probes[-1].bind((host, port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for probe in probes:
            probe.close()
    return ports
