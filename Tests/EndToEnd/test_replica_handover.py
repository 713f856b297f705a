"""Routers that begin late, and what those that have been there for longer tell them."""

import itertools
import random
import time

import pytest

import admin
from replica_fleet import Fleet, blocks, explain, fresh, known, others, pinned, placed, received, replicas, strangers
from replica_wire import HANDOVER, QUESTION, Read, datagram, placement, udp_ports
from scripted_backend import answer_ok
from waiting import wait_until
from wire_clients import ask

# A router that has begun answers no question within five seconds, unless its own is answered; who asks does so each second.
BEGINNING = 15


@pytest.fixture
def fleet(start, scripted, tmp_path):
    return lambda count=4, script=answer_ok: Fleet(start, tmp_path, [scripted(script) for _ in range(count)])


@pytest.fixture
def stranger():
    with strangers() as make:
        yield make


def taken(program, outcome="begun"):
    return admin.sample(program, "swiftlet_replica_handovers_total", direction="received", outcome=outcome)


def given(program, outcome="begun"):
    return admin.sample(program, "swiftlet_replica_handovers_total", direction="sent", outcome=outcome)


def prompts_for(fleet, router):
    """One prompt for each group, placed by the router and answered."""
    prompts = {group: fresh() for group in fleet.groups}
    for group, body in prompts.items():
        pinned(router, group, body)
    return prompts


def knows(router, prompts):
    return all((told := explain(router, body))["reason"] == "prefix" and told["group"] == group for group, body in prompts.items())


def test_a_router_that_begins_late_is_told_what_was_before(fleet):
    fleet = fleet()
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(3)]
    first, second = (fleet.router(address, addresses) for address in addresses[:2])
    wait_until(lambda: len(known(first)) == len(known(second)) == 1, what="each other")
    prompts = prompts_for(fleet, first)
    wait_until(lambda: knows(second, prompts), what="the news")
    third = fleet.router(addresses[2], addresses)
    # The first two have just begun themselves.
    wait_until(lambda: knows(third, prompts), timeout=BEGINNING, what="what was before it began")
    wait_until(lambda: replicas(third)["handover"] == {"state": "whole"}, what="the end")
    assert replicas(third)["handovers_taken"] == {"begun": 1, "whole": 1, "broken": 0}
    assert taken(third) == taken(third, "whole") == 1
    assert given(first) + given(second) >= 1
    # What is long over is nobody's load.
    assert all(others(third, group) == 0 for group in fleet.groups)


def test_a_rolling_restart_forgets_nothing(fleet):
    """One after the other is replaced until none is left that has placed anything itself."""
    fleet = fleet()
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(2)]
    routers = [fleet.router(address, addresses) for address in addresses]
    wait_until(lambda: all(len(known(router)) == 1 for router in routers), what="each other")
    prompts = prompts_for(fleet, routers[0])
    wait_until(lambda: knows(routers[1], prompts), what="the news")
    for place in (0, 1, 0):
        routers[place].stop()
        routers[place] = fleet.router(addresses[place], addresses)
        wait_until(lambda router=routers[place]: knows(router, prompts), timeout=BEGINNING, what="what was before it began")
    for group, body in prompts.items():
        assert ask(routers[1].port, body).served_by == fleet.backends[fleet.groups.index(group)].name


def test_who_dies_while_it_tells_is_replaced_by_the_next(fleet, stranger):
    """There is so much to tell that it takes some seconds: prompts that begin alike, each of which is told whole."""
    fleet, placer = fleet(), stranger()
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(3)]
    routers = [fleet.router(address, addresses) for address in addresses[:2]]
    wait_until(lambda: all(len(known(router)) == 1 for router in routers), what="each other")
    generator, prompts = random.Random(1), 480
    common = [generator.getrandbits(64) for _ in range(3_000)]
    for number in range(prompts):
        payload = placement(fleet.groups[number % 4], [*common, generator.getrandbits(64)])
        for address in addresses[:2]:
            placer.send(int(address.rsplit(":", 1)[1]), datagram(payload, fleet.key, sender=5, number=number))
        # No more at once than a kernel keeps.
        if number % 4 == 3:
            wait_until(lambda n=number: [placed(router) for router in routers] == [n + 1] * 2, what="the placements to be read")
    held = blocks(routers[0])
    assert sum(held.values()) == 4 * len(common) + prompts and blocks(routers[1]) == held
    third = fleet.router(addresses[2], addresses)
    state = wait_until(
        lambda: (told := replicas(third)["handover"])["state"] == "told" and sum(blocks(third).values()) > 0 and told,
        timeout=BEGINNING, what="a part of it",
    )  # fmt: skip
    teller = next(router for router in routers if replicas(router)["id"] == state["by"])
    teller.kill()
    assert replicas(third)["handovers_taken"] == {"begun": 1, "whole": 0, "broken": 0} and blocks(third) != held
    wait_until(lambda: taken(third, "broken") == 1, timeout=BEGINNING, what="its silence to be noticed")
    wait_until(lambda: replicas(third)["handover"] == {"state": "whole"}, timeout=BEGINNING, what="the other to have told all")
    assert blocks(third) == held
    assert replicas(third)["handovers_taken"] == {"begun": 2, "whole": 1, "broken": 1}
    other = next(router for router in routers if router is not teller)
    assert given(other, "whole") >= 1


def test_no_more_than_three_are_heard_that_fall_silent(fleet, stranger):
    fleet, tellers = fleet(), [stranger() for _ in range(4)]
    port = udp_ports(1)[0]
    router = fleet.router(f"127.0.0.1:{port}", [f"127.0.0.1:{peer.port}" for peer in tellers], key=False)

    def asked(peer):
        return any(Read(data).is_question for data in peer.listen())

    # The first has told most. All go on saying that they are there; who is asked answers, and says no more of it.
    clocks, answered = itertools.count(time.time_ns() // 1000), []

    def say(place, flags=0):
        tellers[place].send(port, datagram(sender=place + 1, clock=next(clocks), number=1_000 - place, flags=flags))

    def answer():
        for place, peer in enumerate(tellers):
            say(place)
            if place not in answered and asked(peer):
                answered.append(place)
                say(place, HANDOVER)
        return replicas(router)["handover"] == {"state": "given_up"}

    wait_until(answer, timeout=BEGINNING, what="the end of it")
    assert answered == [0, 1, 2]
    assert replicas(router)["handovers_taken"] == {"begun": 3, "whole": 0, "broken": 3}
    assert ask(router.port, fresh()).status == 200


def test_who_is_no_peer_is_handed_nothing(fleet, stranger):
    """Its address may be somebody's who never asked; and one that is a peer gets it once."""
    fleet, peer, other = fleet(), stranger(), stranger()
    port = udp_ports(1)[0]
    router = fleet.router(f"127.0.0.1:{port}", [f"127.0.0.1:{peer.port}"], key=False)
    prompts_for(fleet, router)
    for _ in range(2):
        peer.send(port, datagram(sender=7, flags=HANDOVER))
    wait_until(lambda: taken(router, "whole") == 1, what="the router to know that nothing was before")
    other.send(port, datagram(sender=5, flags=QUESTION))
    wait_until(lambda: f"{5:016x}" in known(router), what="the stranger to be heard")
    for number in range(3):
        peer.send(port, datagram(sender=6, number=number, flags=QUESTION))
    wait_until(lambda: received(router, "taken") == 6, what="the questions to be read")

    def handed(peer):
        return [read for read in (Read(data) for data in peer.listen()) if read.is_handover]

    # The first is empty: that it was heard.
    wait_until(lambda: sum(len(read.payload) for read in handed(peer)) > 4 * 8, what="the handover")
    wait_until(lambda: sum(not read.payload for read in handed(peer)) == 4, what="the end, thrice")
    assert not handed(other) and given(router) == given(router, "whole") == 1
    assert not handed(peer)[0].payload and len(handed(peer)) < 10
