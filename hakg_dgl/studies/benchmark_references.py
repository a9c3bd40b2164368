"""The papers of the compared models, for BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hakg_dgl.models.registry import model_class

HAKG = r"""
@inproceedings{du2022hakg,
  author = {Yuntao Du and Xinjun Zhu and Lu Chen and Baihua Zheng and Yunjun Gao},
  title = {{HAKG: Hierarchy-Aware Knowledge Gated Network for Recommendation}},
  booktitle = {Proceedings of the 45th International ACM SIGIR Conference on Research and Development in Information
    Retrieval},
  year = {2022},
  doi = {10.1145/3477495.3531987},
  eprint = {2204.04959},
  archivePrefix = {arXiv}
}
"""
"""The paper that the package is of."""


def citation(name: str) -> str:
    """The BibTeX entry or entries of a model's paper, empty for a model without one or one that cannot be used.

    ``name`` may have a loss behind it, as a benchmark's contenders do: ``kgin:bpr``.
    """
    name = name.partition(":")[0]
    if name == "hakg":
        return HAKG.strip()
    try:
        return model_class(name).citation.strip()
    except Exception:  # what a model of another package raises is its own affair
        return ""


def keys(name: str) -> list[str]:
    r"""What ``\cite`` calls the papers of a model."""
    return re.findall(r"^\s*@\w+\s*\{\s*([^\s,{}]+)\s*,", citation(name), re.MULTILINE)


def references(names: Iterable[str]) -> str:
    """A file for BibTeX: the paper of HAKG, which the package implements, and those of the models, each once."""
    entries = dict.fromkeys([HAKG.strip(), *filter(None, map(citation, names))])
    return "\n\n".join(entries) + "\n"
