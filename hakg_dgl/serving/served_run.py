"""A trained run that is ready to answer: lists, similar items, explanations, places in the hierarchy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.ranking.candidates import known_items
from hakg_dgl.ranking.fold_in import AboutUsers
from hakg_dgl.ranking.index import ItemIndex
from hakg_dgl.ranking.similar import Similarity, oneself
from hakg_dgl.ranking.topk import Scorer, UserItems, id_tensor, masked_topk
from hakg_dgl.serving.arrivals import LastArrivals, with_arrivals
from hakg_dgl.serving.attributes import UserAttributes
from hakg_dgl.serving.batches import AskingUser, Batch, NewItemRow
from hakg_dgl.serving.bounds import Indexed
from hakg_dgl.serving.choices import Choice, Choices, best
from hakg_dgl.serving.indexing import index_of
from hakg_dgl.serving.names import Names
from hakg_dgl.serving.places import Places
from hakg_dgl.serving.refusals import Refusal, refusal_of
from hakg_dgl.training.loading import TrainedModel

NOTHING_LEFT = "Every item that may be listed is known to the user already; include_seen=true lists those too."
UNTRAINED = "The user has no training interaction: the list means little."

Part = TypeVar("Part")


class ServedRun:
    """All that the service answers with; nothing of it changes after it is made, so threads may share it.

    Parameters
    ----------
    trained
        The best model of a run.
    dataset
        The data set it was trained on.
    name
        What the run is called in answers.
    notes
        Remarks that people have to know, such as that training has not finished.
    index
        Whether lists of all items come from an :class:`~hakg_dgl.ranking.index.ItemIndex`: ``always``, ``never``, or
        ``auto``; see :func:`~hakg_dgl.serving.indexing.index_of`.
    lists_only
        Leave out what explains and places items, which takes a while to make.

    Raises
    ------
    MissingDependencyError
        If ``index`` is ``always``, and FAISS is not installed.
    HakgError
        If the model cannot rank, as with scores that are not finite, or has no vectors and ``index`` is ``always``.
    """

    @torch.no_grad()
    def __init__(
        self, trained: TrainedModel, dataset: Dataset, *, name: str, notes: Sequence[str] = (), index: Indexed = "auto",
        lists_only: bool = False,
    ) -> None:  # fmt: skip
        model = trained.model
        self.dataset: Dataset = dataset
        self.notes: tuple[str, ...] = tuple(notes)
        self.users: Names = Names(dataset.users)
        self.items: Names = Names(dataset.items)
        self.scorer: Scorer = model.scorer()
        self._seen = _tensors(dataset.positives())
        self._trained_on = id_tensor(dataset.positives(*trained.splits)[0]).diff()
        self._fold = _able(model.abilities.folds_in_users, model.fold_in)
        self._similar = _able(model.abilities.vectors, lambda: Similarity(model).item_scorer)
        self._oneself: UserItems = oneself(len(self.items))
        self._explainer = _able(model.abilities.explains and not lists_only, lambda: Explainer(model, dataset))
        self._attributes = UserAttributes(dataset)
        self._places = None if lists_only else Places(model, dataset)
        self._model_name, self._takes_new_items = model.name, model.abilities.new_items
        self._choices = Choices(dataset)
        self._arrived = LastArrivals(lambda rows: _with_new_items(trained, dataset, name, rows))
        self.facts: dict[str, Any] = {
            "run": name,
            "model": model.name,
            "epoch": trained.epoch,
            "data": {"name": dataset.name, "digest": dataset.digest},
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.check()
        self._index = index_of(self.scorer, index)
        self._similar_index = None if self._similar is None else index_of(self._similar, index)

    def about(self) -> dict[str, Any]:
        """What is served, JSON values."""
        return {
            **self.facts,
            "counts": {"users": len(self.users), "items": len(self.items)},
            "explains": self._explainer is not None,
            "similar": self._similar is not None,
            "new_users": self._fold is not None,
            "new_items": self._takes_new_items,
            "index": None if self._index is None else self._index.about(),
            "notes": list(self.notes),
        }

    def check(self) -> None:
        """Rank for the first user; NumericalError or another HakgError if that cannot be."""
        masked_topk(self.scorer, np.zeros(min(1, len(self.users)), dtype=np.int64), 1)

    def with_new_items(self, rows: tuple[NewItemRow, ...]) -> tuple[ServedRun, dict[str, int]]:
        """The run with further items, which lists may hold, and remarks with counts; the last one is remembered.

        Raises
        ------
        Refusal
            400: if the model needs training for new items, or nothing is known of them.
        """
        return self._answered(lambda: self._arrived.of(rows))

    # --- lists ------------------------------------------------------------------------------------------------------

    def recommend(
        self, user: str, k: int, where: tuple[str, ...] = (), include_seen: bool = False, at_most: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The list of a user of the data set, JSON values."""
        return self.recommend_all(Batch((AskingUser(user),), k, where, include_seen, at_most))[0]

    def recommend_all(self, batch: Batch) -> list[dict[str, Any]]:
        """The lists of a batch in its order, JSON values.

        Raises
        ------
        Refusal
            404 for a user who is not in the data set, 400 for items, attributes, conditions or limits that are not, or
            that the model makes nothing of.
        """
        choice = self._choice(batch.where, batch.at_most)
        many = len(batch.users) > 1
        lists: dict[int, dict[str, Any]] = {}
        for folded, rank in ((False, self._trained_lists), (True, self._folded_lists)):
            places = [n for n, user in enumerate(batch.users) if user.folded == folded]
            if places:
                label = [f"users[{n}]: " if many or folded else "" for n in places]
                found = rank([batch.users[n] for n in places], label, batch, choice)
                lists |= dict(zip(places, found, strict=True))
        return [lists[n] for n in range(len(batch.users))]

    def _trained_lists(
        self, users: Sequence[AskingUser], places: Sequence[str], batch: Batch, choice: Choice
    ) -> list[dict[str, Any]]:
        numbers = [self._user(str(user.id), place) for user, place in zip(users, places, strict=True)]
        seen = None if batch.include_seen else self._seen
        found = self._ranked(self.scorer, numbers, batch.k, seen, choice, self._index)
        return [
            self._list(
                self.users.label(number), rows, [*([] if self._trained_on[number] else [UNTRAINED]), *choice.notes]
            )
            for number, rows in zip(numbers, found, strict=True)
        ]

    def _folded_lists(
        self, users: Sequence[AskingUser], places: Sequence[str], batch: Batch, choice: Choice
    ) -> list[dict[str, Any]]:
        if self._fold is None:
            raise Refusal(
                400,
                f"model {self._model_name!r} makes no lists for users that it was not trained on",
                "Give ids alone.",
            )
        known, given = [], []
        for user, place in zip(users, places, strict=True):
            known.append(-1 if user.id is None else self._user(user.id, place))
            given.append(self._items(user.items, place))
        past = _packed([_joined(_row(self._seen, n), items) for n, items in zip(known, given, strict=True)])
        about = AboutUsers(torch.tensor(known), self._attributes.packed([user.attributes for user in users]))
        scorer = self._answered(lambda: self._fold.scorer(*past, about))  # type: ignore[union-attr]
        hidden, numbers = None if batch.include_seen else past, list(range(len(users)))
        found = self._answered(lambda: self._ranked(scorer, numbers, batch.k, hidden, choice, self._index))
        return [
            self._list(self.users.label(number) if number >= 0 else None, rows, choice.notes)
            for number, rows in zip(known, found, strict=True)
        ]

    def _list(self, user: dict[str, str] | None, rows: list[dict[str, Any]], notes: Sequence[str]) -> dict[str, Any]:
        return {"user": user, "items": rows, "notes": [*notes, *([] if rows else [NOTHING_LEFT])]}

    def _ranked(
        self, scorer: Scorer, users: list[int], k: int, seen: UserItems | None, choice: Choice, index: ItemIndex | None
    ) -> list[list[dict[str, Any]]]:
        items, scores = best(scorer, users, k, seen, choice, index)
        return [
            [
                {"rank": place, **self.items.label(item), "score": score}
                for place, (item, score) in enumerate(zip(*row, strict=True), 1)
                if item >= 0
            ]
            for row in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    # --- around an item ---------------------------------------------------------------------------------------------

    def similar(self, item: str, k: int, where: tuple[str, ...] = (), at_most: tuple[str, ...] = ()) -> dict[str, Any]:
        """The items most like an item, JSON values; Refusal as :meth:`recommend_all`."""
        if self._similar is None:
            raise Refusal(
                400, f"model {self._model_name!r} has no vectors of items", "Serve a model with vectors, such as hakg."
            )
        number = self._item(item)
        choice = self._choice(where, at_most)
        (rows,) = self._ranked(self._similar, [number], k, self._oneself, choice, self._similar_index)
        return {"item": self.items.label(number), "items": rows, "notes": list(choice.notes)}

    def explain(self, user: str, item: str, top: int) -> dict[str, Any]:
        """Where the score of a user and an item comes from: ``Explanation.to_dict``; Refusal as elsewhere."""
        if self._explainer is None:
            raise Refusal(
                400, f"model {self._model_name!r} does not take its scores apart", "Serve one that does, such as hakg."
            )
        return self._explainer(self._user(user), self._item(item)).to_dict(top)

    def place(self, item: str) -> dict[str, Any]:
        """Where an item lies in the hierarchy, JSON values."""
        number = self._item(item)
        if self._places is None:
            raise Refusal(400, "this run makes lists alone", "Ask the one without new items.")
        return {"item": self.items.label(number), **self._places.of(number)}

    # --- what requests name -----------------------------------------------------------------------------------------

    def _user(self, text: str, place: str = "") -> int:
        number = self.users.number(text)
        if number is None:
            raise Refusal(
                404, f"{place}there is no user with the id {text!r}", "Give an original id; /users finds them."
            )
        return number

    def _item(self, text: str, place: str = "", status: int = 404) -> int:
        number = self.items.number(text)
        number = self.items.named(text) if number is None else number
        if number is not None:
            return number
        try:
            return int(known_items(self.dataset, [text])[0])
        except DataError as error:
            raise Refusal(status, f"{place}{error.problem}", error.remedy) from error

    def _items(self, texts: tuple[str, ...], place: str) -> Tensor:
        return torch.tensor(sorted({self._item(text, place, 400) for text in texts}), dtype=torch.int64)

    def _choice(self, where: tuple[str, ...], limits: tuple[str, ...]) -> Choice:
        return self._answered(lambda: self._choices.of(where, limits))

    def _answered(self, work: Callable[[], Part]) -> Part:
        """What the library answers, or its refusal of what was asked for."""
        try:
            return work()
        except (DataError, ConfigError) as error:
            raise refusal_of(error) from error


@torch.no_grad()
def _with_new_items(
    trained: TrainedModel, dataset: Dataset, name: str, rows: tuple[NewItemRow, ...]
) -> tuple[ServedRun, dict[str, int]]:
    grown, whole, report = with_arrivals(trained, dataset, rows)
    return ServedRun(grown, whole, name=name, index="never", lists_only=True), dict(report)


def _able(able: bool, make: Callable[[], Part]) -> Part | None:
    """A part that the model declares to have; None where it has not, or not with these settings."""
    try:
        return make() if able else None
    except ConfigError:
        return None


def _tensors(lists: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    return id_tensor(lists[0]), id_tensor(lists[1])


def _row(lists: tuple[Tensor, Tensor], number: int) -> Tensor:
    """The list of one user, empty for number -1."""
    if number < 0:
        return torch.empty(0, dtype=torch.int64)
    return lists[1][lists[0][number] : lists[0][number + 1]]


def _joined(ours: Tensor, newer: Tensor) -> Tensor:
    joined: Tensor = torch.cat([ours, newer]).unique()  # type: ignore[no-untyped-call]
    return joined


def _packed(lists: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return F.pad(torch.tensor([len(row) for row in lists]).cumsum(0), (1, 0)), torch.cat(list(lists))
