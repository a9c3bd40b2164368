"""The demo: a generated data set with a planted hierarchy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.cards import read_resource
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import ConfigError
from hakg_dgl.randomness import numpy_generator

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DEMO_RELATIONS = ("belongs_to", "subcategory_of", "made_by", "released_in")

_YEAR_SECONDS = 365 * 86400
_FIRST_YEAR = 1985
_FIRST_TIMESTAMP = 1_700_000_000


@dataclass(frozen=True)
class DemoSettings:
    """Sizes and tastes of the demo; the defaults are in ``datasets/demo.toml``, see :meth:`load`.

    Attributes
    ----------
    users, items, makers, years
        How many of each.
    branching
        Genres below each genre, level by level; below its last level lie the items.
    mean_interactions, min_interactions, activity_spread
        Of a user: log-normal with this mean, and this standard deviation of the logarithm, cut at the minimum and at
        half the items.
    popularity_exponent
        The item (or maker) of popularity rank r has the weight (r + 1) ** -exponent; in [0, 1).
    preferred_depths
        How often a taste is a genre of depth 1, 2, ...; sums to 1.
    second_taste
        Share of users with two tastes.
    focus, spill
        Shares of choices within the preferred genre, and within the genre above it; the rest is anywhere.
    stray_genre
        Share of items with one more genre, drawn at random.

    Raises
    ------
    ConfigError
        On creation, for a value that is not allowed.
    """

    users: int
    items: int
    branching: tuple[int, ...]
    makers: int
    years: int
    mean_interactions: float
    min_interactions: int
    activity_spread: float
    popularity_exponent: float
    preferred_depths: tuple[float, ...]
    second_taste: float
    focus: float
    spill: float
    stray_genre: float

    def __post_init__(self) -> None:
        for name in ("users", "items", "makers", "years", "min_interactions"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(bool(self.branching) and min(self.branching) >= 1, "branching", self.branching, "integers, at least 1")
        for name in ("second_taste", "focus", "spill", "stray_genre"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a fraction in [0, 1]")
        _require(self.focus + self.spill <= 1, "focus + spill", self.focus + self.spill, "at most 1")
        _require(0 <= self.popularity_exponent < 1, "popularity_exponent", self.popularity_exponent, "in [0, 1)")
        _require(self.activity_spread >= 0, "activity_spread", self.activity_spread, "at least 0")
        depths = self.preferred_depths
        fit = 1 <= len(depths) <= self.depth and min(depths) >= 0 and math.isclose(sum(depths), 1)
        _require(fit, "preferred_depths", depths, f"1 to {self.depth} fractions that sum to 1")
        least, mean, most = self.min_interactions, self.mean_interactions, self.items // 2
        _require(
            least <= mean <= most, "mean_interactions", mean, f"from {least} (the minimum) to {most} (half the items)"
        )

    @classmethod
    def load(cls) -> DemoSettings:
        """The settings shipped with the package."""
        values: dict[str, Any] = read_resource("demo.toml")
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ConfigError(f"demo.toml must hold exactly these settings: {', '.join(sorted(known))}")
        settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**settings)

    @property
    def depth(self) -> int:
        """Levels of genres, without the root."""
        return len(self.branching)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"demo setting {name} = {value!r} is not allowed; it must be {allowed}")


def generate_demo(settings: DemoSettings | None = None, seed: int = 2020) -> RawData:
    """Generate a small data set in which a hierarchy explains what users choose.

    Genres form a tree ("All genres", "Genre 2", "Genre 2.1", ...); each item ``belongs_to`` a genre of the lowest
    level, each genre is a ``subcategory_of`` the one above. ``made_by`` (a few makers have many items) and
    ``released_in`` (a year) say nothing about taste. A user likes one or two genres of any depth and draws items
    without repetition from the mixture

        p(i | u) = focus p(i | genre) + spill p(i | genre above) + (1 - focus - spill) p(i),

    where p is proportional to the item's popularity weight. So genres near the root are right for some users and
    genres far from it for others, and a model needs the KG's levels, popularity and the other users to rank well.

    Parameters
    ----------
    settings
        By default :meth:`DemoSettings.load`.
    seed
        The same seed gives the same data.

    Returns
    -------
    RawData
        Ids are row numbers, entities 0..items-1 are the items, then come genres (see :func:`planted_depth`), makers and
        years. Interactions carry a timestamp and no split.
    """
    settings = settings or DemoSettings.load()
    generator = numpy_generator(seed, "demo")
    path = _genre_paths(settings, generator)
    return RawData(
        name="demo",
        interactions=_demo_interactions(settings, path, generator),
        triples=_demo_triples(settings, path, generator),
        users=_names("user", np.arange(settings.users).astype(str)),
        items=_names("item", np.arange(settings.items).astype(str)),
        entities=_demo_entities(settings),
        relations=pd.DataFrame(
            {"id": range(len(DEMO_RELATIONS)), "original_id": DEMO_RELATIONS, "name": DEMO_RELATIONS}
        ),
        report={"generated_with_seed": seed},
        ids_are_indices=True,
        counts={
            "users": settings.users,
            "items": settings.items,
            "entities": settings.items + sum(_level_sizes(settings)) + settings.makers + settings.years,
            "relations": len(DEMO_RELATIONS),
        },
    )


def planted_depth(settings: DemoSettings | None = None) -> pd.DataFrame:
    """Where entities of the demo stand in the planted tree; it depends on the settings alone, not on the seed.

    Returns
    -------
    DataFrame
        Columns ``entity`` (index; also in the data set made of it), ``original_id`` and ``depth``: 0 for the root, k
        for a genre of level k, one more than the lowest genres for an item. Makers and years stand outside the tree and
        are absent.
    """
    settings = settings or DemoSettings.load()
    sizes = _level_sizes(settings)
    depth = np.repeat([settings.depth + 1, *range(len(sizes))], [settings.items, *sizes])
    table = _demo_entities(settings).iloc[: len(depth)]
    return pd.DataFrame({"entity": table["id"], "original_id": table["original_id"], "depth": depth})


def _level_sizes(settings: DemoSettings) -> list[int]:
    """Genres of each level, the root included."""
    return [1, *np.cumprod(settings.branching).tolist()]


def _level_starts(settings: DemoSettings) -> Int64:
    """Entity index of the first genre of each level, int64 [depth + 1]."""
    starts: Int64 = np.cumsum([settings.items, *_level_sizes(settings)[:-1]], dtype=np.int64)
    return starts


def _genre_paths(settings: DemoSettings, generator: np.random.Generator) -> Int64:
    """The genres above each item, root first: entity indices, int64 [items, depth + 1]."""
    sizes = _level_sizes(settings)
    weight = _power_law(sizes[-1], 0.5)[generator.permutation(sizes[-1])]
    lowest = generator.choice(sizes[-1], size=settings.items, p=weight / weight.sum())
    return _ancestors(settings, lowest)


def _ancestors(settings: DemoSettings, lowest: Int64) -> Int64:
    """Entity indices of the genres from the root to the given genres of the lowest level (counted within it)."""
    sizes = np.array(_level_sizes(settings))
    return np.asarray(lowest[:, None] // (sizes[-1] // sizes) + _level_starts(settings), dtype=np.int64)


def _demo_triples(settings: DemoSettings, path: Int64, generator: np.random.Generator) -> pd.DataFrame:
    n, sizes, starts = settings.items, _level_sizes(settings), _level_starts(settings)
    items = np.arange(n)
    stray = np.flatnonzero(generator.random(n) < settings.stray_genre)
    stray_genre = starts[-1] + generator.integers(sizes[-1], size=len(stray))
    genres = np.arange(starts[0] + 1, starts[-1] + sizes[-1])
    level = np.searchsorted(starts, genres, side="right") - 1
    above = starts[level - 1] + (genres - starts[level]) // np.array(settings.branching)[level - 1]
    first_maker = starts[-1] + sizes[-1]
    weight = _power_law(settings.makers, settings.popularity_exponent)
    makers = generator.choice(settings.makers, size=n, p=weight / weight.sum())
    some = min(settings.makers, n)
    makers[generator.permutation(n)[:some]] = np.arange(some)  # nobody has made nothing
    years = generator.integers(settings.years, size=n)
    parts = [
        (items, 0, path[:, -1]),
        (stray, 0, stray_genre),
        (genres, 1, above),
        (items, 2, first_maker + makers),
        (items, 3, first_maker + settings.makers + years),
    ]
    columns = [np.concatenate([np.broadcast_to(part[at], len(part[0])) for part in parts]) for at in range(3)]
    triples = pd.DataFrame(dict(zip(("head", "relation", "tail"), columns, strict=True)))
    return triples.drop_duplicates(ignore_index=True)  # a stray genre may be the item's own


def _demo_interactions(settings: DemoSettings, path: Int64, generator: np.random.Generator) -> pd.DataFrame:
    """Draw each user's items without repetition: the Gumbel top-k trick over the [users, items] mixture."""
    n, m = settings.users, settings.items
    popularity = _power_law(m, settings.popularity_exponent)[generator.permutation(m)]
    tastes = np.where(generator.random(n) < settings.second_taste, 2, 1)
    chance = (1 - settings.focus - settings.spill) * np.tile(popularity / popularity.sum(), (n, 1))
    for taste in range(2):
        # a taste is a genre above some item, so it is never empty
        depth = 1 + generator.choice(len(settings.preferred_depths), size=n, p=settings.preferred_depths)
        example = generator.integers(m, size=n)
        share = np.where(taste < tastes, 1 / tastes, 0.0)[:, None]
        for weight, level in ((settings.focus, depth), (settings.spill, depth - 1)):
            within = path[example, level][:, None] == path[:, level].T
            chance += share * weight * _normalised(within * popularity)
    log_mean = math.log(settings.mean_interactions) - settings.activity_spread**2 / 2
    wanted = np.rint(generator.lognormal(log_mean, settings.activity_spread, size=n))
    wanted = np.clip(wanted, settings.min_interactions, m // 2)
    with np.errstate(divide="ignore"):
        order = np.argsort(-(np.log(chance) + generator.gumbel(size=(n, m))), axis=1)
    user, rank = np.nonzero(np.arange(m) < wanted[:, None])
    timestamp = _FIRST_TIMESTAMP + generator.integers(_YEAR_SECONDS, size=len(user))
    return pd.DataFrame({"user": user, "item": order[user, rank], "timestamp": timestamp.astype(np.float64)})


def _normalised(rows: Float64) -> Float64:
    return np.asarray(rows / rows.sum(axis=1, keepdims=True), dtype=np.float64)


def _power_law(n: int, exponent: float) -> Float64:
    """Weights (rank + 1) ** -exponent, float64 [n]."""
    return np.arange(1, n + 1, dtype=np.float64) ** -exponent


def _demo_entities(settings: DemoSettings) -> pd.DataFrame:
    """Names of all entities: items, genres by level, makers, years."""
    paths, level = ["All genres"], [""]
    for width in settings.branching:
        level = [f"{above}.{child}".lstrip(".") for above in level for child in range(1, width + 1)]
        paths += level
    genres = _names("genre", np.array(["root", *paths[1:]]))
    genres.loc[0, "name"] = paths[0]
    parts = [
        _names("item", np.arange(settings.items).astype(str)),
        genres,
        _names("maker", np.arange(settings.makers).astype(str)),
        _names("year", (_FIRST_YEAR + np.arange(settings.years)).astype(str)),
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(id=np.arange(len(table)))


def _names(kind: str, labels: npt.NDArray[np.str_]) -> pd.DataFrame:
    text = pd.Series(labels.tolist(), dtype=object)
    return pd.DataFrame(
        {"id": np.arange(len(text)), "original_id": f"{kind}_" + text, "name": f"{kind.capitalize()} " + text}
    )
