"""JSON of requests: what Python reads is read, and what is deep, not finite or repeated is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.serving.json_bodies import read_json
from hakg_dgl.serving.refusals import Refusal

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@settings(max_examples=40)
@given(VALUES, st.booleans(), st.integers(1, 6))
def test_what_json_writes_is_read_unless_it_is_too_deep(value: Any, ascii_only: bool, most: int) -> None:
    try:
        body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8")
    except UnicodeEncodeError:
        body = json.dumps(value).encode("utf-8")
    if depth_of(value) > most:
        with pytest.raises(Refusal, match="within each other"):
            read_json(body, depth=most)
    else:
        assert read_json(body, depth=most) == value


@given(st.binary(max_size=60) | st.text('[]{}",:\\0123456789eENaInfity- ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_reason(body: bytes) -> None:
    try:
        value = read_json(body, depth=5)
    except Refusal as error:
        refusal: Refusal | None = error
    else:
        refusal = None
        assert value == json.loads(body)
    assert refusal is None or refusal.status == 400
    assert refusal is None or refusal.problem.startswith(("the body", "an object"))


@pytest.mark.parametrize(
    "body",
    [b"NaN", b"[1, -Infinity]", b'{"a": 1, "a": 2}', b"9" * 5000, b"\xff", b"", b"[" * 10**6, b"[1e999]", b"-1e400"],
)
def test_what_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_json(body, depth=8)


@pytest.mark.parametrize(
    "body",
    [
        b'\\"' * 20_000,
        b'"' + b'\\"' * 20_000,
        b'"x' * 20_001,
        b"{" + b",".join(b'"%d":0' % n for n in range(20_000)) + b',"19999":1}',
    ],
    ids=["quotes behind backslashes", "a text without an end", "odd quotes", "a key twice among many"],
)
def test_a_hostile_body_takes_time_by_its_length_alone(body: bytes) -> None:
    """The interpreter does nothing else meanwhile; by the square of its length, each took two seconds and more."""
    begun = time.process_time()
    with pytest.raises(Refusal):
        read_json(body, depth=8)
    assert time.process_time() - begun < 1.0
