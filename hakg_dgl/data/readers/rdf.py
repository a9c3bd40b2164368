"""Facts as N-Triples or Turtle, by the parser of Oxigraph (extra ``rdf``), which reads text and nothing else.

IRIs are ids. Blank nodes are entities, numbered in order of appearance, since their labels mean nothing outside their
file. Literals are no entities: those of :data:`LABELS` are names, all others are left out and counted.
Nothing is fetched, and neither format has entities that could expand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.data.readers.archives import read_file
from hakg_dgl.data.readers.table_form import Reading
from hakg_dgl.data.readers.text import counted, decoded, normalised, recoded, refuse_empty, shown
from hakg_dgl.errors import DataError, MissingDependencyError

SUFFIXES = (".nt", ".ntriples", ".ttl", ".turtle")

LABELS = (
    "http://www.w3.org/2000/01/rdf-schema#label",
    "http://www.w3.org/2004/02/skos/core#prefLabel",
    "http://schema.org/name",
    "https://schema.org/name",
    "http://xmlns.com/foaf/0.1/name",
    "http://purl.org/dc/terms/title",
    "http://purl.org/dc/elements/1.1/title",
)
"""Properties whose literals are names, the best first."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Triples (``head``, ``relation``, ``tail``) and, where they are known, names of entities and relations."""

    triples: pd.DataFrame
    entities: pd.DataFrame | None = None
    relations: pd.DataFrame | None = None

    @classmethod
    def empty(cls) -> Graph:
        """No triples."""
        return cls(pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object))


def joined(graphs: Sequence[Graph]) -> Graph:
    """All graphs in one; the first name of an entity or relation is kept."""

    def names(tables: list[pd.DataFrame | None]) -> pd.DataFrame | None:
        known = [table for table in tables if table is not None]
        return pd.concat(known).drop_duplicates("id").reset_index(drop=True) if known else None

    triples = pd.concat([graph.triples for graph in graphs], ignore_index=True)
    return Graph(triples, names([graph.entities for graph in graphs]), names([graph.relations for graph in graphs]))


def is_rdf(path: Path) -> bool:
    """Whether a file's name says that it holds N-Triples or Turtle."""
    return any(suffix.lower() in SUFFIXES for suffix in path.suffixes)


OTHER_FORMATS = {
    ".rdf": "RDF/XML", ".owl": "OWL", ".nq": "N-Quads", ".trig": "TriG", ".jsonld": "JSON-LD", ".n3": "Notation3",
    ".hdt": "HDT",
}  # fmt: skip
"""Suffixes of other formats of facts, which are not read."""


def refuse_other_formats(path: Path) -> None:
    """Raise DataError for a file of facts in a format that is not read."""
    found = next((kind for end, kind in OTHER_FORMATS.items() if end in map(str.lower, path.suffixes)), None)
    if found is not None:
        remedy = "Convert it to N-Triples (.nt) or Turtle (.ttl), for example by 'riot --output=nt' of Apache Jena."
        raise DataError(f"facts as {found} are not read", path=path, remedy=remedy)


def read_rdf(path: str | Path, reading: Reading, number: int = 0) -> Graph:
    """Read a file of N-Triples or Turtle, packed or not.

    Of several names of an entity the best counts: first by property in the order of :data:`LABELS`, then by language
    (none, English, others), then by place in the file. Counted in the report: ``literal_triples_left_out``,
    ``nested_triples_left_out`` (triples about triples).

    Parameters
    ----------
    path
        The file; its name tells the format.
    reading
        Gets digest and counts.
    number
        Of this file among several, so that their blank nodes stay apart.

    Raises
    ------
    DataError
        If the file cannot be read, or its syntax is wrong, with the line.
    MissingDependencyError
        If the parser is not installed.
    """
    path = Path(path)
    try:
        import pyoxigraph as ox
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: N-Triples and Turtle need the parser pyoxigraph, which cannot be imported ({error}): "
            "pip install 'hakg_dgl[rdf]'"
        ) from error
    on_disk, data = read_file(path)
    reading.digests[path.name] = on_disk
    encoding = reading.form("triples").encoding
    data = data if encoding is None else recoded(path, data, encoding)
    refuse_empty(path, data)
    decoded(path, data)
    turtle = any(suffix.lower() in (".ttl", ".turtle") for suffix in path.suffixes)
    kind = ox.RdfFormat.TURTLE if turtle else ox.RdfFormat.N_TRIPLES
    found = _Found(ox, number)
    try:
        for triple in ox.parse(input=normalised(data), format=kind):
            found.add(triple)
    except SyntaxError as error:
        problem = f"not {'Turtle' if turtle else 'N-Triples'}: {_short(str(error.msg))}"
        remedy = "Correct this line, or name the file by its format: .nt, .ttl, .csv, .tsv."
        raise DataError(problem, path=path, line=error.lineno, remedy=remedy) from error
    report = reading.report
    for key, count in (("literal_triples_left_out", found.literals), ("nested_triples_left_out", found.nested)):
        report[key] = report.get(key, 0) + count
    return found.graph(path)


class _Found:
    """Gathers triples and names."""

    def __init__(self, ox: Any, number: int) -> None:
        self._ox, self._prefix = ox, f"_:{number}-" if number else "_:"
        self._blank: dict[str, str] = {}
        self._labels: dict[str, tuple[int, int, str]] = {}
        self._rows: list[tuple[str, str, str]] = []
        self.literals = self.nested = 0

    def add(self, triple: Any) -> None:
        """Take a triple, a name, or count what is neither."""
        head, relation, tail = triple.subject, triple.predicate.value, triple.object
        if isinstance(head, self._ox.Triple) or isinstance(tail, self._ox.Triple):
            self.nested += 1
        elif not isinstance(tail, self._ox.Literal):
            self._rows.append((self._id(head), relation, self._id(tail)))
        elif relation in LABELS and tail.value.strip():
            language = (tail.language or "").lower()
            place = 0 if not language else 1 if language.split("-")[0] == "en" else 2
            label = (LABELS.index(relation), place, " ".join(tail.value.split()))
            entity = self._id(head)
            if entity not in self._labels or label[:2] < self._labels[entity][:2]:
                self._labels[entity] = label
        else:
            self.literals += 1

    def _id(self, term: Any) -> str:
        if isinstance(term, self._ox.BlankNode):
            return self._blank.setdefault(term.value, f"{self._prefix}b{len(self._blank)}")
        return str(term.value)

    def graph(self, path: Path) -> Graph:
        """What was found."""
        if not self._rows:
            what = f"no fact between entities ({counted(self.literals, 'literal')})"
            raise DataError(what, path=path, remedy="Facts lead to IRIs or blank nodes; literals are left out.")
        triples = pd.DataFrame(self._rows, columns=["head", "relation", "tail"], dtype=object)
        entities = pd.DataFrame(
            {"id": list(self._labels), "name": [name for _, _, name in self._labels.values()]}, dtype=object
        )
        relations = triples["relation"].drop_duplicates()
        names = [self._labels[iri][2] if iri in self._labels else _local(iri) for iri in relations]
        return Graph(triples, entities, pd.DataFrame({"id": relations.to_numpy(), "name": names}, dtype=object))


def _local(iri: str) -> str:
    """The last part of an IRI, which people read as its name."""
    return re.split(r"[#/:]", iri.rstrip("#/"))[-1] or iri


def _short(text: str) -> str:
    return shown(text)[1:-1] if len(text) <= 60 else text[:160]
