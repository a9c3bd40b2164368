from __future__ import annotations

import json

from small_tables import toy

from hakg_dgl.data.summary import summary


def test_summary():
    shown = summary(toy())
    json.dumps(shown)
    assert shown["counts"]["interactions"] == 6
    assert shown["density"] == 6 / 12
    assert shown["user_degree"]["max"] == 2
    assert shown["linked_items"] == 3
    assert shown["cold_items"] == 1  # item 2; item 0 has a training interaction with user 1
    assert shown["items_without_training"] == 1
    assert shown["users_without_training"] == 1
    assert shown["self_loops"] == 1
    has = shown["relations"][0]
    assert (has["triples"], has["heads"], has["tails"], has["fan_in"], has["fan_out"]) == (3, 3, 1, 3.0, 1.0)
    assert (has["items_per_attribute"], has["attributes_per_item"]) == (3.0, 1.0)
