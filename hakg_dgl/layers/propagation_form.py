"""Recognises layers that a backend can run all at once."""

from __future__ import annotations

from hakg_dgl.graph.heterograph import INTERACTED_BY, INTERACTS, HeteroGraph
from hakg_dgl.kernels.propagation import Propagation
from hakg_dgl.layers.updates import Copy, RelationTransitive, Silent, Updates


def propagation_form(graph: HeteroGraph, updates: Updates) -> Propagation | None:
    """A layer as a :class:`~hakg_dgl.kernels.propagation.Propagation`; None where it is none.

    It is one if users receive copies from items, and items from users or nothing, and entities are joined by
    relation-transitive messages of one rule, each relation having the row of its number in one table. The factors of
    the copies are left to the caller.

    Parameters
    ----------
    graph
        What messages are passed on.
    updates
        An update function for each edge type.
    """
    to_items, to_users = updates[INTERACTS], updates[INTERACTED_BY]
    types = tuple(etype for etype in updates if etype not in (INTERACTS, INTERACTED_BY))
    relations = [update for etype in types if isinstance(update := updates[etype], RelationTransitive)]
    if not isinstance(to_users, Copy) or not relations or len(relations) < len(types):
        return None
    table, rule = relations[0].relations, relations[0].rule
    same = all(update.relations is table and update.rule == rule for update in relations)
    in_order = [update.number for update in relations] == list(range(len(table)))
    between_entities = all((source, destination) == ("entity", "entity") for source, _, destination in types)
    copies = [update for update in (to_users, to_items) if isinstance(update, Copy)]
    summed = all(copy.reduce == "sum" and copy.factor == to_users.factor for copy in copies)
    if not (same and in_order and between_entities and summed and isinstance(to_items, Copy | Silent)):
        return None
    received = to_items if isinstance(to_items, Copy) else Copy()
    return Propagation(
        graph.joined((INTERACTED_BY,)).pattern.pairs,
        graph.joined(types, one_table=True).pattern,
        rule,
        user_sent=received.source_scale,
        item_sent=to_users.source_scale,
        user_scale=to_users.destination_scale,
        item_scale=received.destination_scale,
    )
