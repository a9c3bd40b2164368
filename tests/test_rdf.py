"""Facts as N-Triples and Turtle."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl import preprocess, read_tables
from hakg_dgl.data.readers.rdf import read_rdf
from hakg_dgl.data.readers.table_form import Reading
from hakg_dgl.errors import DataError, MissingDependencyError

parser = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("pyoxigraph") is None, reason="python -m pip install -e '.[rdf]'"
)
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"


def triples(path: Path) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in read_rdf(path, Reading()).triples.to_numpy()]


local = st.text("abcäö0123456789-_", min_size=1, max_size=6)
iri = local.map("http://x.example/{}".format)


@parser
@settings(max_examples=40, deadline=None)
@given(
    facts=st.lists(st.tuples(iri, iri, iri), min_size=1, max_size=6),
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)
def test_n_triples_round_trip(tmp_path_factory: Any, facts: Any, text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f"<{head}> <{relation}> <{tail}> ." for head, relation, tail in facts]
    lines += ["# a comment", f'<{facts[0][0]}> <http://x.example/said> "{escaped}"@de .']
    path = tmp_path_factory.mktemp("n") / "kg.nt"
    path.write_text("\n".join(lines), encoding="utf-8")
    reading = Reading()
    assert [tuple(row) for row in read_rdf(path, reading).triples.to_numpy()] == facts
    assert reading.report["literal_triples_left_out"] == 1


@parser
def test_turtle_with_labels_blank_nodes_and_packing(tmp_path: Path) -> None:
    text = """@prefix s: <http://s.example/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
s:1 s:genre s:g ; rdfs:label "Der Film"@de , "The film"@en ; s:year 1999 ; s:crew [ s:by s:p ] .
s:2 s:genre s:g ; s:crew _:x . s:genre rdfs:label "Genre of" . _:x s:by s:q .
"""
    (tmp_path / "kg.ttl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "more.nt").write_text("<http://s.example/2> <http://s.example/genre> _:x .\n")
    (tmp_path / "log.csv").write_text("user,item\na,http://s.example/1\nb,http://s.example/2\n")
    raw = read_tables(tmp_path / "log.csv", [tmp_path / "kg.ttl.gz", tmp_path / "more.nt"])
    assert raw.report["literal_triples_left_out"] == 1
    blanks = {tail for tail in raw.triples["tail"] if tail.startswith("_:")}
    assert len(blanks) == 3  # those of two files stay apart
    again = read_tables(tmp_path / "log.csv", [tmp_path / "kg.ttl.gz", tmp_path / "more.nt"])
    assert again.triples.equals(raw.triples)
    data = preprocess(raw)
    assert data.items["name"].tolist() == ["The film", "http://s.example/2"]
    assert set(data.relations["name"]) == {"Genre of", "crew", "by"}


@parser
@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("kg.nt", "<http://a/1> <http://a/r> <http://a/2> .\n<http://a/1> <http://a/r> .\n", 2, "not N-Triples"),
        ("kg.ttl", "<http://a/1> a <http://a/2> .\nx:1 a x:2 .\n", 2, "not Turtle"),
        ("kg.ttl", "<1> <2> <3> .\n", 1, "not Turtle"),
        ("kg.nt", f'<http://a/1> <{LABEL}> "one" .\n', None, "no fact between entities"),
        ("kg.nt", "", None, "empty"),
        ("kg.ttl", "<http://a/1> <http://a/r> " + "[ <http://a/r> " * 30_000, None, "not Turtle"),
        ("kg.nt", '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>\n', 1, "not N-Triples"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, line: int | None, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        triples(tmp_path / name)
    assert line is None or caught.value.line == line


def test_a_missing_parser_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyoxigraph":
            raise ImportError("no such module")
        return real(name, *args, **kwargs)

    (tmp_path / "kg.nt").write_text("<http://a/1> <http://a/r> <http://a/2> .\n")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"hakg_dgl\[rdf\]"):
        triples(tmp_path / "kg.nt")


@pytest.mark.parametrize("name", ["kg.rdf", "kg.owl.gz", "kg.nq", "kg.jsonld", "kg.TRIG"])
def test_other_formats_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "log.csv").write_text("user,item\na,1\nb,2\n")
    (tmp_path / name).write_text("whatever\n")
    with pytest.raises(DataError, match=r"facts as .+ are not read\nConvert it to N-Triples"):
        read_tables(tmp_path / "log.csv", tmp_path / name)
