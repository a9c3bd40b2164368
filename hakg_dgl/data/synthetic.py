"""Generated data: the demo with its planted hierarchy, and random graphs of the published sizes for benchmarks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hakg_dgl.data.cards import load_card, read_resource
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.randomness import numpy_generator

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DEMO_RELATIONS = ("belongs_to", "subcategory_of", "made_by", "released_in")

_YEAR_SECONDS = 365 * 86400
_FIRST_YEAR = 1985
_FIRST_TIMESTAMP = 1_700_000_000


# --- the demo ---------------------------------------------------------------------------------------------------------


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


# --- paper-sized random graphs ----------------------------------------------------------------------------------------


def generate_like(like: str | Mapping[str, int], scale: float = 1.0, seed: int = 2020) -> RawData:
    """Generate a random graph with the sizes of a data set: for measurements of speed, there is nothing to learn in it.

    Degrees of users, items and attributes follow power laws. Every user and every item has a training interaction,
    every entity and every relation a triple; pairs and triples are distinct, and the counts are met exactly.

    Parameters
    ----------
    like
        Name of a card with counts, or the counts: ``users``, ``items``, ``entities`` (items included), ``relations``,
        ``triples``, and ``train`` with ``test``, or ``interactions`` (of which a fifth becomes the test split).
    scale
        Factor on all counts but relations, so that degrees stay.
    seed
        The same seed gives the same graph.

    Returns
    -------
    RawData
        Ids are row numbers, with a split.

    Raises
    ------
    ConfigError
        If counts are missing, or no such graph exists (more than half of all pairs, say).
    """
    name = like if isinstance(like, str) else "random"
    sizes = _scaled_counts(name, load_card(like).counts if isinstance(like, str) else like, scale)
    generator = numpy_generator(seed, "paper-sized graph")
    train, test = _random_pairs(sizes, generator)
    keys = np.concatenate([train, test])
    codes = np.repeat(np.array([0, 2], dtype=np.int8), [len(train), len(test)])
    return RawData(
        name=f"{name}-random",
        interactions=pd.DataFrame(
            {
                "user": keys // sizes["items"],
                "item": keys % sizes["items"],
                "split": pd.Categorical.from_codes(codes, pd.Index(SPLITS)),
            }
        ),
        triples=_random_triples(sizes, generator),
        report={"generated_with_seed": seed},
        ids_are_indices=True,
        counts={kind: sizes[kind] for kind in ("users", "items", "entities", "relations")},
    )


def _scaled_counts(name: str, counts: Mapping[str, int], scale: float) -> dict[str, int]:
    needed = ["users", "items", "entities", "relations", "triples"]
    missing = [what for what in needed if what not in counts]
    if missing or not ("interactions" in counts or {"train", "test"} <= set(counts)):
        raise ConfigError(f"{name}: the counts lack {', '.join(missing) or 'train and test, or interactions'}")
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"scale = {scale!r} is not allowed; it is a positive number")
    test = counts.get("test", round(counts.get("interactions", 0) / 5))
    train = counts.get("train", counts.get("interactions", 0) - test)
    sizes = {what: counts[what] for what in needed} | {"train": train, "test": test}
    sizes = {what: value if what == "relations" else round(value * scale) for what, value in sizes.items()}
    attributes = sizes["entities"] - sizes["items"]
    limits = {
        "users": (1, None),
        "items": (1, None),
        "entities": (sizes["items"] + 1, None),
        "relations": (1, None),
        "train": (sizes["users"] + sizes["items"], None),
        "test": (1, max(sizes["users"] * sizes["items"] // 2 - sizes["train"], 0)),
        "triples": (sizes["entities"] + sizes["relations"], sizes["items"] * attributes * sizes["relations"] // 2),
    }
    for what, (least, most) in limits.items():
        if sizes[what] < least or (most is not None and sizes[what] > most):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(
                f"{name} at scale {scale:g}: {what} = {sizes[what]} is not possible; it must be {allowed}"
            )
    return sizes


def _random_pairs(sizes: Mapping[str, int], generator: np.random.Generator) -> tuple[Int64, Int64]:
    """Keys ``user * items + item`` of the training and the test part."""
    n, m = sizes["users"], sizes["items"]
    users, items = _Ranks(n, 0.4, generator), _Ranks(m, 0.6, generator)
    everyone = np.arange(n) * m + items.draw(n)
    everything = users.draw(m) * m + np.arange(m)
    base = _distinct(np.concatenate([everyone, everything]))
    rest = _fill_up(
        base,
        sizes["train"] + sizes["test"],
        lambda count, flat: users.draw(count, flat) * m + items.draw(count, flat),
        generator,
    )
    return np.concatenate([base, rest[sizes["test"] :]]), rest[: sizes["test"]]


def _random_triples(sizes: Mapping[str, int], generator: np.random.Generator) -> pd.DataFrame:
    """Triples of items with attributes, and a quarter between attributes."""
    m, n, n_relations = sizes["items"], sizes["entities"], sizes["relations"]
    items, attributes, relations = (
        _Ranks(m, 0.3, generator),
        _Ranks(n - m, 0.7, generator),
        _Ranks(n_relations, 0.7, generator),
    )

    def draw(count: int, flat: float) -> Int64:
        tail = m + attributes.draw(count, flat)
        other = m + attributes.draw(count, flat)
        between = (generator.random(count) < 0.25) & (other != tail)
        head = np.where(between, other, items.draw(count, flat))
        return (head * n_relations + relations.draw(count, flat)) * n + tail

    described = (np.arange(m) * n_relations + relations.draw(m)) * n + m + attributes.draw(m)
    used = (items.draw(n - m) * n_relations + relations.draw(n - m)) * n + np.arange(m, n)
    each = (items.draw(n_relations) * n_relations + np.arange(n_relations)) * n + m + attributes.draw(n_relations)
    base = _distinct(np.concatenate([described, used, each]))
    keys = np.concatenate([base, _fill_up(base, sizes["triples"], draw, generator)])
    rest, tail = np.divmod(keys, n)
    head, relation = np.divmod(rest, n_relations)
    return pd.DataFrame({"head": head, "relation": relation, "tail": tail})


class _Ranks:
    """Draws from 0..n-1 with weight (rank + 1) ** -exponent, ranks being dealt out at random; exponent below 1."""

    def __init__(self, n: int, exponent: float, generator: np.random.Generator) -> None:
        self.n, self.exponent, self.generator = n, exponent, generator
        self.of_rank = generator.permutation(n)

    def draw(self, count: int, flat: float = 1.0) -> Int64:
        """``count`` draws, int64; ``flat`` below 1 scales the exponent down."""
        # inverse of the cumulative (rank / n) ** (1 - exponent)
        rank = self.n * self.generator.random(count) ** (1 / (1 - self.exponent * flat))
        return self.of_rank[np.minimum(rank.astype(np.int64), self.n - 1)]


def _fill_up(base: Int64, total: int, draw: Callable[[int, float], Int64], generator: np.random.Generator) -> Int64:
    """Draw ``total - len(base)`` distinct keys that are not in ``base`` (sorted), in random order."""
    rest = np.empty(0, dtype=np.int64)
    flat = 1.0
    while (lack := total - len(base) - len(rest)) > 0:
        fresh = _distinct(np.concatenate([rest, draw(lack + lack // 4 + 64, flat)]))
        at = np.minimum(np.searchsorted(base, fresh), len(base) - 1)
        rest = fresh[base[at] != fresh]
        flat *= 0.7  # where the popular pairs are exhausted, look at the others
    return generator.permutation(rest)[: total - len(base)]


def _distinct(keys: Int64) -> Int64:
    """Sorted, each once (sorting beats hashing here)."""
    keys = np.sort(keys)
    first: npt.NDArray[np.bool_] = np.diff(keys, prepend=-1) != 0
    return keys[first]


# --- writing ----------------------------------------------------------------------------------------------------------


def write_kgat(raw: RawData, folder: str | Path) -> Path:
    """Write raw data in the KGAT layout: ``train.txt``, ``test.txt``, ``kg_final.txt``, and ``*_list.txt`` for names.

    Every user has a line in ``train.txt``, those without training items alone on it. The layout knows no validation
    split: its interactions go to ``train.txt``. Each file is written under a temporary name, then renamed.

    Parameters
    ----------
    raw
        With ``ids_are_indices`` and a split.
    folder
        Made if missing; files in it of the same names are replaced.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DataError
        If the ids are not row numbers, there is no split, or the folder cannot be written.
    """
    folder = Path(folder)
    if not raw.ids_are_indices:
        raise DataError(f"{raw.name}: ids are not row numbers", remedy="This layout needs item i to be entity i.")
    if "split" not in raw.interactions:
        raise DataError(f"{raw.name}: there is no split", remedy="Add a column 'split' with train and test.")
    in_test = (raw.interactions["split"] == "test").to_numpy()
    pairs = raw.interactions[["user", "item"]].to_numpy(dtype=np.int64)
    n_users = max(raw.counts.get("users", 0), int(pairs[:, 0].max(initial=-1)) + 1)
    lists = {"user": raw.users, "item": raw.items, "entity": raw.entities, "relation": raw.relations}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / "train.txt", _user_lines(pairs[~in_test], n_users, keep_lone=True))
        _write_lines(folder / "test.txt", _user_lines(pairs[in_test], n_users, keep_lone=False))
        _write_triples(folder / "kg_final.txt", raw.triples)
        for kind, names in lists.items():
            if names is not None:
                _write_lines(folder / f"{kind}_list.txt", _list_lines(raw.name, kind, names))
    except OSError as error:
        raise DataError(
            f"cannot be written: {error}", path=folder, remedy="Free some space, or choose another folder."
        ) from error
    return folder


def _user_lines(pairs: Int64, n_users: int, *, keep_lone: bool) -> list[str]:
    """A user and its items a line."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    counts = np.bincount(pairs[:, 0], minlength=n_users)
    users = np.arange(n_users) if keep_lone else np.flatnonzero(counts)
    # the user stands before its items as if it were one of them
    starts = np.concatenate([[0], np.cumsum(counts)])[users]
    tokens = np.insert(pairs[:, 1], starts, users)
    offsets = np.concatenate([[0], np.cumsum(counts[users] + 1)]).astype(np.int64)
    words = pa.LargeListArray.from_arrays(pa.array(offsets), pc.cast(pa.array(tokens), pa.string()))
    lines: list[str] = pc.binary_join(words, " ").to_pylist()
    return lines


def _list_lines(name: str, kind: str, names: pd.DataFrame) -> list[str]:
    """Original id and row number a line, below a header."""
    ids = names["original_id" if "original_id" in names else "name"].astype(str)
    broken = ids[ids.str.contains(r"[\r\n]")]
    if len(broken):
        raise DataError(f"{name}: the {kind} id {broken.iloc[0]!r} holds a line break", remedy="Rename it.")
    return ["org_id remap_id", *(ids + " " + names["id"].astype(str)).tolist()]


def _write_lines(path: Path, lines: list[str]) -> None:
    with _renamed(path) as handle:
        handle.write("".join(line + "\n" for line in lines).encode())


def _write_triples(path: Path, triples: pd.DataFrame) -> None:
    table = pa.table({end: pa.array(triples[end].to_numpy()) for end in ("head", "relation", "tail")})
    with _renamed(path) as handle:
        pa_csv.write_csv(table, handle, pa_csv.WriteOptions(include_header=False, delimiter=" "))


@contextmanager
def _renamed(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` when it is whole."""
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as handle:
            yield handle
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
