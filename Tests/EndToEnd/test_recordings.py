"""What a real engine put on the wire arrives as it was: status, header fields, and every byte of the body."""

import httpx
import pytest

import processes
import recordings
from scripted_backend import FOR_THE_SCRIPT, ScriptedBackend
from wire_clients import HTTP1Client

FIT, UNFIT = recordings.load_all()
BY_NAME = {recording.name: recording for recording in FIT}

# Recordings that cannot be served again, and why. A new unfit recording fails `test_unfit_recordings_are_known`.
KNOWN_UNFIT = {
    "llama/proto_expect100_first": "an interim answer only",
    "vllm/get_server_info": "content-length 18018, recorded body 18014",
    "vllm/get_server_info_json": "content-length 25387, recorded body 25383",
    "vllm/proto_expect100_first": "an interim answer only",
    "vllm/proto_pipelined": "more than one answer in the file",
}

pytestmark = pytest.mark.skipif(not FIT, reason=f"no recordings under {recordings.FOLDER}")
CASE = FOR_THE_SCRIPT.decode()


async def replay(exchange):
    """Serves the recording that the request names, in pieces that fall anywhere."""
    recording = BY_NAME[exchange.request.values(FOR_THE_SCRIPT)[0].decode()]
    for start in range(0, len(recording.raw), 16_381):
        await exchange.send(recording.raw[start : start + 16_381])
    if recording.closes:
        exchange.close()


@pytest.fixture(scope="module")
def replayer(hub):
    backend = ScriptedBackend(hub, replay, "replayer")
    program = processes.serve(backend.url)
    yield program
    program.stop()
    backend.stop()


@pytest.fixture(scope="module")
def http1(replayer):
    """One keep-alive HTTP/1.1 connection for all recordings: an answer that breaks its framing spoils the next."""
    connections = []

    def ask(recording):
        if not connections:
            connections.append(HTTP1Client(replayer.port))
        client = connections[0]
        client.request(
            recording.method, recording.target, recording.request_body, [(FOR_THE_SCRIPT, recording.name.encode())]
        )
        try:
            response = client.response(recording.method)
        except Exception:
            connections.clear()
            raise
        if response.values(b"connection") == [b"close"] or not response.complete:
            connections.clear()
        return response

    yield ask
    for client in connections:
        client.close()


@pytest.fixture(scope="module")
def http2(replayer):
    with httpx.Client(http1=False, http2=True, base_url=replayer.url, timeout=10) as client:
        yield client


@pytest.mark.parametrize("name", BY_NAME)
def test_recording_arrives_over_http1(http1, name):
    recording = BY_NAME[name]
    response = http1(recording)
    assert response.complete
    assert response.status == recording.status
    assert response.body == recording.body
    assert recordings.forwarded_fields(response.fields) == recordings.forwarded_fields(recording.fields)
    response.value(b"x-request-id")
    for length in response.values(b"content-length"):
        recorded = [value for key, value in recording.fields if key.lower() == b"content-length"]
        assert length == (recorded[0] if recording.method == "HEAD" else b"%d" % len(recording.body))


@pytest.mark.parametrize("name", BY_NAME)
def test_recording_arrives_over_http2(http2, name):
    recording = BY_NAME[name]
    with http2.stream(
        recording.method,
        recording.target,
        content=recording.request_body or None,
        headers={CASE: name, "content-type": "application/json"},
    ) as response:
        body = b"".join(response.iter_raw())
    assert response.http_version == "HTTP/2"
    assert response.status_code == recording.status
    assert body == recording.body
    fields = response.headers.raw
    assert all(name == name.lower() for name, _ in fields)
    assert not {b"connection", b"keep-alive", b"transfer-encoding"} & {name for name, _ in fields}
    assert recordings.forwarded_fields(fields) == recordings.forwarded_fields(recording.fields)
    assert len([name for name, _ in fields if name == b"x-request-id"]) == 1


def test_unfit_recordings_are_known():
    """Nothing drops out of the comparison unseen."""
    assert UNFIT == KNOWN_UNFIT
