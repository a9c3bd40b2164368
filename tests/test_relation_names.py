from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl.data.relation_names import INTERACTION_NAMES, INVERSE_PREFIX, distinct_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["genre", "country"], ["genre", "country"]),
        (["genre", "genre", "genre_0"], ["genre_0_0", "genre_1", "genre_0"]),
        (["genre", "genre", "genre_0", "genre_0"], ["genre_0_0", "genre_1", "genre_0_2", "genre_0_3"]),
        (["x", "inverse_x", "y", "y"], ["x", "inverse_x_1", "y_2", "y_3"]),
        (["inverse_x", "x"], ["inverse_x_0", "x"]),
        (["y", "y", "inverse_y_0"], ["y_0_0", "y_1", "inverse_y_0"]),
        (
            ["interacts", "interacted_by", "inverse_interacts"],
            ["interacts_0", "interacted_by_1", "inverse_interacts_2"],
        ),
    ],
)
def test_names_in_conflict_get_their_number(names, expected):
    assert distinct_names(names, INTERACTION_NAMES) == expected


def test_names_of_others_are_kept_clear_of():
    assert distinct_names(["city", "knows"], ["city", "inverse_knows"]) == ["city_0", "knows_1"]


pieces = st.sampled_from(
    ["a", "a_0", "a_1", "a_0_0", "inverse_a", "inverse_a_1", "inverse_inverse_a", "interacts", "", "_1"]
)


@given(st.lists(pieces, max_size=8), st.sets(pieces, max_size=3))
def test_any_names_come_out_distinct(names, taken):
    found = distinct_names(names, taken)
    every = [*found, *(INVERSE_PREFIX + name for name in found)]
    assert len(set(every)) == len(every)
    assert not taken & set(every)
    assert distinct_names(found, taken) == found
    for old, new in zip(names, found, strict=True):
        assert new == old or (new.startswith(old + "_") and new not in names)
