"""A line between a server of ours and its client that cuts, truncates, stalls, delays and splits at any byte, by a seed."""

import asyncio
import random


class LineGone(ConnectionError):
    """The line has failed; the server's side ends with it."""


class Faults:
    """What goes wrong on all lines of one server: `probability` of a fault on each answer, until it is set to 0."""

    KINDS = ("cut", "truncate", "stall", "delay", "split")

    def __init__(self, seed, probability=0.7, longest=6_000):
        self.random = random.Random(seed)
        self.probability = probability
        self.longest = longest
        self.happened = []

    def plan(self):
        """(kind, bytes before it) of the next answer; None: all goes well."""
        if self.random.random() >= self.probability:
            return None
        made = (self.random.choice(self.KINDS), self.random.randrange(self.longest))
        self.happened.append(made[0])
        return made


class FaultyLine:
    """A `StreamWriter` to write to and to drain, whose bytes suffer what the plan says."""

    def __init__(self, writer, faults=None):
        self.writer = writer
        self._faults = faults
        self._plan = None
        self._sent = 0
        self._buffer = bytearray()

    def begin_answer(self):
        self._plan = self._faults.plan() if self._faults else None
        self._sent = 0

    def write(self, data):
        self._buffer += data

    async def drain(self):
        data, self._buffer = bytes(self._buffer), bytearray()
        while data:
            piece = self._piece(data)
            self.writer.write(piece)
            await self.writer.drain()
            data = data[len(piece) :]
            self._sent += len(piece)
            await self._suffer()

    def _piece(self, data):
        if not self._plan:
            return data
        kind, after = self._plan
        if kind in ("delay", "split"):
            return data[: self._faults.random.randint(1, 300)]
        return data[: max(0, after - self._sent)] if self._sent < after else b""

    async def _suffer(self):
        kind, after = self._plan or (None, 0)
        if kind == "split":
            # Yields, so that the piece is a read of its own.
            await asyncio.sleep(0)
        elif kind == "delay":
            await asyncio.sleep(0.003)
        elif kind and self._sent >= after:
            if kind == "stall":
                await asyncio.Event().wait()
            if kind == "cut":
                self.writer.transport.abort()
            raise LineGone(kind)
