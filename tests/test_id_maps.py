from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.errors import DataError


def test_numbers_sort_as_numbers_and_text_as_text():
    assert IdMap.from_values(["10", "9", "9", "2"]).original_ids.tolist() == ["2", "9", "10"]
    assert IdMap.from_values(pd.Series([10, 9, 2])).original_ids.tolist() == ["2", "9", "10"]
    assert IdMap.from_values(["10", "9", "x"]).original_ids.tolist() == ["10", "9", "x"]
    # "01" and "1" are different ids, although equal as numbers
    assert IdMap.from_values(["1", "01"]).original_ids.tolist() == ["01", "1"]
    assert len(IdMap.from_values([])) == 0


@given(st.lists(st.text(min_size=1, max_size=4) | st.integers(0, 99).map(str)))
def test_indices_invert_the_ids(values):
    ids = IdMap.from_values(values)
    assert ids.original_ids.is_unique
    assert set(ids.original_ids) == set(values)
    assert [ids.original_ids[i] for i in ids.indices(values)] == values
    assert IdMap.from_values(values[::-1]).original_ids.tolist() == ids.original_ids.tolist()


def test_unknown_and_missing_ids():
    ids = IdMap.from_values(["a", "b"])
    assert ids.indices(["b", "z", None]).tolist() == [1, -1, -1]
    assert ids.indices([]).tolist() == []
    assert ids.index("b") == 1
    with pytest.raises(DataError, match="no user with the id 'z'"):
        ids.index("z", "user")


def test_names_fall_back_to_ids():
    names = pd.DataFrame({"id": ["b", "c", "b", "a"], "name": ["Bee", "Sea", "again", " "]})
    frame = IdMap.from_values(["b", "a"], names).frame()
    assert frame.to_dict("list") == {"original_id": ["a", "b"], "name": ["a", "Bee"]}


def test_row_numbers_are_kept():
    names = pd.DataFrame({"id": [2, 7], "original_id": ["m.2", "m.7"], "name": ["two", "seven"]})
    frame = IdMap.from_indices(3, names, unnamed="relation_").frame()
    assert frame["original_id"].tolist() == ["0", "1", "m.2"]
    assert frame["name"].tolist() == ["relation_0", "relation_1", "two"]
    assert IdMap.from_indices(2, unnamed="relation_").frame()["original_id"].tolist() == ["0", "1"]


def test_one_name_an_id():
    with pytest.raises(DataError, match="2 ids but 1 names"):
        IdMap(pd.Index(["a", "b"]), pd.Series(["a"]))
