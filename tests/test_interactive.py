"""The interactive page: what it holds, that no name can break out of it, and that it works in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, complaints, opened, requests  # noqa: F401 (a fixture)
from hypothesis import given
from hypothesis import strategies as st
from small_demo import small_demo

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.figures.branches import child_edges
from hakg_dgl.figures.interactive import interactive_page, page_data
from hakg_dgl.figures.markup import page as page_of
from hakg_dgl.figures.popularity import item_popularity
from hakg_dgl.models.positions import Positions

EVIL = "</script><img src=x onerror=alert(1)><!-- <script> ' \" & \u2028 ü"


def at(dataset: Dataset, dim: int = 2) -> Positions:
    tangent = np.random.default_rng(0).normal(size=(dataset.n_entities, dim)) * 0.8
    return Positions(tangent, None, "poincare", 1.0, "parameters", "paper", 0.1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The small demo; the first item has an evil name."""
    demo = small_demo()
    names = demo.items["name"].tolist()
    return dataclasses.replace(demo, items=demo.items.assign(name=[EVIL, *names[1:]]))


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    value: dict[str, Any] = json.loads(text)
    return value


# --- what the page holds ----------------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_data_read_back_and_cannot_end_the_element(value: Any) -> None:
    page = page_of("interactive.html.jinja", data={"title": "", "value": value})
    assert data_of(page)["value"] == value
    (text,) = re.findall(r'type="application/json">(.*)</script>', page)
    assert not set("<>&\u2028\u2029") & set(text)


def test_lone_surrogates_can_be_written() -> None:
    page_of("interactive.html.jinja", data={"title": "", "value": "\ud800"}).encode("utf-8")


def test_a_title_is_text(dataset: Dataset) -> None:
    page = interactive_page(at(dataset), dataset, title="__DATA__ {{ data }} </title><script>")
    assert "<title>__DATA__ {{ data }} &lt;/title&gt;&lt;script&gt;</title>" in page
    assert data_of(page)["title"] == "__DATA__ {{ data }} </title><script>"


def test_the_page_holds_the_points_the_edges_and_the_names(dataset: Dataset) -> None:
    where, edges = at(dataset), child_edges(dataset)
    data = data_of(interactive_page(where, dataset))
    n = len(data["x"])
    assert data["items"] == dataset.n_items
    assert data["name"][0] == EVIL
    assert all(len(data[key]) == n for key in ("y", "distance", "branch", "name", "id"))
    assert len(data["popularity"]) == dataset.n_items
    assert len(data["child"]) == len(data["parent"]) == len(data["relation"]) == len(edges)
    linked = sorted(set(edges["child"]) | set(edges["parent"]) | set(range(dataset.n_items)))
    assert data["distance"] == pytest.approx(where.entity_distance[linked], abs=1e-5)
    assert [data["name"][i] for i in data["parent"][:3]] == dataset.entities["name"].iloc[edges["parent"][:3]].tolist()


def test_of_many_points_those_with_neighbours_are_kept(dataset: Dataset) -> None:
    data = page_data(at(dataset), dataset, limit=30)
    whole = page_data(at(dataset), dataset)
    assert len(data["x"]) == 30
    assert data["omitted"] == len(whole["x"]) - 30
    assert max([*data["child"], *data["parent"]]) < 30
    assert 0 < len(data["child"]) < len(whole["child"])
    with pytest.raises(ConfigError, match="at least one point"):
        interactive_page(at(dataset), dataset, limit=0)


def test_the_page_names_no_address(dataset: Dataset) -> None:
    page = interactive_page(at(dataset), dataset)
    assert not re.search(r"(?:https?:)?//\w", page.replace(EVIL, ""))
    assert page.count("</script>") == 2


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Any, dataset: Dataset, tmp_path: Path) -> Any:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(interactive_page(at(dataset), dataset), encoding="utf-8")
    return opened(browser, file)


def move_to(driver: Any, point: int) -> Any:
    """The pointer, over a point."""
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = driver.find_element("id", "canvas")
    x, y = driver.execute_script("return window.hierarchy.place(arguments[0])", point)
    size = canvas.size
    return ActionChains(driver).move_to_element_with_offset(
        canvas, round(x - size["width"] / 2), round(y - size["height"] / 2)
    )


def lonely_point(driver: Any) -> int:
    """An item with no other point near it."""
    places = np.array(driver.execute_script("return window.hierarchy.data.x.map((_, i) => window.hierarchy.place(i))"))
    gap = np.linalg.norm(places[:, None] - places, axis=2) + np.diag(np.full(len(places), np.inf))
    items = driver.execute_script("return window.hierarchy.data.items")
    return int(gap.min(axis=1)[:items].argmax())


def chosen(driver: Any) -> int:
    return int(driver.execute_script("return window.hierarchy.chosen()"))


def test_hovering_shows_the_name_and_clicking_chooses(page: Any) -> None:
    point = lonely_point(page)
    name = page.execute_script("return window.hierarchy.data.name[arguments[0]]", point)
    move_to(page, point).perform()
    tip = page.find_element("id", "tip")
    assert tip.is_displayed()
    assert name in tip.text
    assert "training interactions" in tip.text
    move_to(page, point).click().perform()
    assert chosen(page) == point
    assert page.find_element("css selector", "#chosen h2").text == name
    assert complaints(page) == []


def test_searching_choosing_and_following_children_and_back(page: Any) -> None:
    search = page.find_element("id", "search")
    search.send_keys("genre 2")
    found = page.find_elements("css selector", "#found button")
    assert found
    assert found[0].text == "Genre 2"
    search.send_keys("\n")
    first = chosen(page)
    assert page.find_element("css selector", "#chosen h2").text == "Genre 2"
    below = page.find_elements("css selector", "#chosen ul")[-1].find_elements("css selector", "button")
    assert [button.text.split("\n")[0].split(" subcategory_of")[0] for button in below] != []
    assert all("Genre 2." in button.text for button in below)
    below[0].click()
    assert chosen(page) != first
    assert "Genre 2." in page.find_element("css selector", "#chosen h2").text
    page.find_element("id", "back").click()
    assert chosen(page) == first
    page.find_element("id", "all").click()
    assert chosen(page) == -1
    search.send_keys("no such thing")
    assert page.find_element("id", "found").text == "nothing found"


def test_an_evil_name_is_text(page: Any) -> None:
    page.find_element("id", "search").send_keys("onerror")
    (button,) = page.find_elements("css selector", "#found button")
    assert "</script><img src=x" in button.text
    button.click()
    assert "onerror=alert(1)" in page.find_element("css selector", "#chosen h2").text
    assert page.find_elements("css selector", "img") == []
    assert complaints(page) == []


def test_attributes_without_a_name_are_told_by_items(browser: Any, dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    """In the list of branches, the panel and the tooltip: relation, the items most seen, and that there are more."""
    bare = dataclasses.replace(
        dataset, entities=dataset.entities.assign(name=dataset.entities["original_id"]),
        relations=dataset.relations.assign(name="film." + dataset.relations["name"]),
    )  # fmt: skip
    file = tmp_path / "page.html"
    file.write_text(interactive_page(at(bare), bare), encoding="utf-8")
    driver = opened(browser, file)
    edges, seen = child_edges(bare), item_popularity(bare)
    parent = edges.loc[edges["child"] < bare.n_items, "parent"].value_counts().index[0]
    below = edges[(edges["parent"] == parent) & (edges["child"] < bare.n_items)]
    items = below["child"].to_numpy()[np.lexsort([below["child"], -seen[below["child"]]])]
    relation = dataset.relations["name"].iloc[below["relation"].iloc[0]]
    names = dataset.items["name"].iloc[items[:2]]
    hint = f"{relation}: {'; '.join(names)}" + ("; …" if len(items) > 2 else "")
    data = data_of(file.read_text(encoding="utf-8"))
    place = data["name"].index(bare.entities["original_id"][parent])
    driver.execute_script("window.hierarchy.choose(arguments[0])", place)
    assert hint in driver.find_element("id", "chosen").text
    driver.execute_script("window.hierarchy.choose(-1)")
    roots = driver.find_element("id", "branches").text
    assert all(data["name"][root] in roots for root in data["branches"])
    assert complaints(driver) == []


def test_the_first_view_is_of_the_points_and_the_origin(browser: Any, dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    """Points on one side of the origin, as of a projection, use the whole view all the same."""
    tangent = 0.05 * np.random.default_rng(0).normal(size=(dataset.n_entities, 2)) + [0.4, 0.0]
    file = tmp_path / "page.html"
    file.write_text(
        interactive_page(Positions(tangent, None, "poincare", 1.0, "parameters", "paper", 0.1), dataset), "utf-8"
    )
    driver = opened(browser, file)
    script = "const all = window.hierarchy; return [...all.data.x.map((_, i) => all.place(i)), all.origin()]"
    places, size = np.array(driver.execute_script(script)), driver.find_element("id", "canvas").size
    assert ((places > 0) & (places < [size["width"], size["height"]])).all()
    assert max(np.ptp(places, axis=0) / [size["width"], size["height"]]) == pytest.approx(0.92, abs=1e-3)


def test_dragging_moves_and_the_wheel_zooms(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    def place() -> Any:
        return page.execute_script("return [...window.hierarchy.place(0), ...window.hierarchy.place(1)]")

    before = np.array(place())
    canvas = page.find_element("id", "canvas")
    ActionChains(page).move_to_element_with_offset(canvas, 0, 250).click_and_hold().move_by_offset(
        40, 30
    ).release().perform()
    moved = np.array(place())
    assert moved - before == pytest.approx([40, 30, 40, 30], abs=1.0)
    ActionChains(page).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -300).perform()
    zoomed = np.array(place())
    assert np.linalg.norm(zoomed[:2] - zoomed[2:]) > 1.3 * np.linalg.norm(moved[:2] - moved[2:])


def test_the_page_asks_for_nothing(page: Any) -> None:
    assert requests(page) == [page.current_url]


def test_fifty_thousand_points_are_quick_enough(browser: Any, dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    data = page_data(at(dataset), dataset) | {"title": "large"}
    n, small = 50_000, len(data["x"])
    pick = np.random.default_rng(0).integers(small, size=n)
    for key in ("x", "y", "distance", "branch", "name", "id"):
        data[key] = [data[key][i] for i in pick]
    data |= {"items": n // 2, "popularity": [1] * (n // 2)}
    noise = np.random.default_rng(1).normal(size=(2, n)) * 0.05
    data["x"], data["y"] = ((np.array(data[axis]) * 0.8 + noise[i]).tolist() for i, axis in enumerate("xy"))
    file = tmp_path / "large.html"
    file.write_text(page_of("interactive.html.jinja", data=data), encoding="utf-8")
    driver = opened(browser, file)
    took = driver.execute_script(
        "const page = window.hierarchy, began = performance.now();"
        "for (let i = 0; i < 5; i++) { page.choose(i); page.draw(); }"
        "return (performance.now() - began) / 5"
    )
    assert took < 3000, f"{took:.0f} ms a drawing"  # a tenth of it where the machine is free
    assert complaints(driver) == []
