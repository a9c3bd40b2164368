"""The contract of a model: what it declares, and what trainers, studies, lists, figures and checkpoints ask of it.

A model is one class. It declares its name, its settings (each section a dataclass whose defaults are the model's own),
its presets, the space that a search for settings covers, the variants of an ablation, and its abilities. It is built
from the heterograph. How it is trained follows from the base class: :class:`GradientRecommender` by gradients of the
losses of batches, :class:`ClosedFormRecommender` by solving for it. It ranks by :meth:`Recommender.scorer`.

docs/extending.md shows a model of another package from start to end.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import EdgeType, HeteroGraph, as_heterograph
from hakg_dgl.layers.sampling import EpochBatches
from hakg_dgl.models.optimizer import adam
from hakg_dgl.randomness import torch_generator
from hakg_dgl.ranking.fold_in import FoldedUsers, FoldIn
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer
from hakg_dgl.settings.run import NumericSettings, RunSettings
from hakg_dgl.settings.section import Section
from hakg_dgl.settings.training import SelectionSettings, TrainingSettings

if TYPE_CHECKING:
    from hakg_dgl.layers.updates import UpdateFunction
    from hakg_dgl.models.explanation import Breakdown
    from hakg_dgl.models.positions import Positions


@dataclass(frozen=True)
class Sections:
    """The classes of a model's settings, a section each; their fields are the settings that the model reads.

    Attributes
    ----------
    model
        What is computed from the graph.
    loss
        What is minimised.
    training
        How the best is found: :class:`~hakg_dgl.settings.training.SelectionSettings`, or for gradients
        :class:`~hakg_dgl.settings.training.TrainingSettings`; a subclass may have other defaults.
    run
        Where and how it is computed.
    """

    model: type[Section]
    loss: type[Section]
    training: type[SelectionSettings]
    run: type[RunSettings]

    def items(self) -> Iterator[tuple[str, type[Section]]]:
        """Names and classes, in the order of files."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def by_key(self) -> dict[str, str]:
        """Every setting with its section, in order: ``{"dim": "model", ...}``."""
        return {key: name for name, section in self.items() for key in section.setting_keys()}


@dataclass(frozen=True)
class NoSettings(Section):
    """A section without settings."""


@dataclass(frozen=True)
class Abilities:
    """What a model can do beside training and ranking; the contract test tries what is declared.

    Attributes
    ----------
    facts
        It reads the knowledge graph.
    vectors
        It ranks by inner products of a vector a user and a vector an item.
    folds_in_users
        It scores users that it was not trained on, by their items.
    new_items
        It ranks items that it was not trained on, by their facts.
    explains
        It takes a score apart into terms that add up to it.
    positions
        Its entities have places in the Poincaré ball or in flat space, with the more general nearer to the origin.
    records_steps
        Its training step can be recorded as a CUDA graph.
    own_edge_types
        It takes update functions for edge types of one's own.
    distributed
        Several processes can train it, each owning a part of its rows (:mod:`hakg_dgl.distributed`).
    """

    facts: bool = False
    vectors: bool = False
    folds_in_users: bool = False
    new_items: bool = False
    explains: bool = False
    positions: bool = False
    records_steps: bool = False
    own_edge_types: bool = False
    distributed: bool = False


NODE_TYPES = ("user", "item", "entity")
AnyRecommender = TypeVar("AnyRecommender", bound="Recommender")
Axis: TypeAlias = "str | Sequence[Hashable] | None"
"""What the places along an axis of a parameter stand for; see :meth:`GradientRecommender.axes`."""


@dataclass(frozen=True)
class Variant:
    """A model of an ablation study.

    Attributes
    ----------
    name
        For commands and folders.
    label
        For people.
    overrides
        Settings in which it differs from the full model.
    table
        Where the study shows it: ``ablation`` (the model without one of its parts) or ``depth`` (by layers).
    """

    name: str
    label: str
    overrides: Mapping[str, Any]
    table: str = "ablation"


class ModelBatches(Protocol):
    """What one pass of an epoch goes over; :class:`~hakg_dgl.layers.sampling.EpochBatches` is one.

    Attributes
    ----------
    generator
        What the order is drawn from when an iteration begins.
    largest
        Rows of a full batch, which a recorded step has.
    """

    generator: torch.Generator

    @property
    def largest(self) -> int:
        """Rows of a full batch."""

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one pass, each a tuple of tensors with as many rows, in a newly drawn order."""


@dataclass(frozen=True)
class Pass:
    """One pass of an epoch: batches, and the loss of a batch. Alternating phases are several passes an epoch.

    Attributes
    ----------
    name
        For messages.
    batches
        What it goes over.
    loss
        From the tensors of a batch to a scalar, differentiable in the model's parameters.
    optimizer
        Which of the model's optimizers makes its steps.
    """

    name: str
    batches: ModelBatches
    loss: Callable[..., Tensor]
    optimizer: str = "all"


class Judge(Protocol):
    """Says how well scorers rank on the split that selects."""

    def worth(self, scorer: Scorer) -> float:
        """The metric that selects, in a full ranking."""

    def worth_of_new_items(self, scorer: Scorer) -> float | None:
        """The same among the items without interactions alone; None where too few of them are chosen to tell."""


class Recommender(nn.Module, ABC):
    """A model of the interactions, and maybe of the facts, in a heterograph.

    Parameters
    ----------
    graph
        The heterograph of the interactions that are trained on, on the device where the model shall lie: from
        :func:`~hakg_dgl.graph.heterograph.build_graph`, or a DGL heterograph.
    settings, loss
        The model's own sections; their defaults if None.
    run
        Seed, numeric type and the like; its defaults if None.
    updates
        Update functions for edge types that the model does not know; ability ``own_edge_types``.
    of_run
        Settings of ``run`` to change, such as ``seed=1`` and ``dtype="float64"`` (or ``torch.float64``).

    Attributes
    ----------
    name
        What ``--model`` and ``kind`` call it.
    sections
        The classes of its settings.
    citation
        The BibTeX entry of its paper, or several; empty without one.
    presets
        Name -> settings, for ``--preset``.
    space
        What ``hakg tune`` searches if nothing else is asked for; see :meth:`search_space`.
    variants
        What ``hakg ablate`` compares; empty if the model has no parts to switch off.
    abilities
        What it can do.
    edge_updates
        Update functions for further edge types, for a subclass that adds some; those given to the constructor win.
    """

    name: ClassVar[str]
    sections: ClassVar[Sections]
    citation: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    space: ClassVar[Mapping[str, Any]] = {}
    variants: ClassVar[tuple[Variant, ...]] = ()
    abilities: ClassVar[Abilities] = Abilities()
    edge_updates: ClassVar[Mapping[EdgeType, UpdateFunction]] = {}

    def __init__(
        self,
        graph: Any,
        settings: Section | None = None,
        loss: Section | None = None,
        run: RunSettings | None = None,
        *,
        updates: Mapping[EdgeType, UpdateFunction] | None = None,
        **of_run: Any,
    ) -> None:
        super().__init__()
        self.graph: HeteroGraph = as_heterograph(graph)
        self.settings: Any = settings or self.sections.model()
        self.loss: Any = loss or self.sections.loss()
        if isinstance(of_run.get("dtype"), torch.dtype):
            of_run["dtype"] = str(of_run["dtype"]).removeprefix("torch.")
        self.run: Any = dataclasses.replace(run or self.sections.run(), **of_run)
        self.own_updates: dict[EdgeType, UpdateFunction] = {**self.edge_updates, **(updates or {})}
        if self.own_updates and not self.abilities.own_edge_types:
            raise self._cannot("takes no update functions of your own")
        # Parameters of such functions are trained and saved with the model's.
        self.own_functions: nn.ModuleList = nn.ModuleList(
            x for x in self.own_updates.values() if isinstance(x, nn.Module)
        )
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make parameters and buffers, before training; called once, when graph and settings are there."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Recommender:
        """Move or convert what the model holds; the graph follows to another device."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        graph = self.graph.to(fn(torch.empty(0, device=self.graph.device)).device)
        if graph is not self.graph:
            self.graph = graph
            self.graph_moved()
        return self

    def graph_moved(self) -> None:
        """Renew what was made from the graph, which has been moved to another device."""
        return

    @classmethod
    def search_space(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The space for a search around settings (key -> value), as :class:`~hakg_dgl.SearchSpace` reads it."""
        return cls.space

    @classmethod
    def idle_settings(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings that others switch off, for settings as they are (key -> value).

        Returns
        -------
        mapping
            Key -> when it would be read, such as ``"with ranking_loss = 'hinge'"``. A run with another value than the
            default for such a setting says so.
        """
        return {}

    def require_resources(self) -> None:
        """Raise ConfigError if training would need more than this machine has."""
        return

    def parameter(self, name: str, rows: int, width: int) -> nn.Parameter:
        """Xavier-uniform ``[rows, width]``, drawn from a random stream of its own, ``init:NAME``, on the CPU."""
        values = torch.empty(rows, width, dtype=self.dtype)
        nn.init.xavier_uniform_(values, generator=torch_generator(self.run.seed, f"init:{name}"))
        return nn.Parameter(values.to(self.device))

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.graph.device

    @property
    def dtype(self) -> torch.dtype:
        """Numeric type of parameters and scores."""
        return numeric_type(self.run)

    # --- what makes a trained model ----------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All that training has found; :meth:`load_tensors` takes it back."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the trained model with these tensors.

        Raises
        ------
        ValueError
            If they are not those of such a model on this graph.
        """
        require_tensors(tensors, {name: (value.shape, value.dtype) for name, value in self.state_dict().items()})
        self.load_state_dict(dict(tensors))

    def choose(self, judge: Judge) -> dict[str, float]:
        """Choose what is not learned but follows from the trained model, such as weights of terms of its score.

        Called once, when training has found its best model.

        Parameters
        ----------
        judge
            What to choose by.

        Returns
        -------
        dict
            The choice, for ``result.json`` and for :meth:`take` of a model that is trained once more; empty where there
            is nothing to choose.
        """
        return {}

    def take(self, chosen: Mapping[str, float]) -> None:
        """Become the model of a choice that :meth:`choose` of another one made."""
        return

    # --- how it ranks ------------------------------------------------------------------------------------------------

    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors whose inner products rank; ability ``vectors``."""
        raise self._cannot("ranks without vectors of users and items")

    def likeness_vectors(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d']`` vectors whose cosines tell how alike two users or items are.

        Those that rank, unless a model says otherwise; ability ``vectors``.
        """
        return self.ranking_vectors()

    def scorer(self) -> Scorer:
        """What ranks: scores of all items for a block of users."""
        return EmbeddingScorer(*self.ranking_vectors())

    # --- what it can do beside --------------------------------------------------------------------------------------

    def fold_in(self) -> FoldIn:
        """What it makes of users it was not trained on, by their items; ability ``folds_in_users``."""
        raise self._cannot("has no vectors for users it was not trained on, so that new users need training")

    def with_new_items(self, graph: HeteroGraph) -> Recommender:
        """The trained model with further items, known by their facts alone; ability ``new_items``.

        Parameters
        ----------
        graph
            The graph with the new items after its own, without interactions, as
            :func:`~hakg_dgl.data.new_items.with_items` has them.

        Returns
        -------
        Recommender
            Ranks as if the items had been in the data set without interactions, with parameters of zero.
        """
        raise self._cannot("knows items by what was learned of them, so that new items need training")

    def breakdown(self, folded: FoldedUsers | None = None) -> Breakdown:
        """The terms that a score is the sum of; ability ``explains``.

        ``folded`` are users to explain beside the trained ones, numbered after them.
        """
        raise self._cannot("does not take its scores apart")

    def positions(self, values: str = "parameters") -> Positions:
        """Where entities and items lie; ability ``positions``."""
        raise self._cannot("puts no entities into a ball or a plane")

    def vector_tables(self) -> dict[str, dict[str, Tensor]]:
        """All vectors for other programs: ``users``, ``items``, ... -> name -> ``[rows, d]``; ability ``vectors``."""
        users, items = self.ranking_vectors()
        return {"users": {"ranking": users}, "items": {"ranking": items}}

    def about_vectors(self) -> dict[str, Any]:
        """What a reader of :meth:`vector_tables` has to know of them, as JSON values."""
        return {}

    def warnings(self) -> list[str]:
        """Settings that turn out to do nothing on this graph, a sentence each."""
        return []

    def _cannot(self, why: str) -> ConfigError:
        return ConfigError(f"model {self.name!r} {why}")


class GradientRecommender(Recommender):
    """A model that is trained by gradients of the losses of batches.

    Attributes
    ----------
    streams
        Names of the random streams that training draws from. ``batches`` is there in any case.
    """

    streams: ClassVar[tuple[str, ...]] = ()

    def prepare(self) -> None:
        """Compute what is not learned, before the first step."""
        return

    @abstractmethod
    def passes(self, training: TrainingSettings, random: Mapping[str, torch.Generator]) -> Sequence[Pass]:
        """The passes of an epoch, in order.

        Parameters
        ----------
        training
            Batch size and the like.
        random
            A generator for each of :attr:`streams` and for ``batches``, on the model's device.
        """

    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """What the places along the axes of parameters stand for, by the parameter's name, for training that goes on.

        Where a data set has grown, the rows of known nodes and relations are taken from the earlier model. An axis is
        ``"user"``, ``"item"`` or ``"entity"``, a sequence of labels such as edge types, or None where its places stay.
        Axes at the end and parameters that are not named have the same shape in both models.
        """
        return {name: (name,) for name in NODE_TYPES if isinstance(getattr(self, name, None), nn.Parameter)}

    def begin_epoch(self, number: int) -> None:
        """Update what changes once an epoch, before epoch ``number``, counted from 1."""
        return

    def optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """By name, for :attr:`Pass.optimizer`; Adam over all parameters by default."""
        return {"all": adam(self.parameters(), lr, self.device)}

    def learned_scorer(self, scorer: Scorer) -> Scorer | None:
        """The score without what :meth:`prepare` computed, by which training goes on; None if that is all of it.

        ``scorer`` is what :meth:`scorer` has just made, from which it can be taken.
        """
        return None

    def remedies(self) -> str:
        """Settings that tame a loss that became NaN, beside the learning rate; for messages."""
        return ""


class ClosedFormRecommender(Recommender):
    """A model that is solved for in one go, once for each choice of settings; the best one is kept.

    Attributes
    ----------
    on_block
        Set by the trainer, which ends a solution that takes long by raising KeyboardInterrupt in it.
    """

    on_block: Callable[[], None] | None = None

    @abstractmethod
    def candidates(self) -> list[dict[str, float]]:
        """The choices to try, key -> value; at least one, empty where there is nothing to choose."""

    @abstractmethod
    def solve(self, chosen: Mapping[str, float]) -> None:
        """Become the model for one of the candidates.

        Raises
        ------
        NumericalError
            If there is no finite solution.
        """

    def between_blocks(self) -> None:
        """To be called by :meth:`solve` every second or so, and never within a long call of a library."""
        if self.on_block is not None:
            self.on_block()

    def remedies(self) -> str:
        """Settings that regularise a solution; for messages."""
        return ""


def numeric_type(run: RunSettings) -> torch.dtype:
    """The setting ``dtype`` as PyTorch's, float32 for a run without it."""
    return getattr(torch, run.dtype) if isinstance(run, NumericSettings) else torch.float32


def require_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int, ...] | torch.Size, torch.dtype]]
) -> None:
    """Raise ValueError if the tensors are not exactly those expected: name -> shape and dtype."""
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wanted = {name: (tuple(shape), dtype) for name, (shape, dtype) in expected.items()}
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors are missing, too many, or of another shape or type, such as {wrong[0]!r}"
        )


def copy_with_new_items(
    old: Recommender,
    new: Recommender,
    *,
    items: Sequence[str] = (),
    entities: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Give a model on a graph with further items what a trained one has; the new items get parameters of zero.

    Parameters
    ----------
    old, new
        The trained model, and the one that takes its tensors.
    items, entities
        Names of tensors with a row an item, and with a row an entity, whose first rows are the items'.
    without
        Names of tensors that are left as they are.
    """
    n_items, more = old.graph.n_items, new.graph.n_items - old.graph.n_items
    mine = {**dict(new.named_parameters()), **dict(new.named_buffers())}
    with torch.no_grad():
        for name, value in old.state_dict().items():
            if name in entities:
                between = value.new_zeros(more, value.shape[1])
                mine[name].copy_(torch.cat([value[:n_items], between, value[n_items:]]))
            elif name in items:  # which may be wider now, as ranks are at most the number of items
                mine[name].zero_()
                mine[name][: len(value), : value.shape[1]] = value
            elif name not in without:
                mine[name].copy_(value)


def model_with_new_items(
    old: AnyRecommender,
    graph: HeteroGraph,
    *,
    items: Sequence[str] = (),
    entities: Sequence[str] = (),
    without: Sequence[str] = (),
) -> AnyRecommender:
    """A trained model on a graph with further items, whose parameters are zero; it is not in training.

    Parameters are those of :func:`copy_with_new_items`, and the graph of :meth:`Recommender.with_new_items`.
    """
    model = type(old)(graph, old.settings, old.loss, old.run)
    copy_with_new_items(old, model, items=items, entities=entities, without=without)
    return model.eval()


def interaction_batches(
    graph: HeteroGraph, training: TrainingSettings, random: Mapping[str, torch.Generator]
) -> EpochBatches:
    """Batches of (user, item) of all interactions of the graph, in a new order each epoch."""
    return EpochBatches(
        graph.pairs(), training.batch_size, random["batches"],
        positives_per_user=training.positives_per_user, device=graph.device,
    )  # fmt: skip
