"""How well the stub keeps its time: many concurrent streams over all engines of one process, and what each of their tokens was late.

    SWIFTLET=.build/release/swiftlet python Tests/EndToEnd/stub_streams.py --replicas 16 --streams 2000 --tokens 400

Two views: the stub's own, of every token (`stub:token_lateness_seconds`: from the end of its step until it had been handed to the kernel),
of the whole run and of the time when all streams were under way, when nothing came or went; and a client's, of four streams per engine (the gap between two tokens less the step time). All other streams are emptied now and then,
and both clients get the CPU only when the stub does not want it (SCHED_IDLE): what is to be measured is the stub.

Each stream has a connection of its own, as from most clients; `--http2` has all but the sampled ones share one per engine, as from a gateway.
Engines step when their first requests happen to have come, and so some together; `--even` spreads the engines of each thread over the step.
`--realtime on` has the stub's threads run ahead of all ordinary ones.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import select
import socket
import struct
import time

import hpack
import httpx

import processes

STEP_MS = 20
SAMPLES_PER_ENGINE = 4
EVENT = b"data: {"
# One for all questions: to make one takes longer than a step.
CLIENT = httpx.Client(timeout=30)


class Answer:
    """Counts the events of a stream as its bytes come."""

    def __init__(self):
        self.events, self.is_complete, self.is_over = 0, False, False
        self._tail = b""

    def feed(self, data):
        data = self._tail + data
        self.events += data.count(EVENT)
        self.is_complete = self.is_complete or b"data: [DONE]" in data
        # What may be the beginning of either, and is neither yet.
        last = data.rfind(b"\n")
        self._tail = data[max(last + 1, len(data) - 16) :]


def question(number, tokens):
    return json.dumps({"prompt": f"stream {number}", "max_tokens": tokens, "ignore_eos": True, "stream": True}).encode()


class Stream(Answer):
    """One request on a connection of its own."""

    #: Holds what comes in half a second many times over.
    RECEIVE_BYTES = 1 << 18

    def __init__(self, port, number, tokens):
        super().__init__()
        body = question(number, tokens)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.RECEIVE_BYTES)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        self.socket.setblocking(False)

    def read(self):
        """Takes what has come; returns how many events that completes."""
        before = self.events
        with contextlib.suppress(BlockingIOError):
            data = None
            # A read that was not full took all; its end is read by the next, which finds nothing or the end of the stream.
            while not self.is_over and (data is None or self.is_complete):
                data = self.socket.recv(self.RECEIVE_BYTES)
                self.is_over = not data
                self.feed(data)
        return self.events - before


class SharedConnection:
    """Many streams on one HTTP/2 connection, whose windows are so wide that they never need to be opened again (RFC 9113)."""

    DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
    END_STREAM, ACK, END_HEADERS = 1, 1, 4
    WIDEST = (1 << 31) - 1

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + self._frame(self.SETTINGS, 0, 0, struct.pack(">HI", 4, self.WIDEST))
            + self._frame(self.WINDOW_UPDATE, 0, 0, struct.pack(">I", self.WIDEST - 65_535))
        )
        self.answers, self._encoder, self._input = {}, hpack.Encoder(), b""

    @staticmethod
    def _frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def ask(self, number, tokens):
        stream, body = 2 * len(self.answers) + 1, question(number, tokens)
        self.answers[stream] = Answer()
        head = self._encoder.encode([(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/v1/completions"),
                                     ("content-type", "application/json")])  # fmt: skip
        self.socket.sendall(
            self._frame(self.HEADERS, self.END_HEADERS, stream, head) + self._frame(self.DATA, self.END_STREAM, stream, body)
        )

    def read(self):
        """Takes what has come."""
        try:
            data = self._input + self.socket.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        at = 0
        while at + 9 <= len(data):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            kind, flags, stream = struct.unpack_from(">BBI", data, at + 3)
            if kind == self.DATA:
                self.answers[stream].feed(data[at + 9 : end])
                self.answers[stream].is_over = flags & self.END_STREAM != 0
            elif kind == self.SETTINGS and not flags & self.ACK:
                self.socket.sendall(self._frame(self.SETTINGS, self.ACK, 0, b""))
            at = end
        self._input = data[at:]

    @property
    def is_over(self):
        return all(answer.is_over for answer in self.answers.values())


def due(numbers, starts, yields):
    """Those numbers, each at its time, which decides when engines step; `yields`: from then on, on the CPU time that nobody else wants."""
    began = time.monotonic()
    for number in sorted(numbers, key=starts.__getitem__):
        time.sleep(max(0.0, began + starts[number] - time.monotonic()))
        yield number
    if yields:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def start(ports, numbers, tokens, starts, yields):
    """The streams of those numbers, each begun at its time; engines take turns."""
    for number in due(numbers, starts, yields):
        yield Stream(ports[number % len(ports)], number, tokens)


def empty(ports, numbers, tokens, starts, yields, results):
    """Holds most of the streams and empties them all twice a second."""
    held = list(start(ports, numbers, tokens, starts, yields))
    while not all(stream.is_over for stream in held):
        for stream in held:
            if not stream.is_over:
                stream.read()
        time.sleep(0.5)
    results.put([(stream.events, stream.is_complete) for stream in held])


def share(ports, numbers, tokens, starts, yields, results):
    """As `empty`, on one connection per engine; twenty times a second, since one socket's buffer holds less than many do."""
    connections = [SharedConnection(port) for port in ports]
    for number in due(numbers, starts, yields):
        connection = connections[number % len(ports)]
        connection.ask(number, tokens)
        connection.read()
    while not all(connection.is_over for connection in connections):
        for connection in connections:
            connection.read()
        time.sleep(0.05)
    results.put([(answer.events, answer.is_complete) for connection in connections for answer in connection.answers.values()])


def sample(ports, numbers, tokens, starts, yields, results):
    """Reads its streams as their tokens come, and notes by how much each gap misses the step time, in ms."""
    watched, last, errors = {}, {}, []
    poll = select.epoll()
    for stream in start(ports, numbers, tokens, starts, yields):
        watched[stream.socket.fileno()] = stream
        poll.register(stream.socket, select.EPOLLIN)
    open_streams = set(watched)
    while open_streams:
        for number, _ in poll.poll():
            stream, now = watched[number], time.monotonic_ns()
            count = stream.read()
            if count and number in last:
                errors.append(abs((now - last[number]) / 1e6 - STEP_MS))
                errors += [STEP_MS] * (count - 1)
            if count:
                last[number] = now
            if stream.is_over:
                poll.unregister(number)
                open_streams.discard(number)
    results.put(([(stream.events, stream.is_complete) for stream in watched.values()], errors))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lateness(ports):
    """Upper bounds in ms with the tokens above the one before and up to each, over all engines."""
    counts = {}
    for port in ports:
        text = CLIENT.get(f"http://127.0.0.1:{port}/metrics").text
        for bound, count in re.findall(r'^stub:token_lateness_seconds_bucket\{.*le="([^"]+)".*\} (\S+)$', text, re.M):
            counts[float(bound) * 1e3] = counts.get(float(bound) * 1e3, 0) + float(count)
    cumulative = sorted(counts.items())
    return [(bound, count - (cumulative[place - 1][1] if place else 0)) for place, (bound, count) in enumerate(cumulative)]


def full_steps(ports, tokens=8):
    """Steps that computed more than so many tokens, over all engines: what says that streams ran beside each other."""
    steps = 0
    for port in ports:
        text = CLIENT.get(f"http://127.0.0.1:{port}/metrics").text
        for sign, what in ((1, "count{"), (-1, f'bucket{{.*le="{float(tokens)}"')):
            steps += sign * float(re.search(rf"^vllm:iteration_tokens_total_{what}.*}} (\S+)$", text, re.M)[1])
    return int(steps)


def percentile(points, share):
    """Of (value, count) in ascending order; between two bounds, as far as its rank is between theirs."""
    total, seen, below = sum(count for _, count in points), 0, 0.0
    for value, count in points:
        if count and seen + count >= share * total:
            return below + (value - below) * (share * total - seen) / count
        seen, below = seen + count, value
    return below


def first_starts(replicas, loops):
    """When each engine's first stream begins, so that steps are as far apart as can be: the engines of a thread, then the threads."""
    order = [number * loops % replicas + number * loops // replicas for number in range(replicas)]
    return [place * STEP_MS / 1e3 / replicas for place in order]


def begun(ports):
    """Streams under way, over all engines; costs them next to nothing."""
    return sum(CLIENT.get(f"http://127.0.0.1:{port}/load").json()["server_load"] for port in ports)


def while_all_run(ports, streams, first_end):
    """The most streams at once, and the lateness of tokens from when all had begun until just before the first may end: points as of
    `lateness`, none when they never ran all together for some time."""
    running = 0
    while running < streams and time.monotonic() < first_end - 1:
        time.sleep(0.05)
        running = max(running, begun(ports))
    if running < streams:
        return running, []
    before = dict(lateness(ports))
    time.sleep(max(0.1, first_end - 0.5 - time.monotonic()))
    still = begun(ports)
    return running, [(bound, count - before[bound]) for bound, count in lateness(ports)] if still == streams else []


def measure(replicas, streams, tokens, seconds=1.0, loops=1, http2=False, yields=False, even=False, realtime="off"):
    """Starts `streams` at random times within `seconds`, evenly over all engines, and waits for their ends. Returns what came of it."""
    program = processes.stub(
        replicas=replicas, prefill_us=1, decode_ms=STEP_MS,
        arguments=["--decode-us-per-sequence", 0, "--max-num-seqs", 1024, "--loops", loops, "--realtime", realtime],
    )  # fmt: skip
    generator = random.Random(1)
    starts = [generator.uniform(0, seconds) for _ in range(streams)]
    if even:
        starts = first_starts(replicas, loops) + [0.1 + start for start in starts[replicas:]]
    sampled = range(min(streams, SAMPLES_PER_ENGINE * replicas))
    results = [multiprocessing.Queue(), multiprocessing.Queue()]
    try:
        before, idle_bytes, began = cpu_seconds(program.pid), program.resident_bytes(), time.monotonic()
        clients = [
            multiprocessing.Process(target=target, args=(program.ports, numbers, tokens, starts, yields, queue), daemon=True)
            for target, numbers, queue in ((sample, sampled, results[0]), (share if http2 else empty, range(len(sampled), streams), results[1]))
        ]
        for client in clients:
            client.start()
        running, steady = while_all_run(program.ports, streams, began + tokens * STEP_MS / 1e3)
        busy_bytes = program.resident_bytes()
        (quick, errors), slow = results[0].get(timeout=300), results[1].get(timeout=300)
        for client in clients:
            client.join(10)
        elapsed, cpu = time.monotonic() - began, cpu_seconds(program.pid) - before
        late, full = lateness(program.ports), full_steps(program.ports)
    finally:
        program.stop()
    errors.sort()
    return {
        "complete": sum(done for _, done in quick + slow),
        # The first event of each stream's last token and all before.
        "events": sum(events for events, _ in quick + slow),
        "running": running,
        "steady_tokens": int(sum(count for _, count in steady)),
        "steady_ms": {share: percentile(steady, share) for share in (0.5, 0.99)},
        "full_steps": full,
        "written": int(sum(count for _, count in late)),
        "late_ms": {share: percentile(late, share) for share in (0.5, 0.99)},
        "gap_error_ms": {share: errors[int(share * (len(errors) - 1))] for share in (0.5, 0.99)} if errors else {},
        "cpu_share": cpu / elapsed,
        "cpu_us_per_token": cpu * 1e6 / max(1, sum(count for _, count in late)),
        "idle_bytes": idle_bytes,
        "busy_bytes": busy_bytes,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--realtime", choices=["on", "off", "auto"], default="off")
    arguments = parser.parse_args()
    result = measure(
        arguments.replicas, arguments.streams, arguments.tokens, loops=arguments.loops, http2=arguments.http2,
        yields=True, even=arguments.even, realtime=arguments.realtime,
    )  # fmt: skip
    late, gaps, engines = result["late_ms"], result["gap_error_ms"], arguments.replicas
    print(f"{result['complete']} of {arguments.streams} streams complete, {result['running']} at once, {result['written']} tokens")
    steady = result["steady_ms"]
    print(f"late at the stub, {result['steady_tokens']} tokens while all streams ran: p50 {steady[0.5]:.2f} ms, p99 {steady[0.99]:.2f} ms")
    print(f"late at the stub, every token: p50 {late[0.5]:.2f} ms, p99 {late[0.99]:.2f} ms")
    print(f"gap between tokens less {STEP_MS} ms, at a client, of {SAMPLES_PER_ENGINE * engines} streams: "
          f"p50 {gaps[0.5]:.2f} ms, p99 {gaps[0.99]:.2f} ms")  # fmt: skip
    print(f"CPU: {result['cpu_us_per_token']:.1f} us per token, requests and all")
    print(f"per engine: {100 * result['cpu_share'] / engines:.1f} % of a core, {result['busy_bytes'] / engines / 1e6:.1f} MB "
          f"({result['idle_bytes'] / engines / 1e6:.1f} MB idle)")  # fmt: skip


if __name__ == "__main__":
    main()
