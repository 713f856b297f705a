"""An API server that answers with the bytes which a real one sent (Tests/Recordings/kubernetes), as its time goes by."""

import asyncio
import json
import re

import processes
from kube_api import KubeAPI

FOLDER = processes.REPOSITORY / "Tests" / "Recordings" / "kubernetes"


def response(name):
    """The exact bytes of a recorded answer."""
    text = (FOLDER / f"{name}.http").read_bytes()
    begin = text.index(b"### ---- response bytes follow\n") + len(b"### ---- response bytes follow\n")
    return text[begin : text.rindex(b"\n### ---- end")]


def chunks(body):
    """Recorded chunks, each with its framing; a watch has an event in each."""
    place = 0
    while match := re.compile(rb"([0-9a-fA-F]+)\r\n").match(body, place):
        end = match.end() + int(match[1], 16) + 2
        if int(match[1], 16) == 0:
            return
        yield body[place:end], body[match.end() : end - 2]
        place = end


def listed(name):
    """The objects of a recorded list, and its version."""
    head, _, body = response(name).partition(b"\r\n\r\n")
    text = b"".join(data for _, data in chunks(body)) if b"chunked" in head.lower() else body
    made = json.loads(text)
    return int(made["metadata"]["resourceVersion"]), made["items"]


class ReplayAPI(KubeAPI):
    """Lists as they were at some versions, and the watch that leads from the first to the last. Its time goes on with what it tells:
    it never answers from before what it has told somebody."""

    def __init__(self, hub, lists, watch, **named):
        self.lists = sorted((listed(name)[0], response(name)) for name in lists)
        self.head, _, body = response(watch).partition(b"\r\n\r\n")
        self.events = [(int(json.loads(data)["object"]["metadata"]["resourceVersion"]), raw) for raw, data in chunks(body)]
        self.reached = self.lists[0][0]
        super().__init__(hub, **named)
        self.version = self.oldest = 0

    @property
    def is_at_its_end(self):
        return self.reached >= self.lists[-1][0]

    def start(self):
        """After `stop`: what was before is forgotten."""
        self.version = self.reached
        super().start()

    async def _list(self, writer, plural, query, chosen):
        self.reached, recorded = next(found for found in self.lists if found[0] >= self.reached)
        writer.write(recorded)
        await writer.drain()
        return False

    async def _watch(self, writer, plural, query, chosen):
        if "sendInitialEvents" in query:
            writer.write(response("43-watchlist-no-rvmatch"))
            await writer.drain()
            return False
        told = int(query["resourceVersion"])
        if told < self.oldest:
            writer.write(response("20b-watch-410-event"))
            await writer.drain()
            return False
        writer.write(self.head + b"\r\n\r\n")
        for version, raw in self.events:
            if version > told:
                writer.write(raw)
                self.reached = max(self.reached, version)
                await writer.drain()
                # As the events of a rolling update do, they come one by one.
                await asyncio.sleep(0.002)
        await writer.drain()
        await asyncio.Event().wait()
        return False
