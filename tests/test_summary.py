from __future__ import annotations

import json

import pandas as pd
from small_tables import named, toy

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
    assert (shown["users_with_facts"], shown["users_with_links"], shown["user_relations"]) == (0, 0, [])


def test_summary_of_facts_and_links_of_users():
    data = toy(
        user_facts=pd.DataFrame([(0, 1, 4), (0, 1, 5), (2, 1, 4)], columns=["user", "relation", "entity"]),
        user_links=pd.DataFrame([(0, 0, 1), (1, 0, 0)], columns=["user", "relation", "other"]),
        user_relations=named("knows", "likes", "unused"),
    )
    shown = summary(data)
    json.dumps(shown)
    assert (shown["users_with_facts"], shown["users_with_links"]) == (2, 2)
    knows, likes, unused = shown["user_relations"]
    columns = ("name", "to", "triples", "users", "others")
    assert [knows[column] for column in columns] == ["name knows", "user", 2, 2, 2]
    assert (likes["to"], likes["triples"], likes["fan_in"], likes["fan_out"]) == ("entity", 3, 1.5, 1.5)
    assert (unused["to"], unused["triples"], unused["fan_in"]) == (None, 0, 0.0)
    assert shown["isolated_entities"] == 0
    assert summary(toy(triples=[(0, 0, 4)]))["isolated_entities"] == 1
