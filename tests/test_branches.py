"""What stands below what, and the largest branches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.branches import child_edges, largest_branches


def test_edges_lead_from_the_lower_to_the_higher_end(planted: Dataset) -> None:
    edges = child_edges(planted)
    names = planted.relations["name"].iloc[edges["relation"]].to_numpy()
    assert {"belongs_to", "subcategory_of"} <= set(names)
    depth = pd.Series(np.nan, index=range(planted.n_entities))
    sizes = (1, 3, 9, 18)  # genres of each level of the small demo
    depth.iloc[: planted.n_items + sum(sizes)] = np.repeat([4, 0, 1, 2, 3], [planted.n_items, *sizes])
    for name in ("belongs_to", "subcategory_of"):
        some = edges[names == name]
        below, above = depth.iloc[some["child"]].to_numpy(), depth.iloc[some["parent"]].to_numpy()
        assert (below == above + 1).all(), name


def test_the_direction_of_the_triples_does_not_matter(planted: Dataset) -> None:
    triples = planted.triples
    turned = dataclasses.replace(planted, triples=triples.rename(columns={"head": "tail", "tail": "head"}))
    key = ["child", "parent"]
    found, expected = (child_edges(of).sort_values(key)[key].to_numpy().tolist() for of in (turned, planted))
    assert found == expected


def test_branches_are_large_and_lie_apart() -> None:
    """Items 0-9; 10 holds them all, 11 holds 0-3 by way of 13, 12 holds 4-6, 14 holds 2 alone."""
    edges = pd.DataFrame(
        [(i, 10) for i in range(10)]
        + [(i, 13) for i in range(4)]
        + [(13, 11)]
        + [(i, 12) for i in (4, 5, 6)]
        + [(2, 14)],
        columns=["child", "parent"],
    )
    found = largest_branches(edges, n_entities=15, n_items=10, most=2)
    assert found.roots.tolist() in ([11, 12], [13, 12])
    assert found.items.tolist() == [4, 3]
    assert found.branch[[0, 1, 2, 3]].tolist() == [0] * 4
    assert found.branch[[4, 5, 6]].tolist() == [1] * 3
    assert found.branch[[7, 8, 9, 10]].tolist() == [-1] * 4
    assert found.apexes.tolist() == [13, 12]


def test_cycles_and_no_edges_at_all_end() -> None:
    around = pd.DataFrame([(0, 3), (3, 4), (4, 3)], columns=["child", "parent"])
    assert largest_branches(around, 5, 2).items.tolist() == [1]
    nothing = largest_branches(pd.DataFrame({"child": [], "parent": []}, dtype=np.int64), 4, 2)
    assert (len(nothing.roots), nothing.branch.tolist()) == (0, [-1] * 4)
