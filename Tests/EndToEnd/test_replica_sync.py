"""Routers of one fleet that tell one another where prompts are and what is under way; and whoever would like to be one of them."""

import itertools
import json
import os
import threading
import time

import pytest
from dnslib import QTYPE, RCODE, RR, A

import admin
import processes
from replica_fleet import (
    TOKEN, Fleet, blocks, explain, fresh, known, others, pinned, placed, received, replicas, sent, strangers,
)  # fmt: skip
from replica_wire import FAREWELL, Peer, Read, datagram, lesson, load, udp_ports
from scripted_backend import answer_ok
from test_dns import Zone
from waiting import wait_until
from wire_clients import HTTP1Client, ask


@pytest.fixture
def fleet(start, scripted, tmp_path):
    return lambda count=4, script=answer_ok: Fleet(start, tmp_path, [scripted(script) for _ in range(count)])


@pytest.fixture
def stranger():
    with strangers() as make:
        yield make


# What is told ---------------------------------------------------------------------------------------------------------


def test_what_one_has_placed_is_a_hit_for_the_others(fleet):
    fleet = fleet()
    first, second, third = fleet.routers(3)
    lone = fleet.router()
    prompts = {}
    for group in fleet.groups:
        # Not where it would go by itself.
        prompts[group] = next(body for body in iter(fresh, None) if explain(lone, body)["group"] != group)
        assert pinned(first, group, prompts[group]).served_by == fleet.backends[fleet.groups.index(group)].name
    for group, body in prompts.items():
        for router in (second, third):
            told = wait_until(lambda r=router, b=body: explain(r, b)["reason"] == "prefix" and explain(r, b), what="the hit")
            assert told["group"] == group
            assert next(g for g in told["groups"] if g["chosen"])["cached_tokens"] > 100
        # Without a word from the others it is a prompt like any other.
        told = explain(lone, body)
        assert told["reason"] == "cold" and told["group"] != group
        assert ask(second.port, body).served_by == fleet.backends[fleet.groups.index(group)].name
        assert ask(lone.port, body).served_by != fleet.backends[fleet.groups.index(group)].name
    assert admin.sample(first, "swiftlet_replica_placements_total", direction="sent") == 4
    assert admin.sample(second, "swiftlet_replica_placements_total", direction="received") >= 4
    entry = next(r for r in replicas(second)["replicas"] if r["id"] == replicas(first)["id"])
    assert entry["placements"] == 4 and entry["lost"] == 0 and entry["datagrams"] > 0
    assert replicas(lone) == {"enabled": False, "replicas": []}
    assert "swiftlet_replicas" not in admin.metrics(lone)


async def refuse_if_told(exchange):
    if exchange.backend.refuses:
        await exchange.answer(503, b"{}")
    else:
        await answer_ok(exchange)


def test_a_placement_that_the_engine_refused_is_no_hit_for_the_others(fleet):
    fleet = fleet(script=refuse_if_told)
    for backend in fleet.backends:
        backend.refuses = False
    first, second = fleet.routers()
    body = fresh()
    refusing = explain(first, body)["group"]
    fleet.backends[fleet.groups.index(refusing)].refuses = True
    # Retried elsewhere.
    served_by = ask(first.port, body).served_by
    chosen = fleet.groups[[backend.name for backend in fleet.backends].index(served_by)]
    assert chosen != refusing

    def cached(router):
        return {group["name"]: group["cached_tokens"] for group in explain(router, body)["groups"]}

    # Told in this order, so that nothing is awaited that was never told.
    wait_until(lambda: placed(second) == 2 and cached(second)[chosen] > 100, what="the placements")
    wait_until(lambda: cached(second)[refusing] == 0, what="the one that failed to be taken back")
    for router in (first, second):
        assert [group for group, count in blocks(router).items() if count > 0] == [chosen]
    wait_until(lambda: all(others(second, group) == 0 for group in fleet.groups), what="the end of it")


async def hold(exchange):
    """Streams its first event and goes on when the gate opens."""
    await exchange.event_stream_head()
    if exchange.request.values(b"x-hold"):
        await exchange.backend.gate.wait()
    await exchange.event('{"choices":[{"delta":{"content":"a"}}]}')
    await exchange.event("[DONE]")
    await exchange.last_chunk()


class Held:
    """Requests under way on one group, through one router, that have no first token."""

    def __init__(self, router, group, count):
        self.clients = [HTTP1Client(router.port) for _ in range(count)]
        for client in self.clients:
            body = json.dumps(fresh() | {"stream": True}).encode()
            fields = [b"x-hold: 1", b"x-swiftlet-group: " + group.encode(), b"x-swiftlet-pin-token: " + TOKEN]
            head = [b"POST /v1/chat/completions HTTP/1.1", b"host: a", b"content-type: application/json", *fields]
            client.socket.sendall(b"\r\n".join([*head, b"content-length: %d" % len(body), b"", b""]) + body)

    def close(self):
        for client in self.clients:
            client.socket.close()


@pytest.fixture
def busy_fleet(fleet, gate):
    fleet = fleet(2, hold)
    for backend in fleet.backends:
        backend.gate = gate
    return fleet


def prompt_for(router, group):
    """One that goes there as things stand."""
    return next(body for body in itertools.islice(iter(fresh, None), 200) if explain(router, body)["group"] == group)


def test_what_one_has_under_way_counts_for_the_others_until_it_ends(busy_fleet, gate):
    first, second = busy_fleet.routers()
    group = busy_fleet.groups[0]
    body = prompt_for(second, group)
    held = Held(first, group, 8)
    wait_until(lambda: others(second, group) == 8, what="the load")
    assert others(second, busy_fleet.groups[1]) == 0
    told = explain(second, body)
    assert told["group"] == busy_fleet.groups[1]
    assert next(g for g in told["groups"] if g["name"] == group)["seconds"]["queue_wait"] > 0
    assert admin.sample(second, "swiftlet_others_waiting", group=group) == 8
    assert others(first, group) == 0
    gate.open()
    wait_until(lambda: others(second, group) == 0, what="the end of it")
    assert explain(second, body)["group"] == group
    held.close()


def test_a_router_that_dies_has_nothing_and_is_taken_up_again(busy_fleet):
    ports = udp_ports(2)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    first, second = (busy_fleet.router(address, addresses) for address in addresses)
    wait_until(lambda: known(first) == {replicas(second)["id"]} and known(second) == {replicas(first)["id"]}, what="each other")
    group = busy_fleet.groups[0]
    held = Held(first, group, 5)
    wait_until(lambda: others(second, group) == 5, what="the load")
    former = replicas(first)["id"]
    first.kill()
    held.close()
    wait_until(lambda: not known(second), timeout=10, what="the dead to be forgotten")
    assert others(second, group) == 0
    assert admin.sample(second, "swiftlet_replicas") == 0
    again = busy_fleet.router(addresses[0], addresses)
    wait_until(lambda: known(second) == {replicas(again)["id"]}, what="its successor")
    assert former not in known(second)
    held = Held(again, group, 3)
    wait_until(lambda: others(second, group) == 3, what="its load")
    held.close()


def test_a_router_that_ends_takes_leave(busy_fleet):
    first, second = busy_fleet.routers()
    first.signal(15)
    begin = time.monotonic()
    wait_until(lambda: not known(second), what="the leave")
    # Silence alone would take three seconds.
    assert time.monotonic() - begin < 2
    assert first.wait_exit() == 0


@pytest.mark.parametrize("length, former", [(14, 0.001), (0, 14)])
def test_lies_about_what_answers_teach_stop_nobody(fleet, stranger, length, former):
    fleet, peer = fleet(), stranger()
    port = udp_ports(1)[0]
    router = fleet.router(f"127.0.0.1:{port}", [f"127.0.0.1:{peer.port}"], key=False)
    lies = lesson(fleet.groups[0], 2, length, former) * 2_000
    for number in range(5):
        peer.send(port, datagram(lies, sender=5, number=number))
    wait_until(lambda: received(router, "taken") == 5, what="the lies to be read")
    assert explain(router, fresh())["group"] in fleet.groups
    assert ask(router.port, fresh()).status == 200


def test_routers_that_have_nothing_to_tell_are_nearly_silent(fleet):
    first, _ = fleet(1).routers()
    begin, count = time.monotonic(), sent(first)
    wait_until(lambda: sent(first) >= count + 6, timeout=10, what="three heartbeats, to two addresses")
    assert time.monotonic() - begin > 1.9


# Who is believed ------------------------------------------------------------------------------------------------------


def test_another_key_is_refused_on_both_sides(fleet):
    fleet = fleet()
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(2)]
    first = fleet.router(addresses[0], addresses)
    second = fleet.router(addresses[1], addresses, key=b"another key of some length")
    for router in (first, second):
        wait_until(lambda router=router: received(router, "unauthenticated") > 1, what="a refusal")
        assert known(router) == set()
        assert router.stderr.count("is not signed with the key of replicas.key_file") == 1
    group, body = fleet.groups[0], prompt_for(first, fleet.groups[1])
    pinned(first, group, body)
    count = received(second, "unauthenticated")
    wait_until(lambda: received(second, "unauthenticated") > count, what="the news to be refused")
    assert explain(second, body)["reason"] == "cold"


def test_a_router_without_a_key_names_it(fleet):
    fleet = fleet()
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(2)]
    fleet.router(addresses[0], addresses)
    second = fleet.router(addresses[1], addresses, key=False)
    wait_until(lambda: "is signed, and replicas.key_file is not set here" in second.stderr, what="the reason")
    assert known(second) == set() and replicas(second)["authenticated"] is False


def test_what_is_said_is_signed_and_can_be_read(fleet, stranger):
    fleet, peer = fleet(), stranger()
    port = udp_ports(1)[0]
    router = fleet.router(f"127.0.0.1:{port}", [f"127.0.0.1:{peer.port}"])
    wait_until(peer.listen, what="a heartbeat")
    ask(router.port, fresh())
    wait_until(lambda: any(Read(data, fleet.key).payload for data in peer.listen()), what="the news")
    read = [Read(data, fleet.key) for data in peer.heard]
    assert {f"{r.sender:016x}" for r in read} == {replicas(router)["id"]}
    assert [r.number for r in read] == list(range(len(read)))
    assert [r.clock for r in read] == sorted({r.clock for r in read})
    assert not read[0].payload and not any(r.is_farewell for r in read)
    router.stop()
    peer.listen()
    assert Read(peer.heard[-1], fleet.key).is_farewell


def test_nonsense_is_counted_and_does_no_harm(fleet, stranger):
    fleet, peer = fleet(), stranger()
    first, second = fleet.routers()
    port = int(replicas(first)["address"].rsplit(":", 1)[1])
    key, sender = fleet.key, 77
    good = datagram(key=key, sender=sender, number=5)

    def counted(outcome, *datagrams):
        before = received(first, outcome)
        for data in datagrams:
            peer.send(port, data)
        wait_until(lambda: received(first, outcome) == before + len(datagrams), what=f"{outcome} to be counted")

    counted("malformed", b"", b"x", os.urandom(100), os.urandom(65_000), good[:31], datagram(key=key, version=1), datagram(key=key, version=3))
    # Longer than any is made, whole and signed.
    counted("malformed", datagram(bytes(60_001), key))
    counted("unauthenticated", datagram(b"12345678", key)[:-1], good[:40] + bytes(8), datagram(), datagram(key=b"a guess of this length"))
    changed = bytearray(datagram(b"12345678", key))
    changed[-20] ^= 1
    counted("unauthenticated", bytes(changed))
    # Played back, or overtaken.
    peer.send(port, good)
    wait_until(lambda: f"{sender:016x}" in known(first), what="the one that is good")
    counted("late", good, datagram(key=key, sender=sender, clock=1 + int.from_bytes(good[16:24], "little") - 100, number=4))
    # A minute apart, either way: recorded long ago, or a clock that is wrong.
    now = time.time_ns() // 1000
    counted("clock", datagram(key=key, clock=now - 61_000_000, sender=78), datagram(key=key, clock=now + 90_000_000, sender=79))
    assert "s behind ours" in first.stderr and "s ahead of ours" in first.stderr
    # Signed, and not understood by the routing table.
    counted("malformed", datagram(os.urandom(64), key, sender), datagram(bytes(7), key, sender))
    counted("malformed", datagram(bytes([1, 0, 9, 0, 0, 0, 0, 0]) * 4, key, sender))
    peer.send(port, datagram(key=key, sender=sender, flags=FAREWELL))
    wait_until(lambda: f"{sender:016x}" not in known(first), what="the leave")
    counted("late", good)
    # All of it has changed nothing.
    assert known(first) == {replicas(second)["id"]}
    group = fleet.groups[2]
    body = prompt_for(second, fleet.groups[0])
    assert pinned(second, group, body).status == 200
    wait_until(lambda: explain(first, body)["group"] == group, what="what the other has placed")
    assert len([line for line in first.stderr_lines if "replicas:" in line]) == 5


def test_a_replica_that_lies_cannot_stop_routing(fleet, stranger):
    """Loads that nobody can have, of groups that are there: no number goes wrong, and when the liar leaves all is as before."""
    fleet, peer = fleet(2), stranger()
    first, _ = fleet.routers()
    port = int(replicas(first)["address"].rsplit(":", 1)[1])
    body = prompt_for(first, fleet.groups[0])
    absurd = (-1e300, 0, float("inf"), float("nan"), 1e12)
    lies = itertools.product((0, 5, 2**31, 2**32 - 1), (0, 7, 2**32 - 1), absurd, (None, *absurd))
    for number, (in_flight, awaiting, tokens, work) in enumerate(lies):
        peer.send(port, datagram(load(fleet.groups[0], in_flight, awaiting, tokens, work), fleet.key, 5, number=number))
        peer.send(port, datagram(load(fleet.groups[1], 2, 1, 100.0), fleet.key, 6, number=number))
    wait_until(lambda: [r["loads"] for r in replicas(first)["replicas"] if r["id"].endswith(("05", "06"))] == [360, 360], what="the lies")
    for group in admin.groups(first):
        assert group["in_flight"] == 0 and 0 <= others(first, group["name"]) <= 1 << 21
    told = explain(first, body)
    assert told["group"] == fleet.groups[1]
    assert all(0 <= seconds < 1e12 for group in told["groups"] for name, seconds in group["seconds"].items() if name == "queue_wait")
    assert [ask(first.port, fresh()).status for _ in range(10)] == [200] * 10
    for sender in (5, 6):
        peer.send(port, datagram(key=fleet.key, sender=sender, flags=FAREWELL))
    wait_until(lambda: [others(first, group) for group in fleet.groups] == [0, 0], what="the end of it")
    assert explain(first, body)["group"] == fleet.groups[0]


def test_a_flood_of_strangers_does_not_stop_routing(fleet, stranger):
    fleet = fleet()
    first, second = fleet.routers()
    port = int(replicas(first)["address"].rsplit(":", 1)[1])
    garbage = [os.urandom(1_200), datagram(os.urandom(1_200), b"a guess of this length"), datagram(bytes(60_000), b"a guess of this length")]
    stop = threading.Event()
    counts = [0, 0]

    def flood(place, peer):
        while not stop.is_set():
            peer.send(port, garbage[counts[place] % len(garbage)])
            counts[place] += 1

    threads = [threading.Thread(target=flood, args=(place, stranger())) for place in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: received(first, "unauthenticated") > 2_000, timeout=20, what="the flood")
        times = []
        for _ in range(50):
            begin = time.monotonic()
            assert ask(first.port, fresh()).status == 200
            times.append(time.monotonic() - begin)
        assert sorted(times)[25] < 0.5
        # The admin port, on the loop that is flooded, still answers.
        assert len(admin.groups(first)) == 4
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wait_until(lambda: known(first) == {replicas(second)["id"]}, what="the other router")
    body = prompt_for(second, fleet.groups[0])
    assert pinned(second, fleet.groups[1], body).status == 200
    wait_until(lambda: explain(first, body)["group"] == fleet.groups[1], what="what the other has placed")


# Who is told ----------------------------------------------------------------------------------------------------------


def test_a_name_with_several_addresses_is_all_of_them(fleet):
    hosts = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
    port = udp_ports(1, hosts)[0]
    zone = Zone()
    name = "swiftlet-replicas.models.test"

    def records(*present, ttl=1):
        zone.records = [RR(f"{name}.", QTYPE.A, rdata=A(host), ttl=ttl) for host in present]

    try:
        fleet = fleet()
        records(*hosts[:2], ttl=0)
        servers = f'discovery: {{dns_servers: ["127.0.0.1:{zone.port}"]}}\n'
        routers = [fleet.router(f"{host}:{port}", [f"{name}:{port}"], more=servers) for host in hosts]
        ids = [replicas(router)["id"] for router in routers]
        # The third is not in the name yet: it hears nothing, and is heard.
        wait_until(lambda: known(routers[0]) == {ids[1], ids[2]}, what="those that tell the first")
        wait_until(lambda: known(routers[1]) == {ids[0], ids[2]}, what="those that tell the second")
        assert known(routers[2]) == set()
        assert replicas(routers[2])["peers"] == [f"{host}:{port}" for host in hosts[:2]]
        records(*hosts)
        wait_until(lambda: known(routers[2]) == {ids[0], ids[1]}, what="those that tell the third")
        # Its own address is in the name, too.
        wait_until(lambda: received(routers[2], "own") > 0, what="its own")
        zone.rcode = RCODE.SERVFAIL
        wait_until(lambda: replicas(routers[0])["faults"], timeout=10, what="the fault")
        assert len(replicas(routers[0])["peers"]) == 3
        assert "what is known stays in use" in routers[0].stderr
        zone.rcode = None
        records()
        wait_until(lambda: replicas(routers[0])["peers"] == [], timeout=15, what="the name to be gone")
        assert "it has no addresses" in replicas(routers[0])["faults"][0]["fault"]
        records(*hosts)
        wait_until(lambda: len(replicas(routers[0])["peers"]) == 3 and not replicas(routers[0])["faults"], what="the return")
    finally:
        zone.stop()


def test_a_router_that_begins_is_told_before_the_name_is_due_again(fleet):
    """Those before it hear it at once, at an address that they do not know: they ask, whatever the TTL."""
    hosts = ["127.0.1.1", "127.0.1.2"]
    port = udp_ports(1, hosts)[0]
    zone = Zone()
    zone.records = [RR("replicas.test.", QTYPE.A, rdata=A(hosts[0]), ttl=3_600)]
    try:
        fleet = fleet()
        servers = f'discovery: {{dns_servers: ["127.0.0.1:{zone.port}"]}}\n'
        first = fleet.router(f"{hosts[0]}:{port}", [f"replicas.test:{port}"], more=servers)
        wait_until(lambda: received(first, "own") > 0, what="the name")
        asked, begin = zone.questions, time.monotonic()
        zone.records = [RR("replicas.test.", QTYPE.A, rdata=A(host), ttl=3_600) for host in hosts]
        second = fleet.router(f"{hosts[1]}:{port}", [f"{hosts[0]}:{port}"])
        # A router that has just begun itself asks the second for what was before; to be told the news takes the name.
        wait_until(lambda: f"{hosts[1]}:{port}" in replicas(first)["peers"], what="the second to be a peer")
        wait_until(lambda: known(second) == {replicas(first)["id"]}, what="the first to tell the second")
        # By the TTL it would have been ten seconds, the most that one counts for.
        assert time.monotonic() - begin < 6
        # A and AAAA, and once more where the second was heard before the name server had changed.
        assert asked < zone.questions <= asked + 4
    finally:
        zone.stop()


def test_ipv6_and_ipv4_go_together(fleet):
    fleet = fleet()
    six, four = udp_ports(2)
    first = fleet.router(f'"[::]:{six}"', [f"127.0.0.1:{four}"])
    second = fleet.router(f"127.0.0.1:{four}", [f"127.0.0.1:{six}"])
    wait_until(lambda: known(first) == {replicas(second)["id"]} and known(second) == {replicas(first)["id"]}, what="each other")
    assert replicas(first)["replicas"][0]["address"] == f"127.0.0.1:{four}"


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_a_key_or_a_port_that_is_none(tmp_path, scripted):
    backend = scripted()
    port = udp_ports(1)[0]

    def said(*arguments):
        done = processes.run(
            "serve", "--backend", backend.url, "--listen", "127.0.0.1:0", "--replica-listen", f"127.0.0.1:{port}",
            "--replica-peer", "127.0.0.1:9", *arguments,
        )  # fmt: skip
        assert done.returncode != 0
        return done.returncode, done.stderr

    status, text = said("--replica-key", tmp_path / "nobody")
    assert status == 64 and "replicas.key_file: cannot read" in text
    short = tmp_path / "short"
    short.write_text("fifteen bytes!!\n")
    status, text = said("--replica-key", short)
    assert status == 64 and "replicas.key_file: expected a secret of 16 to 256 bytes" in text
    taken = Peer()
    port = taken.port
    assert "Address already in use" in said()[1]
    taken.close()


def test_flags_alone_make_a_replica(start, scripted):
    backend = scripted()
    ports = udp_ports(2)
    flags = ["--replica-peer", f"127.0.0.1:{ports[0]}", "--replica-peer", f"127.0.0.1:{ports[1]}"]
    made = [
        start(processes.serve, backend.url, admin=True, arguments=("--replica-listen", f"127.0.0.1:{port}", *flags)) for port in ports
    ]
    wait_until(lambda: all(len(known(router)) == 1 for router in made), what="each other")
    assert f"replicas on udp://127.0.0.1:{ports[0]}" in made[0].stderr
