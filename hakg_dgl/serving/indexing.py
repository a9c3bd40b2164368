"""Whether a run is served from an index of its items."""

from __future__ import annotations

import logging

from hakg_dgl.ranking.index import ItemIndex, VectorScorer, faiss_is_there
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.serving.bounds import Indexed

log: logging.Logger = logging.getLogger(__name__)

MANY_ITEMS = 1_000_000
"""More items than this are ranked by an index, unless something else is asked for."""


def index_of(scorer: Scorer, wanted: Indexed) -> ItemIndex | None:
    """An index of a scorer's items, None where they are ranked exactly.

    Parameters
    ----------
    scorer
        Of the served model.
    wanted
        ``always``, ``never``, or ``auto``: beyond :data:`MANY_ITEMS`, where FAISS is installed and the scores are inner
        products.

    Raises
    ------
    MissingDependencyError, ConfigError
        If an index is wanted always, and FAISS is not installed or the scores are no inner products.
    """
    if wanted == "never" or (wanted == "auto" and scorer.n_items <= MANY_ITEMS):
        return None
    if wanted == "auto" and not (isinstance(scorer, VectorScorer) and faiss_is_there()):
        log.warning("%s items are ranked exactly: there is no FAISS or there are no vectors", f"{scorer.n_items:,}")
        return None
    return ItemIndex(scorer)  # type: ignore[arg-type]
