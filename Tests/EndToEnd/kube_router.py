"""A router that learns its groups from a test's API server, and what it says of that."""

import httpx
from kube_api import SLICE, endpoint, slice_of

POOL = "{services: [vllm], namespace: llm}"


def source(program):
    listed = httpx.get(f"{program.admin_url}/groups").json()["sources"]
    return next(entry for entry in listed if entry["name"].startswith("kubernetes"))


def fault(program):
    return source(program).get("fault") or ""


def endpoints(*backends, **conditions):
    return [endpoint("127.0.0.1", f"p{b.port}", **conditions) for b in backends]


def put_slices(api, *backends, **conditions):
    """A slice for each, since a slice has one port for all of its endpoints, and backends here have one each."""
    for b in backends:
        api.put(SLICE, slice_of("vllm", *endpoints(b, **conditions), port=b.port, name=f"vllm-{b.port}"))


def ask(program):
    return httpx.post(f"{program.url}/v1/completions", json={"model": "m", "prompt": "x"})
