"""The figure of quality over time: labels can be read whatever the models' numbers, and nothing flattens the rest."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakg_dgl.studies import benchmark_figure as module

pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")


def rows(*models: tuple[str, float, float]) -> list[dict[str, Any]]:
    """A ranking of name, seconds and NDCG@20."""
    ordered = sorted(models, key=lambda model: -model[2])
    return [
        {"model": name, "seconds": seconds, "metrics": {"ndcg@20": value}, "rank": at + 1}
        for at, (name, seconds, value) in enumerate(ordered)
    ]


def labels(axes: Any) -> list[tuple[str, float]]:
    return [(text.get_text(), text.xyann[1]) for text in axes.texts]


@given(st.lists(st.floats(0.0, 1.0), max_size=40), st.floats(0.001, 0.2), st.floats(0.0, 0.5))
def test_labels_keep_their_order_and_their_distance(values: list[float], step: float, lowest: float) -> None:
    values.sort(reverse=True)
    heights = module._apart(values, step, lowest)
    assert len(heights) == len(values)
    assert all(upper - lower >= step - 1e-12 for upper, lower in itertools.pairwise(heights))
    assert all(height >= lowest for height in heights)


def test_labels_with_room_stand_beside_their_dots() -> None:
    assert module._apart([0.9, 0.5, 0.1], 0.1, 0.0) == [0.9, 0.5, 0.1]


def test_a_model_far_below_the_others_does_not_flatten_them() -> None:
    ranking = rows(("a", 10.0, 0.26), ("b", 5.0, 0.25), ("c", 20.0, 0.24), ("popularity", 0.1, 0.02))
    (axes,) = module.benchmark_figure([{"name": "shop", "ranking": ranking}]).axes
    low, high = axes.get_ylim()
    assert 0.2 < low < 0.24
    assert 0.26 < high < 0.27
    assert [text for text, _ in labels(axes)] == ["a", "b", "c", "popularity (0.0200)"]
    assert all(low <= dots.get_offsets()[0][1] <= high for dots in axes.collections)


def test_dark_dots_are_the_models_that_no_other_one_beats_in_both() -> None:
    ranking = rows(("a", 10.0, 0.9), ("b", 12.0, 0.8), ("c", 5.0, 0.7), ("d", 5.0, 0.6), ("e", 1.0, 0.5))
    (axes,) = module.benchmark_figure([{"name": "shop", "ranking": ranking}]).axes
    shades = [tuple(dots.get_facecolor()[0]) for dots in axes.collections]
    assert shades[2] == shades[4]
    assert shades[1] == shades[3]
    assert len({shades[0], shades[1], shades[2]}) == 3


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [0.3, 0.3, 0.3]])
def test_models_that_are_alike_or_missing_are_drawn_too(values: list[float]) -> None:
    ranking = rows(*((f"model {at}", 1.0, value) for at, value in enumerate(values)))
    unranked = {"model": "failed", "seconds": None, "metrics": {}, "rank": None}
    (axes,) = module.benchmark_figure([{"name": "$hop", "ranking": [*ranking, unranked]}]).axes
    assert len(axes.texts) == len(values)


def test_a_panel_is_as_high_as_its_labels_need() -> None:
    many = rows(*((f"model {at}", 1.0 + at, 0.5 - 0.001 * at) for at in range(40)))
    few = module.benchmark_figure([{"name": "a", "ranking": many[:3]}])
    both = module.benchmark_figure([{"name": "a", "ranking": many[:3]}, {"name": "b", "ranking": many}])
    assert few.get_figheight() == pytest.approx(4.4)
    assert both.get_figheight() == pytest.approx(4.4 + 40 * 0.165 + 1.1)
