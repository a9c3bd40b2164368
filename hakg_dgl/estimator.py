"""A model in the manner of scikit-learn: tables in, tables out, and no folder unless one is asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl import locks
from hakg_dgl.atomic_files import replace_folder
from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.from_tables import from_tables, raw_from_tables
from hakg_dgl.data.growth import GrowthOptions, grow
from hakg_dgl.data.id_files import read_new_users, read_pairs
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.later_log import read_later_log
from hakg_dgl.data.readers.sources import Files, Source
from hakg_dgl.errors import CheckpointError, ConfigError, DataError
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.insight.explanation import Explanation
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.candidates import items_where, known_items
from hakg_dgl.ranking.evaluation import Evaluation, evaluate
from hakg_dgl.ranking.fold_in import about_users
from hakg_dgl.ranking.lists import recommend
from hakg_dgl.ranking.pairs import score_pairs
from hakg_dgl.ranking.similar import Similarity
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.loading import TrainedModel, fold_in_of, load_trained
from hakg_dgl.training.progress import OnProgress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import make_trainer
from hakg_dgl.training.update import make_updater

METRIC, CUT = "ndcg", 20
"""What :meth:`Estimator.score` measures."""
DATA = "data"
"""Folder of the data set, within that of the run."""


class Estimator:
    """Trains a model on tables and answers with tables.

    It follows the conventions of scikit-learn, without needing it: the constructor only keeps its arguments, ``fit``
    learns and returns the estimator, names of what was learnt end in ``_``, and ``get_params``, ``set_params`` and
    ``sklearn.base.clone`` work. Tables are those of :func:`~hakg_dgl.from_tables`. Users and items are named by their
    ids, which are text whatever they were in the tables; numbers are taken too.

    The run lies in a temporary folder, which is removed with the estimator; :meth:`save` keeps it.

    Parameters
    ----------
    model
        A name of :func:`~hakg_dgl.model_names`.
    **settings
        Settings of the model and its training, such as ``epochs=30``; docs/settings.md lists them.

    Attributes
    ----------
    dataset_
        The :class:`~hakg_dgl.Dataset` that was made of the tables.
    result_
        What training came to, the content of ``result.json``.
    run_
        Folder of the run.

    Examples
    --------
    >>> shop = Estimator("hakg", epochs=30).fit(orders, items=goods, timestamp_col="when", split="temporal")
    >>> shop.recommend(["ann", "bob"], k=5)
    >>> shop.save("runs/shop")
    """

    def __init__(self, model: str = "hakg", **settings: Any) -> None:
        self.model, self.settings = model, settings
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._trained: TrainedModel | None = None
        self._user_col, self._item_col = "user", "item"
        self._reading: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Estimator({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __getstate__(self) -> dict[str, Any]:
        if self._trained is not None:
            raise TypeError("an Estimator that is fitted cannot be pickled; keep it by save(folder), and load it again")
        return self.__dict__

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name; ``deep`` changes nothing, as none of them is an estimator."""
        return {"model": self.model, **self.settings}

    def set_params(self, **params: Any) -> Estimator:
        """Change arguments of the constructor; what was learnt stays until the next :meth:`fit`.

        Raises
        ------
        ConfigError
            If the model does not read such a setting; nothing is changed then.
        """
        model = params.get("model", self.model)
        known = Settings(model).by_section()
        unknown = next((name for name in params if name != "model" and name not in known), None)
        if unknown is not None:
            raise ConfigError(f"model {model!r} has no setting {unknown!r}; it has {', '.join(known)}")
        self.model = model
        self.settings = {
            **self.settings,
            **{name: value for name, value in params.items() if name != "model"},
        }
        return self

    def fit(
        self,
        interactions: Files,
        items: Files | None = None,
        users: Files | None = None,
        knowledge_graph: Files | None = None,
        *,
        on_progress: OnProgress | None = None,
        **tables: Any,
    ) -> Estimator:
        """Make a data set of the tables and train the model on it.

        Parameters
        ----------
        interactions, items, users, knowledge_graph
            The tables; see :func:`~hakg_dgl.from_tables`.
        on_progress
            Called after every step and every epoch.
        **tables
            How to read and split them, also as for ``from_tables``. Unlike there, ``test`` is 0 unless it is given:
            all interactions train, but for those by which the best epoch is chosen (``valid``, a tenth).

        Raises
        ------
        DataError
            If a table is wrong.
        ConfigError
            If a setting or an argument does not exist or has a value that is not allowed.
        NumericalError
            If training yields NaN or infinity.
        """
        settings = Settings.resolve(overrides={"kind": self.model, **self.settings})
        dataset = from_tables(interactions, items, users, knowledge_graph, **{"test": 0, **tables})
        place = tempfile.TemporaryDirectory(prefix="hakg-")
        data = Path(place.name) / DATA
        dataset.save(data)
        make_trainer(dataset, settings, run=place.name, data_path=data, on_progress=on_progress).fit()
        self._user_col, self._item_col = tables.get("user_col", "user"), tables.get("item_col", "item")
        self._reading = {name: value for name, value in tables.items() if name.endswith("_col") and name != "split_col"}
        return self._adopt(Path(place.name), dataset, place)

    def update(
        self,
        interactions: Files,
        items: Files | None = None,
        users: Files | None = None,
        knowledge_graph: Files | None = None,
        *,
        added: bool = True,
        on_progress: OnProgress | None = None,
        **tables: Any,
    ) -> Estimator:
        """Go on from what was learnt with further interactions, users and items; see :func:`~hakg_dgl.grow`.

        Parameters
        ----------
        interactions, items, users, knowledge_graph, on_progress, **tables
            As for :meth:`fit`, but for the splits; columns are called as there unless ``tables`` says otherwise.
        added
            Whether the interactions are only those that are new; otherwise they are all of them.

        Raises
        ------
        DataError
            If a table is wrong, nothing is new, or too little to choose the best epoch by.
        ConfigError
            If it is not fitted, or the model cannot be updated.
        """
        fitted = self._fitted()
        raw = raw_from_tables(interactions, items, users, knowledge_graph, **{**self._reading, **tables})
        growth = grow(self.dataset_, raw, GrowthOptions(added=added, test=0, seed=fitted.settings.run.seed))
        place = tempfile.TemporaryDirectory(prefix="hakg-")
        data = Path(place.name) / DATA
        growth.dataset.save(data)
        make_updater(
            self.run_, self.dataset_, growth, out=place.name, data_path=data, on_progress=on_progress
        ).fit()  # fmt: skip
        return self._adopt(Path(place.name), growth.dataset, place)

    def recommend(
        self,
        users: Sequence[Any] | None = None,
        k: int = 20,
        *,
        where: str | Sequence[str] = (),
        items: Sequence[Any] | None = None,
        exclude: Sequence[Any] = (),
        include_seen: bool = False,
        history: Files | None = None,
    ) -> pd.DataFrame:
        """The best items of users.

        Parameters
        ----------
        users
            Ids; all users by default, or all of ``history``.
        k
            Length of the lists.
        where
            Conditions that items must fulfil, such as ``colour=red``; see :func:`~hakg_dgl.items_where`.
        items, exclude
            Ids of the items to choose among, all by default, and of those to leave out.
        include_seen
            List also what a user has.
        history
            A table of what users have or are, known ones or new ones, who are then ranked without training; see
            :func:`~hakg_dgl.read_new_users`.

        Returns
        -------
        pandas.DataFrame
            ``user``, ``item`` (ids), ``score``, ``rank`` (from 1). A user has fewer rows where fewer items are left.

        Raises
        ------
        DataError
            If a user or an item does not exist, or no item is left to choose among.
        ConfigError
            If it is not fitted, or the model cannot rank new users.
        """
        model, dataset = self._fitted().model, self.dataset_
        candidates = self._candidates([where] if isinstance(where, str) else list(where), items, exclude)
        if history is None:
            ids, seen, scorer = self._ids("users"), dataset.positives(), model.scorer()
        else:
            found = read_new_users(history, dataset, user_col=self._user_col, item_col=self._item_col)
            about, fold = about_users(found), fold_in_of(model, self.run_)
            scorer = fold.scorer(*found.lists) if about is None else fold.scorer(*found.lists, about)
            ids, seen = IdMap(found.ids, found.ids.to_series()), found.lists
        chosen = np.arange(len(ids)) if users is None else _numbers(ids, users, "user")
        lists = recommend(scorer, chosen, k, None if include_seen else seen, candidates)
        return _named(lists, {"user": ids, "item": self._ids("items")})

    def similar(self, items: Sequence[Any], k: int = 20) -> pd.DataFrame:
        """The items that are most like some items, by the cosine of their vectors.

        Returns
        -------
        pandas.DataFrame
            ``item``, ``similar`` (ids), ``score``, ``rank`` (from 1).

        Raises
        ------
        DataError
            If an item does not exist.
        ConfigError
            If it is not fitted, or the model has no vectors.
        """
        ids = self._ids("items")
        found = Similarity(self._fitted().model).items(_numbers(ids, items, "item"), k)
        return _named(found, {"item": ids, "similar": ids})

    def predict(self, pairs: Source) -> pd.DataFrame:
        """The scores of pairs, whether or not the user has the item.

        Parameters
        ----------
        pairs
            A table with the columns of users and items that ``fit`` was given.

        Returns
        -------
        pandas.DataFrame
            ``user``, ``item`` (ids) and ``score``, in the order of the table.

        Raises
        ------
        DataError
            If a user or an item does not exist.
        ConfigError
            If it is not fitted.
        """
        model = self._fitted().model
        found = read_pairs(
            pairs,
            self.dataset_.users["original_id"].to_numpy(),
            self.dataset_,
            user_col=self._user_col,
            item_col=self._item_col,
        )
        return found.rows.assign(score=score_pairs(model.scorer(), found.users, found.items))

    def evaluate(self, interactions: Files | None = None, *, split: str = "test", **how: Any) -> Evaluation:
        """Measure the ranking, on a later log or on a split that ``fit`` was asked to hold out.

        Parameters
        ----------
        interactions
            A later log; those of its interactions that the estimator was trained on do not count.
        split
            ``test`` or ``valid``, where there is no log.
        **how
            Further arguments of :func:`~hakg_dgl.evaluate`, such as ``ks=(10, 20)``.

        Raises
        ------
        DataError
            If the log is wrong, or holds nothing that can be measured.
        ConfigError
            If it is not fitted, or there is no such split that the model was not trained on.
        """
        fitted, dataset = self._fitted(), self.dataset_
        if interactions is not None:
            dataset, split = (
                read_later_log(interactions, dataset, user_col=self._user_col, item_col=self._item_col).dataset,
                "test",
            )
        elif split in fitted.splits or not len(dataset.pairs(split)):
            raise ConfigError(
                f"nothing was held out as {split}, or the model was trained on it in the end: give a later log, or fit "
                "with test=0.2"
            )
        return evaluate(fitted.model.scorer(), dataset, split=split, **how)

    def score(self, interactions: Files | None = None) -> float:
        """NDCG@20 by :meth:`evaluate`: one number for the quality, as scikit-learn has it; more is better."""
        return float(self.evaluate(interactions, ks=(CUT,)).metrics[f"{METRIC}@{CUT}"])

    def explain(self, user: Any, item: Any) -> Explanation:
        """Take the score of a user and an item apart, by their ids; see :class:`~hakg_dgl.Explainer`.

        Raises
        ------
        DataError
            If the user or the item does not exist.
        ConfigError
            If it is not fitted, or the model does not take its scores apart.
        """
        explainer = Explainer(self._fitted().model, self.dataset_)
        (who,), (what,) = _numbers(self._ids("users"), [user], "user"), _numbers(self._ids("items"), [item], "item")
        return explainer(int(who), int(what))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Keep the run in a folder, with its data set in the folder ``data`` within it.

        It is a run as ``hakg train`` writes it, for ``hakg recommend`` and all other commands, and holds nothing that
        could run code. The folder is written whole or not at all.

        Raises
        ------
        DataError
            If the folder holds something: a run, unless ``overwrite``, or anything else.
        ConfigError
            If it is not fitted.
        """
        fitted, out = self._fitted(), Path(folder)
        if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (overwrite and RunFolder(out).exists()):
            remedy = "Give overwrite=True to replace it." if RunFolder(out).exists() else "Choose another place."
            raise DataError("holds something already", path=out, remedy=remedy)

        def write(fresh: Path) -> None:
            shutil.copytree(self.run_, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(locks.LOCK_NAME))
            if not (fresh / DATA).exists():
                self.dataset_.save(fresh / DATA)
            RunFolder(fresh).describe(fitted.settings, self.dataset_, out / DATA)

        replace_folder(out, write)

    @classmethod
    def load(cls, folder: str | Path, *, user_col: str = "user", item_col: str = "item") -> Estimator:
        """An estimator from a folder of :meth:`save`, or any other run, such as one of ``hakg train``.

        Parameters
        ----------
        folder
            The run. Its data set is in the folder ``data`` within it, or where the run says.
        user_col, item_col
            Columns of the tables that are given from now on.

        Raises
        ------
        CheckpointError
            If there is no run, it is damaged, or its data set is not where it says.
        """
        run = RunFolder(folder)
        data = run.path / DATA if (run.path / DATA).is_dir() else run.data_path
        if data is None or not data.is_dir():
            raise CheckpointError(f"{folder}: its data set is not at {data}; put it into {run.path / DATA}")
        made = cls(run.settings.kind, **_changed(run.settings))
        made._user_col, made._item_col = user_col, item_col
        made._reading = {"user_col": user_col, "item_col": item_col}
        return made._adopt(run.path, load_dataset(data), None)

    def _adopt(
        self, run: Path, dataset: Dataset, temporary: tempfile.TemporaryDirectory[str] | None
    ) -> Estimator:  # fmt: skip
        device = choose_device(RunFolder(run).settings.run.device)
        self._trained = load_trained(run, dataset, device=device)
        self.run_: Path = run
        self.dataset_: Dataset = dataset
        self.result_: dict[str, Any] = RunFolder(run).result
        self._temporary = temporary
        return self

    def _fitted(self) -> TrainedModel:
        if self._trained is None:
            raise ConfigError("this Estimator is not fitted yet: call fit with a table of interactions first")
        return self._trained

    def _ids(self, table: str) -> IdMap:
        self._fitted()
        rows: pd.DataFrame = getattr(self.dataset_, table)
        return IdMap(pd.Index(rows["original_id"]), rows["name"])

    def _candidates(self, where: list[str], items: Sequence[Any] | None, exclude: Sequence[Any]) -> Any:
        """Items that may be listed, None for all."""
        if not where and items is None and not len(exclude):
            return None
        found = np.arange(self.dataset_.n_items)
        if items is not None:
            found = known_items(self.dataset_, map(str, items))
        if where:
            found = np.intersect1d(found, items_where(self.dataset_, *where))
        if len(exclude):
            found = np.setdiff1d(found, known_items(self.dataset_, map(str, exclude)))
        if not len(found):
            raise DataError("no item is left to choose among", remedy="Name other items, or fewer conditions.")
        return found


def _numbers(ids: IdMap, wanted: Sequence[Any], what: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of ids, each once; DataError for one that does not exist, or a text in place of several ids."""
    if isinstance(wanted, str):
        raise DataError(f"{wanted!r} is one id, not a list of them", remedy=f"Give [{wanted!r}].")
    return np.array([ids.index(each, what) for each in dict.fromkeys(wanted)], dtype=np.int64)


def _named(lists: pd.DataFrame, ids: Mapping[str, IdMap]) -> pd.DataFrame:
    """Lists with ids in place of numbers, and the columns of ids first."""
    columns = {name: known.original_ids.to_numpy()[lists[name].to_numpy()] for name, known in ids.items()}
    return pd.DataFrame({**columns, "score": lists["score"].to_numpy(), "rank": lists["rank"].to_numpy()})


def _changed(settings: Settings) -> dict[str, Any]:
    """The settings that are not the defaults of their model."""
    usual = Settings(settings.kind).values()
    return {name: value for name, value in settings.values().items() if name != "kind" and value != usual[name]}
