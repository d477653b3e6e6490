"""Do messages survive any cutting of the stream?"""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from shardwright.cluster.wire import Lines, encode

values = st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text()), max_size=4)


@given(st.lists(values, max_size=6), st.lists(st.integers(0, 200)))
def test_any_chunks_give_the_messages(messages, cuts):
    stream = b"".join(map(encode, messages))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    lines = Lines()
    found = [message for a, b in itertools.pairwise(edges) for message in lines.feed(stream[a:b])]
    assert found == messages


def test_a_torn_line_is_held_back():
    lines = Lines()
    assert lines.feed(b'{"a":1}\n{"b"') == [{"a": 1}]
    assert lines.feed(b":2}\n") == [{"b": 2}]
