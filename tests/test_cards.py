"""Dataset cards: whole, checked, and in agreement with the presets."""

from __future__ import annotations

import re

import pytest

from hakg_dgl.data.cards import CardFile, DatasetCard, check_counts, list_cards, load_card, resource_folder
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.hakg.settings import PRESETS
from hakg_dgl.models.settings import Settings


def test_every_card_is_whole() -> None:
    assert list_cards() == ["alibaba-ifashion", "amazon-book", "last-fm", "yelp2018"]
    for name in list_cards():
        card = load_card(name)
        assert card.name == name
        assert {"train.txt", "test.txt"} < {file.name for file in card.files}
        assert any(file.name.startswith("kg_final.txt") for file in card.files)
        assert len({file.git_blob for file in card.files}) == len(card.files)
        assert all(file.url.startswith("https://") and file.url.endswith("/" + file.name) for file in card.files)
        assert "forbid redistribution" in card.terms
        assert card.citation
    assert load_card("last-fm").counts["entities"] == 106_389
    assert not load_card("amazon-book").counts  # none are published with this release


@pytest.mark.parametrize("name", ["last-fm", "yelp2018", "alibaba-ifashion"])
def test_published_settings_are_those_of_the_preset(name: str) -> None:
    preset = Settings("hakg").replace(PRESETS[name])
    assert preset == preset.replace(load_card(name).published_settings)


def test_unknown_card_lists_those_that_exist() -> None:
    for name in ("lastfm", "demo", "../cards/last-fm"):
        with pytest.raises(ConfigError, match="last-fm, yelp2018"):
            load_card(name)


def test_resources_hold_no_third_party_data() -> None:
    assert all(entry.name.endswith((".toml", ".md", ".py", "__pycache__")) for entry in resource_folder().iterdir())


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../x"}, {"name": "a/b"}, {"url": "file:///etc/hosts"}, {"git_blob": "12"}, {"bytes": -1}],
)
def test_card_files_are_checked(wrong: dict[str, object]) -> None:
    right = {"name": "train.txt", "url": "https://example.org/train.txt", "git_blob": "0" * 40}
    CardFile(**right)
    with pytest.raises(ConfigError, match=re.escape(str(next(iter(wrong.values()))))):
        CardFile(**{**right, **wrong})


def test_check_counts() -> None:
    card = DatasetCard("x", "x", (), counts={"users": 10, "items": 20, "train": 100})
    assert check_counts(card, {"users": 10, "train": 90, "valid": 10, "test": 7}) == []
    (mismatch,) = check_counts(card, {"users": 10, "items": 19, "relations": 3})
    assert (mismatch.what, mismatch.expected, mismatch.found) == ("items", 20, 19)
    assert str(mismatch) == "items: the card says 20, the data has 19"
