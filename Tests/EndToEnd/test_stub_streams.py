"""Many concurrent streams over the engines of one process: all of them end, with every token. How late is for stub_streams.py to say."""

import pytest

import stub_streams


@pytest.mark.parametrize("http2", [False, True])
def test_many_streams_end_with_every_token(http2):
    result = stub_streams.measure(replicas=4, streams=200, tokens=30, seconds=0.2, loops=2, http2=http2)
    assert result["complete"] == 200
    assert result["events"] == result["written"] == 200 * 30
    assert result["full_steps"] > 20
