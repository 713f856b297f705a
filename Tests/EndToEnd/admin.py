"""Reading the admin port: group states as JSON and metrics as Prometheus text."""

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

# One for all questions: each client that httpx makes reads the system's authorities, which takes many times as long as the question. It
# keeps no connection, so that those of a program are the ones of its test.
_CLIENT = httpx.Client(timeout=5, verify=False, trust_env=False, headers={"connection": "close"})

# What the tests need to know of a group, and the spellings under which it may stand, the most telling first.
SPELLINGS = {
    "name": ("name",),
    "ready": ("ready", "isready"),
    "in_flight": ("inflight", "requestsinflight", "running"),
}


def groups(program):
    """State of every group: dicts with `name`, `ready`, `in_flight`, `blamed`, and all of it as it came under `raw`."""
    answer = _CLIENT.get(f"{program.admin_url}/groups")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    listed = answer.json()
    return [_normal(group) for group in (listed["groups"] if isinstance(listed, dict) else listed)]


def _normal(group):
    plain = {re.sub(r"[^a-z0-9]", "", key.lower()): value for key, value in group.items()}
    result = {"raw": group}
    for key, spellings in SPELLINGS.items():
        found = [plain[spelling] for spelling in spellings if spelling in plain]
        assert found, f"a group without {key}: {group}"
        result[key] = found[0]
    # A failure that is held against a group, in whichever way it is told.
    result["blamed"] = (
        not result["ready"]
        or plain.get("ejected") is True
        or bool(plain.get("consecutivefailures"))
        or any(plain.get(key) in ("ejected", "probing") for key in ("obstacle", "reason", "state", "status"))
    )
    return result


def leaders(program):
    """Leaders of the groups that are ready."""
    return {group["raw"]["leader"] for group in groups(program) if group["ready"]}


def in_flight(program):
    """Requests booked and not ended, per group, read from one answer."""
    return [group["in_flight"] for group in groups(program)]


def metrics(program):
    """Metric families by name, parsed by Prometheus' own parser."""
    answer = _CLIENT.get(f"{program.admin_url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def family(families, kind, *words):
    """The one family of that type whose name holds all the words; several: the shortest name."""
    found = [name for name, f in families.items() if f.type == kind and all(word in name for word in words)]
    assert found, f"no {kind} with {words} among {sorted(families)}"
    return families[min(found, key=len)]


def total(metric, suffix="", **labels):
    """Sum of the samples of a family whose name ends with `suffix` and that carry these labels."""
    return sum(
        sample.value
        for sample in metric.samples
        if sample.name.endswith(suffix) and all(sample.labels.get(key) == value for key, value in labels.items())
    )


def sample(program, name, **labels):
    """The value of the one sample of that name with these labels; None when there is none."""
    for metric in metrics(program).values():
        for found in metric.samples:
            if found.name == name and all(found.labels.get(key) == value for key, value in labels.items()):
                return found.value
    return None
