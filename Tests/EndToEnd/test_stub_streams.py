"""Many concurrent streams over the engines of one process: all of them end, with every token. How late is for stub_streams.py to say."""

import stub_streams


def test_many_streams_end_with_every_token():
    result = stub_streams.measure(replicas=4, streams=200, tokens=20, seconds=0.2)
    assert result["completed"] == result["sent"] > 150
    assert result["output_tokens"] == 20 * result["sent"] == result["written_tokens"]
    # They overlapped: a stream lasts twice as long as it took to begin them all.
    assert result["highest_in_flight"] > result["sent"] / 2
