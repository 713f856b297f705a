"""An HTTP/1.1 server with one worker that stands still once, at a known time. Run as a program: prints its port, and when the stall has ended
how many nanoseconds after the first request that was.

Its clock is the kernel's monotonic one, which the bench's is, too; it starts with the first request."""

import asyncio
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Worker:
    def __init__(self, at_seconds, seconds):
        self.at_seconds, self.seconds = at_seconds, seconds
        self.first = None
        self.free = asyncio.Lock()

    async def stand_still_until(self, end):
        """To some microseconds: a timer alone comes milliseconds late."""
        await asyncio.sleep(end - 0.01 - time.monotonic())
        while time.monotonic() < end:
            pass
        print(round((time.monotonic() - self.first) * 1e9), flush=True)

    async def serve(self, reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.first is None:
                    self.first = time.monotonic()
                async with self.free:
                    since = time.monotonic() - self.first
                    if self.at_seconds <= since < self.at_seconds + self.seconds:
                        await self.stand_still_until(self.first + self.at_seconds + self.seconds)
                writer.write(ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main(at_seconds, seconds):
    worker = Worker(at_seconds, seconds)
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2])))
