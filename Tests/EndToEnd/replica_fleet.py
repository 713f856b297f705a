"""Fleets of routers that tell one another what they do, and what can be asked of them."""

import contextlib
import itertools
import json
import secrets

import httpx

import admin
import processes
from replica_wire import Peer, udp_ports
from waiting import wait_until
from wire_clients import ask

TOKEN = b"a token of some length"
numbers = itertools.count()


def fresh(words=300):
    """A prompt that no other test has, of several chunks."""
    text = f"{next(numbers)} {secrets.token_hex(8)} a prompt of its own " * (words // 4)
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 4}


def explain(program, body):
    answer = httpx.post(f"{program.admin_url}/explain", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def replicas(program):
    answer = httpx.get(f"{program.admin_url}/replicas", timeout=5)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    return answer.json()


def known(program):
    return {replica["id"] for replica in replicas(program)["replicas"]}


def received(program, outcome):
    return admin.sample(program, "swiftlet_replica_datagrams_total", direction="received", outcome=outcome)


def sent(program):
    return admin.sample(program, "swiftlet_replica_datagrams_total", direction="sent", outcome="sent")


def placed(program):
    """Placements of others that were taken into the index."""
    return admin.sample(program, "swiftlet_replica_placements_total", direction="received")


def blocks(program):
    """Chunks that are known to be held, by group."""
    return {group["name"]: group["raw"]["prefix_index_blocks"] for group in admin.groups(program)}


def others(program, group):
    """What is taken to be under way there for others: running and waiting."""
    load = next(g["raw"] for g in admin.groups(program) if g["name"] == group).get("load") or {}
    return load.get("others_running", 0) + load.get("others_waiting", 0)


def pinned(program, group, body):
    return ask(program.port, body, fields=[(b"x-swiftlet-group", group.encode()), (b"x-swiftlet-pin-token", TOKEN)])


class Fleet:
    """Makes routers before the same backends; those that listen tell one another."""

    def __init__(self, start, folder, backends):
        self.start = start
        self.folder = folder
        self.backends = backends
        self.groups = [f"127.0.0.1:{backend.port}" for backend in backends]
        self.key = secrets.token_hex(16).encode()
        (folder / "token").write_bytes(TOKEN)

    def router(self, listen=None, peers=(), key=True, more=""):
        number = next(numbers)
        lines = f"load_signals: {{interval: 0s, load_interval: 0s}}\nrouting: {{pin_token_file: {self.folder / 'token'}}}\n{more}"
        if listen:
            lines += f"replicas:\n  listen: {listen}\n  peers: {json.dumps(list(peers))}\n"
        if listen and key:
            file = self.folder / f"key-{number}"
            file.write_bytes((self.key if key is True else key) + b"\n")
            lines += f"  key_file: {file}\n"
        config = self.folder / f"router-{number}.yaml"
        config.write_text(lines)
        return self.start(processes.serve, *(b.url for b in self.backends), admin=True, arguments=("--config", config))

    def routers(self, count=2, **named):
        """So many that know one another."""
        addresses = [f"127.0.0.1:{port}" for port in udp_ports(count)]
        made = [self.router(address, addresses, **named) for address in addresses]
        for router in made:
            wait_until(lambda router=router: len(known(router)) == count - 1, what="the others")
        return made


@contextlib.contextmanager
def strangers():
    """Makes sockets that would like to be replicas."""
    peers = []

    def make(*arguments):
        peers.append(Peer(*arguments))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()
