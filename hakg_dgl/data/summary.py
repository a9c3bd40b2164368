"""What ``hakg info`` tells of a data set: sizes, degrees, coverage and relations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.hierarchy import relation_table

Int64 = npt.NDArray[np.int64]


def summary(dataset: Dataset) -> dict[str, Any]:
    """Sizes, degrees, coverage and relations of a data set, as JSON values.

    Returns
    -------
    dict
        - ``name``, ``digest``, ``split_strategy``, ``counts``, ``report``;
        - ``density``: interactions / (users x items);
        - ``user_degree``, ``item_degree``: mean and quantiles of training interactions;
        - ``linked_items``: items with at least one triple;
        - ``cold_items``: items of the test split without training interaction; ``items_without_training``: all such;
        - ``users_without_training``;
        - ``self_loops``: triples from an entity to itself;
        - ``isolated_entities``: entities that are not items and occur in no triple and no fact of a user;
        - ``relations``: see :func:`~hakg_dgl.data.hierarchy.relation_table`, one dict each;
        - ``users_with_facts``, ``users_with_links`` (at either end);
        - ``user_relations``: one dict for each relation of users, see :func:`user_relation_table`.
    """
    pairs, facts = dataset.pairs("train"), dataset.facts
    user_degree = np.bincount(pairs[:, 0], minlength=dataset.n_users)
    item_degree = np.bincount(pairs[:, 1], minlength=dataset.n_items)
    has_triple = np.zeros(dataset.n_entities, dtype=bool)
    has_triple[facts.head] = has_triple[facts.tail] = True
    of_users = np.isin(np.arange(dataset.n_entities), dataset.user_facts["entity"].to_numpy())
    test_items = np.unique(dataset.pairs("test")[:, 1])
    cells = dataset.n_users * dataset.n_items
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "split_strategy": dataset.split_strategy,
        "counts": dataset.counts,
        "density": len(dataset.interactions) / cells if cells else 0.0,
        "user_degree": _distribution(user_degree),
        "item_degree": _distribution(item_degree),
        "linked_items": int(has_triple[: dataset.n_items].sum()),
        "cold_items": int((item_degree[test_items] == 0).sum()),
        "items_without_training": int((item_degree == 0).sum()),
        "users_without_training": int((user_degree == 0).sum()),
        "self_loops": int((facts.head == facts.tail).sum()),
        "isolated_entities": int((~(has_triple | of_users)[dataset.n_items :]).sum()),
        "relations": relation_table(facts, dataset.relations["name"]).to_dict("records"),
        "users_with_facts": int(dataset.user_facts["user"].nunique()),
        "users_with_links": len(np.unique(dataset.user_links[["user", "other"]].to_numpy())),
        "user_relations": user_relation_table(dataset).to_dict("records"),
        "report": dict(dataset.report),
    }


def user_relation_table(dataset: Dataset) -> pd.DataFrame:
    """One row for each relation of users, in index order.

    Columns: ``relation`` (index), ``name``, ``to`` (``entity`` for facts, ``user`` for
    links, None for neither), ``triples``, ``users``
    and ``others`` (distinct first and second ends), ``fan_in`` (triples a distinct second end) and ``fan_out`` (triples
    a distinct user).
    """
    facts = dataset.user_facts.rename(columns={"entity": "other"})
    links = dataset.user_links
    groups = pd.concat([facts, links], ignore_index=True).groupby("relation")
    of_facts, of_links = set(facts["relation"]), set(links["relation"])
    numbers = np.arange(len(dataset.user_relations))
    count = groups.size().reindex(numbers, fill_value=0).to_numpy(dtype=np.int64)
    users, others = (
        groups[end].nunique().reindex(numbers, fill_value=0).to_numpy(np.int64) for end in ("user", "other")
    )
    ends = ["entity" if number in of_facts else "user" if number in of_links else None for number in numbers]
    return pd.DataFrame(
        {
            "relation": numbers,
            "name": dataset.user_relations["name"].tolist(),
            "to": pd.Series(ends, dtype=object),
            "triples": count,
            "users": users,
            "others": others,
            "fan_in": count / np.maximum(others, 1),
            "fan_out": count / np.maximum(users, 1),
        }
    )


def _distribution(degree: npt.NDArray[Any]) -> dict[str, float]:
    if not len(degree):
        return {}
    marks = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
    values = np.quantile(degree, list(marks.values()))
    return {"mean": float(degree.mean()), **{mark: float(value) for mark, value in zip(marks, values, strict=True)}}
