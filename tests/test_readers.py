from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.readers.detect import detect_format
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.recbole import read_recbole
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.errors import DataError

SHARED = Path(os.environ.get("HAKG_SHARED_DIR", Path(__file__).resolve().parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")

TRAIN, TEST, KG = b"0 1 2\n1 0\n", b"0 0\n1 3\n", b"0 0 4\n1 1 5\n"


def kgat(folder: Path, train: bytes = TRAIN, test: bytes = TEST, kg: bytes = KG, **lists: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    files = {"train.txt": train, "test.txt": test, "kg_final.txt": kg}
    files |= {f"{name}_list.txt": text for name, text in lists.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def pairs(raw: RawData, split: str) -> set[tuple[int, int]]:
    rows = raw.interactions[raw.interactions["split"] == split]
    return set(zip(rows["user"].tolist(), rows["item"].tolist(), strict=True))


# --- KGAT: what is read -----------------------------------------------------------------------------------------------

ids = st.integers(0, 60)
blank = st.text(" \t", max_size=2)
line_end = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def pair_file(draw: st.DrawFn) -> tuple[str, list[tuple[int, list[int]]]]:
    """Text of a file, with stray blanks and blank lines, and the lines in it."""
    lines = draw(st.lists(st.tuples(ids, st.lists(ids, max_size=6)), min_size=1, max_size=8))
    lines = [*lines, (draw(ids), [draw(ids)])]  # at least one item
    text = ""
    for user, items in lines:
        gap = draw(st.sampled_from([" ", "\t", "  "]))
        text += draw(blank) + gap.join(map(str, [user, *items])) + draw(blank) + draw(line_end)
        text += draw(st.sampled_from(["", "", "\n", " \r\n"]))
    return text.rstrip("\r\n") if draw(st.booleans()) else text, lines


@settings(max_examples=60, deadline=None)
@given(
    train=pair_file(), test=pair_file(), kg=st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=10), end=line_end
)
def test_kgat_round_trip(tmp_path_factory, train, test, kg, end):
    folder = tmp_path_factory.mktemp("kgat")
    kg_text = end.join(" ".join(map(str, triple)) for triple in kg) + end
    raw = read_kgat(kgat(folder, train[0].encode(), test[0].encode(), kg_text.encode()))

    in_train = [(user, item) for user, items in train[1] for item in items]
    in_test = [(user, item) for user, items in test[1] for item in items]
    assert pairs(raw, "train") == set(in_train)
    assert pairs(raw, "test") == set(in_test) - set(in_train)
    assert list(raw.triples.itertuples(index=False, name=None)) == list(dict.fromkeys(kg))
    report = raw.report
    assert report["train_repeats_dropped"] == len(in_train) - len(set(in_train))
    assert report["test_repeats_dropped"] == len(in_test) - len(set(in_test))
    assert report["train_test_overlap_dropped_from_test"] == len(set(in_test) & set(in_train))
    assert report["triple_repeats_dropped"] == len(kg) - len(set(kg))
    assert report["train_lines_with_user_alone"] == sum(not items for _, items in train[1])
    assert report["test_items_without_training_users"] == len({i for _, i in in_test} - {i for _, i in in_train})
    assert raw.counts["users"] == 1 + max(user for _, lines in (train, test) for user, _ in lines)


def test_kgat_validation_file_is_the_validation_split(tmp_path):
    """A pair of several files stays in the first of train, valid and test; a user may be in this file alone."""
    folder = kgat(tmp_path / "a", train=b"0 1 2\n1 0\n", test=b"0 0 3\n1 3\n", kg=KG)
    (folder / "valid.txt").write_bytes(b"0 2 3 3\n1 2\n4\n")
    raw = read_kgat(folder)
    assert pairs(raw, "train") == {(0, 1), (0, 2), (1, 0)}
    assert pairs(raw, "valid") == {(0, 3), (1, 2)}
    assert pairs(raw, "test") == {(0, 0), (1, 3)}
    assert raw.counts["users"] == 5
    counted = {
        "valid_repeats_dropped": 1,
        "valid_lines_with_user_alone": 1,
        "train_valid_overlap_dropped_from_valid": 1,
        "valid_test_overlap_dropped_from_test": 1,
    }
    assert {key: raw.report[key] for key in counted} == counted
    data = preprocess(raw)
    assert {tuple(pair) for pair in data.pairs("valid").tolist()} == {(0, 3), (1, 2)}


def test_kgat_validation_file_that_repeats_train_leaves_nothing(tmp_path):
    folder = kgat(tmp_path / "a")
    (folder / "valid.txt").write_bytes(TRAIN)
    raw = read_kgat(folder)
    assert pairs(raw, "valid") == set()
    assert pairs(raw, "test") == pairs(read_kgat(kgat(tmp_path / "b")), "test")


def test_kgat_digests_and_byte_order_mark(tmp_path):
    raw = read_kgat(kgat(tmp_path / "tiny", train=b"\xef\xbb\xbf" + TRAIN))
    assert raw.name == "tiny"
    assert pairs(raw, "train") == {(0, 1), (0, 2), (1, 0)}
    assert raw.sources["kg_final.txt"] == {"sha256": hashlib.sha256(KG).hexdigest(), "bytes": len(KG)}


def test_kgat_lists_names_with_spaces_and_glued_columns(tmp_path):
    raw = read_kgat(
        kgat(
            tmp_path / "d",
            entity=b"org_id remap_id\nAccepts Cards 66 4\r\nnew\xc3\xa9 5\nno number here\n",
            item=b"org_id remap_id freebase_id\nB01 0 m.01\n4nn 14nn\nRoute 66 x 2\nB04 3 m.04\n",
            relation=b"org_id remap_id\nfilm.genre 0\n",
        )
    )
    names = raw.entities.set_index("id")["name"]
    assert names[4] == "Accepts Cards 66"
    assert names[5] == "newé"
    assert names[0] == "m.01"
    items = raw.items.set_index("id")["original_id"]
    assert items.to_dict() == {0: "B01", 1: "4nn", 2: "Route 66 x", 3: "B04"}
    assert raw.report["item_list_glued_lines_repaired"] == 1
    assert raw.report["entity_list_lines_skipped"] == 1
    assert raw.relations["name"].tolist() == ["film.genre"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"id name\n1 a\n", "unknown header"), (b"org_id remap_id\nx\ny\nz 1\n", "2 of 3 lines"), (b"\xff", "UTF-8")],
)
def test_kgat_bad_list(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_kgat(kgat(tmp_path / "d", user=content))


# --- KGAT: what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "line", "message"),
    [
        ("train.txt", b"", None, "empty"),
        ("train.txt", b" \n\r\n", None, "empty"),
        ("train.txt", b"0\n1\n", None, "user alone"),
        ("train.txt", b"0 1\n\n1 x2\n", 3, "'x2' is not an integer"),
        ("train.txt", b"0 1\r\n1 -2\r\n", 2, "negative id '-2'"),
        ("train.txt", b"0,1,2\n", 1, "(?s)'0,1,2' is not an integer.*spaces"),
        ("train.txt", b"0 1.5\n", 1, "'1.5' is not an integer"),
        ("train.txt", b"0 1\n0 2147483648\n", 2, "'2147483648' is not below"),
        ("train.txt", b"0 1\n0 99999999999999999999999\n", 2, "is not below"),
        ("test.txt", b"0 1\n1 \xff2\n", 2, "not UTF-8"),
        ("test.txt", "0 ١\n".encode(), 1, "not an integer"),
        ("kg_final.txt", b"0 0 1\n\n0 1\n", 3, "2 numbers instead of three: '0 1'"),
        ("kg_final.txt", b"0 0 1 4\n", 1, "4 numbers"),
        ("kg_final.txt", b"0 0 5000\n", None, "largest entity id is 5000"),
        ("kg_final.txt", b"0 5000 1\n", None, "largest relation id is 5000"),
        ("train.txt", b"2000000000 1\n", None, "largest user id is 2000000000"),
    ],
)
def test_kgat_errors_name_file_and_line(tmp_path, file, content, line, message):
    folder = kgat(tmp_path / "d")
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_kgat(folder)
    assert caught.value.line == line
    assert Path(caught.value.path).name == (file if "largest" not in message else "d")
    assert caught.value.remedy or message == "empty"


def test_kgat_missing_file_and_folder(tmp_path):
    folder = kgat(tmp_path / "d")
    (folder / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no test\.txt"):
        read_kgat(folder)
    with pytest.raises(DataError, match="no such folder"):
        read_kgat(tmp_path / "nowhere")


def zipped(members: dict[str, bytes], link: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def compressed(tmp_path: Path, name: str, data: bytes) -> Path:
    folder = kgat(tmp_path / "d")
    (folder / "kg_final.txt").unlink()
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("kg_final.txt.zip", zipped({"kg_final.txt": KG, "__MACOSX/._kg_final.txt": b"x"})),
        ("kg_final.txt.gz", gzip.compress(KG, mtime=0)),
    ],
)
def test_kgat_compressed(tmp_path, name, data):
    raw = read_kgat(compressed(tmp_path, name, data))
    assert len(raw.triples) == 2
    assert raw.sources[name]["bytes"] == len(data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("kg_final.txt.zip", zipped({"a": KG, "b": KG}), "2 files"),
        ("kg_final.txt.zip", zipped({"../kg_final.txt": KG}), "outside the archive"),
        ("kg_final.txt.zip", zipped({"/kg_final.txt": KG}), "outside the archive"),
        ("kg_final.txt.zip", zipped({"kg_final.txt": b"/etc/passwd"}, link=True), "is a link"),
        ("kg_final.txt.zip", zipped({"kg_final.txt": KG})[:-30], "damaged"),
        ("kg_final.txt.zip", b"nonsense", "damaged"),
        ("kg_final.txt.gz", gzip.compress(KG * 99, mtime=0)[:-20], "damaged"),
        ("kg_final.txt.gz", KG, "damaged"),
    ],
)
def test_kgat_bad_archives(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        read_kgat(compressed(tmp_path, name, data))


def test_archive_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hakg_dgl.data.readers.archives.EXPANSION_FLOOR", 1000)
    with pytest.raises(DataError, match="expands to more"):
        read_kgat(compressed(tmp_path, "kg_final.txt.gz", gzip.compress(b"0 0 1\n" * 200_000, mtime=0)))


def test_detect_format(tmp_path):
    assert detect_format(kgat(tmp_path / "d")) == "kgat"
    (tmp_path / "d" / "x.inter").write_text("")
    with pytest.raises(DataError, match="both"):
        detect_format(tmp_path / "d")
    with pytest.raises(DataError, match="no known layout"):
        detect_format(tmp_path)


# --- RecBole ----------------------------------------------------------------------------------------------------------

INTER = "user_id:token\titem_id:token\trating:float\n1\ta\t3\n2\t\t4\n2\tb\t5\n"
ATOMIC = {
    "inter": INTER,
    "kg": "head_id:token\trelation_id:token\ttail_id:token\nm1\tr\tm2\nm1\tr\tm2\nm2\ts\tm9\n",
    "link": "item_id:token\tentity_id:token\na\tm1\na\tm7\nb\tm1\nc\tm3\n",
    "item": 'item_id:token\tmovie_title:token_seq\tyear:float\na\t"Cats" & Dogs\t1\nb\t\t2\n',
}


def atomic(folder: Path, **changed: str | bytes) -> Path:
    folder.mkdir()
    for end, text in {**ATOMIC, **changed}.items():
        (folder / f"toy.{end}").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_recbole(tmp_path):
    raw = read_recbole(atomic(tmp_path / "d"))
    assert raw.name == "toy"
    assert raw.interactions.to_dict("list") == {"user": ["1", "2"], "item": ["a", "b"], "rating": [3.0, 5.0]}
    assert len(raw.triples) == 2
    assert raw.item_entity.to_dict("list") == {"item": ["a", "c"], "entity": ["m1", "m3"]}
    assert raw.items.to_dict("list") == {"id": ["a"], "name": ['"Cats" & Dogs']}
    expected = {
        "interactions_without_id_dropped": 1,
        "triple_repeats_dropped": 1,
        "links_of_an_item_linked_twice_dropped": 1,
        "links_to_an_entity_already_taken_dropped": 1,
        "items_without_title": 1,
    }
    assert expected.items() <= raw.report.items()


@pytest.mark.parametrize(
    ("end", "content", "line", "message"),
    [
        ("inter", INTER.replace("rating:float", "rating:number"), 1, "'rating:number' is not NAME:TYPE"),
        ("inter", INTER.replace("\t", ","), 1, "is not NAME:TYPE"),
        ("inter", INTER.replace("\n2\tb\t5", "\n\n2\tb\tnan"), 5, "rating is 'nan'"),
        ("inter", INTER.replace("\t5", "\t"), 4, "rating is missing"),
        ("inter", INTER.replace("\t5", "\tinf"), 4, "rating is 'inf'"),
        ("inter", INTER.replace("2\tb\t5", "2\tb"), 4, "2 values, but the header has 3 columns"),
        ("inter", INTER.replace("item_id", "thing"), 1, "no column 'item_id'; there are: 'user_id', 'thing'"),
        ("inter", INTER.partition("\n")[0] + "\n", None, "no row"),
        ("inter", "", None, "the file is empty"),
        ("kg", ATOMIC["kg"].encode() + b"\xe9t\xe9\tr\tm1\n", 5, "UTF-8"),
    ],
)
def test_recbole_errors(tmp_path, end, content, line, message):
    with pytest.raises(DataError, match=message) as caught:
        read_recbole(atomic(tmp_path / "d", **{end: content}))
    assert caught.value.line == line


def test_recbole_needs_all_files(tmp_path):
    folder = atomic(tmp_path / "d")
    (folder / "toy.link").unlink()
    with pytest.raises(DataError, match=r"no toy\.link"):
        read_recbole(folder)
    (folder / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match="several data sets"):
        read_recbole(folder)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table_files(tmp_path):
    (tmp_path / "kg.csv").write_text("head,relation,tail\na,genre,g\n")
    return tmp_path


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x.csv.gz", "x.parquet"])
def test_tables_in_every_form(table_files, name):
    frame = pd.DataFrame(
        {"who": [7, 8], "what": ["a, b", "c"], "stars": [1.0, 2.5], "when": ["2020-01-01", "2020-01-02"]}
    )
    path = table_files / name
    if name.endswith("parquet"):
        frame.assign(when=pd.to_datetime(frame["when"])).to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if name in ("x.tsv", "x.txt") else ",", index=False)
    raw = read_tables(
        path, table_files / "kg.csv", user_col="who", item_col="what", rating_col="stars", timestamp_col="when"
    )
    got = raw.interactions
    assert got["user"].tolist() == ["7", "8"]
    assert got["item"].tolist() == ["a, b", "c"]
    assert got["rating"].tolist() == [1.0, 2.5]
    np.testing.assert_allclose(got["timestamp"], [1577836800, 1577923200])
    assert raw.item_entity["entity"].tolist() == ["a, b", "c"]
    assert set(raw.sources) == {name, "kg.csv"}


def test_tables_float_ids_of_parquet_and_missing_ones(table_files):
    frame = pd.DataFrame({"user": [1.0, None, 3.0], "item": ["x", "y", " z "]})
    frame.to_parquet(table_files / "i.parquet")
    raw = read_tables(table_files / "i.parquet", table_files / "kg.csv")
    assert raw.interactions.to_dict("list") == {"user": ["1", "3"], "item": ["x", "z"]}
    assert raw.report["interactions_without_id_dropped"] == 1
    frame.assign(user=0.5).to_parquet(table_files / "i.parquet")
    with pytest.raises(DataError, match="not whole numbers"):
        read_tables(table_files / "i.parquet", table_files / "kg.csv")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("who;what\n1;2\n", 1, "no column 'user', and|no column 'user'; there are: 'who', 'what'"),
        ("user,item,r\n1,2,3\n\n1,3,\n", 4, "r is missing"),
        ('user,item,r\n"1\n",2,3\n1,3,bad\n', 4, "r is 'bad'"),
        ("user,item,r\n1,2,3\n1,2\n", 3, "2 values, but the header has 3 columns"),
        ("user,user,r\n1,2,3\n", 1, "2 columns are called"),
        ("user,item,r\n", None, "no row"),
        ("", None, "empty"),
    ],
)
def test_table_errors(table_files, text, line, message):
    (table_files / "i.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_tables(table_files / "i.csv", table_files / "kg.csv", rating_col="r")
    assert caught.value.line == line


def test_parquet_errors(table_files):
    path = table_files / "i.parquet"
    pd.DataFrame({"user": [1, 2], "item": [3, 4], "r": [1.0, np.nan]}).to_parquet(path)
    with pytest.raises(DataError, match=r"row 1 .*: r is missing"):
        read_tables(path, table_files / "kg.csv", rating_col="r")
    with pytest.raises(DataError, match="no column 'q'; there are: 'user', 'item', 'r'"):
        read_tables(path, table_files / "kg.csv", rating_col="q")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_tables(path, table_files / "kg.csv")


def test_tables_given_split_and_links(table_files):
    (table_files / "i.csv").write_text("user,item,part\n1,a,train\n1,b,test\n")
    (table_files / "l.csv").write_text("item,entity\na,m1\nb,m1\n")
    (table_files / "n.csv").write_text("item,name\na,Alpha\n")
    raw = read_tables(
        table_files / "i.csv",
        table_files / "kg.csv",
        table_files / "l.csv",
        split_col="part",
        item_names=table_files / "n.csv",
    )
    assert raw.interactions["split"].tolist() == ["train", "test"]
    assert raw.item_entity.to_dict("list") == {"item": ["a"], "entity": ["m1"]}
    assert raw.items["name"].tolist() == ["Alpha"]
    (table_files / "i.csv").write_text("user,item,part\n1,a,train\n1,b,dev\n")
    with pytest.raises(DataError, match="line 3: part is 'dev'"):
        read_tables(table_files / "i.csv", table_files / "kg.csv", split_col="part")


# --- the real data sets -----------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("name", "train", "test", "triples", "relations", "entities"),
    [("ml-100k", 78050, 19504, 91631, 24, 34628), ("music", 16794, 4202, 15518, 60, 9366)],
)
def test_real_kgat(name, train, test, triples, relations, entities):
    assert detect_format(SHARED / name) == "kgat"
    raw = read_kgat(SHARED / name)
    assert raw.interactions["split"].value_counts().to_dict() == {"train": train, "test": test, "valid": 0}
    assert len(raw.triples) == triples
    assert raw.triples["relation"].nunique() == relations
    assert raw.triples[["head", "tail"]].to_numpy().max() + 1 == entities


@needs_shared
def test_real_recbole():
    assert detect_format(SHARED / "ml-100k-recbole") == "recbole"
    raw = read_recbole(SHARED / "ml-100k-recbole")
    counts = raw.interactions["user"].nunique(), raw.interactions["item"].nunique(), len(raw.interactions)
    assert counts == (943, 1682, 100_000)
    assert len(raw.item_entity) == 1598
    assert len(raw.triples) == 91_631
    assert raw.items.set_index("id")["name"]["1"] == "Toy Story"


# --- Parquet columns of others ----------------------------------------------------------------------------------------


def parquet(path: Path, **columns: pa.Array) -> Path:
    size = len(next(iter(columns.values())))
    ids = {name: pa.array([f"{name}{row}" for row in range(size)]) for name in ("user", "item")}
    pq.write_table(pa.table(ids | columns), path)
    (path.parent / "f.csv").write_text("head,relation,tail\nitem0,r,x\n")
    return path


@pytest.mark.parametrize(
    ("kind", "ticks", "seconds"),
    [
        (pa.timestamp("ns"), 1_700_000_000_123_456_789, 1_700_000_000.123456),
        (pa.timestamp("ns", tz="Europe/Paris"), -1, -1e-6),  # dropped digits round down
        (pa.timestamp("us"), 1_700_000_000_123_456, 1_700_000_000.123456),
        (pa.timestamp("ms"), 2**62, 2**62 / 1e3),  # beyond what microseconds hold
        (pa.timestamp("s"), 2**50, 2.0**50),
        (pa.date32(), 19_675, 19_675 * 86_400.0),
        (pa.date64(), 86_400_000, 86_400.0),
    ],
)
def test_moments_of_every_unit_are_seconds(tmp_path, kind, ticks, seconds):
    whole = pa.int32() if kind == pa.date32() else pa.int64()
    file = parquet(tmp_path / "i.parquet", ts=pa.array([ticks, 0], whole).cast(kind))
    found = read_tables(file, tmp_path / "f.csv", timestamp_col="ts").interactions["timestamp"]
    assert found.tolist() == [seconds, 0.0]


def test_a_missing_moment_is_named(tmp_path):
    file = parquet(tmp_path / "i.parquet", ts=pa.array([5, None], pa.timestamp("ns")))
    with pytest.raises(DataError, match=r"row 1 \(from 0\): ts is missing"):
        read_tables(file, tmp_path / "f.csv", timestamp_col="ts")


@pytest.mark.parametrize(("kind", "digits"), [(pa.float64(), 53), (pa.float32(), 24), (pa.float16(), 11)])
def test_float_ids_whose_neighbours_are_the_same_float_are_refused(tmp_path, kind, digits):
    largest = 2**digits - 1
    good = pa.array(np.array([largest, 7], dtype=kind.to_pandas_dtype()), kind)
    file = parquet(tmp_path / "i.parquet", item=good)
    assert read_tables(file, tmp_path / "f.csv").interactions["item"].tolist() == [str(largest), "7"]
    bad = pa.array(np.array([-(largest + 1), 7], dtype=kind.to_pandas_dtype()), kind)
    with pytest.raises(DataError, match=rf"ids of column 'item' are floats beyond 2\*\*{digits}"):
        read_tables(parquet(tmp_path / "i.parquet", item=bad), tmp_path / "f.csv")


# --- facts and links of users -----------------------------------------------------------------------------------------


def shop(folder: Path, **files: str) -> dict[str, Path]:
    """Tables as people have them, one file a name."""
    base = {"interactions": "user,item\nann,a\nbob,b\n", "triples": "head,relation,tail\na,r,x\n"}
    for name, text in (base | files).items():
        (folder / f"{name}.csv").write_text(text)
    return {name: folder / f"{name}.csv" for name in base | files}


def test_pairs_of_users(tmp_path):
    raw = read_tables(**shop(tmp_path, user_links="user,friend\nann,bob\nann,\n 7 ,bob\n"))
    assert raw.user_links.to_dict("list") == {
        "user": ["ann", "7"], "relation": ["linked_to", "linked_to"], "other": ["bob", "bob"],
    }  # fmt: skip
    assert raw.report["user_links_without_id_dropped"] == 1
    assert "user_links.csv" in raw.sources
    assert raw.user_facts.empty


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("user,friend,relation", {}),
        ("user,friend,kind", {"link_relation_col": "kind"}),
        ("who,to,relation", {"link_user_col": "who", "friend_col": "to"}),
    ],
)
def test_a_relation_of_links_may_be_named(tmp_path, header, columns):
    files = shop(tmp_path, user_links=f"{header}\nann,bob,trusts\nbob,ann,\n")
    raw = read_tables(**files, **columns)
    assert raw.user_links.to_numpy().tolist() == [["ann", "trusts", "bob"]]
    assert raw.report["user_links_without_id_dropped"] == 1


def test_facts_of_users(tmp_path):
    files = shop(tmp_path, user_facts="user,relation,entity\nann,lives_in,x\nbob,,x\n")
    raw = read_tables(**files)
    assert raw.user_facts.to_numpy().tolist() == [["ann", "lives_in", "x"]]
    assert raw.report["user_facts_without_id_dropped"] == 1
    files = shop(tmp_path, user_facts="id,about,what\nann,lives_in,x\n")
    raw = read_tables(**files, fact_user_col="id", fact_relation_col="about", fact_entity_col="what")
    assert raw.user_facts.to_numpy().tolist() == [["ann", "lives_in", "x"]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"user_links": "user,pal\nann,bob\n"},
            r"user_links\.csv, line 1: no column 'friend'; .* 'pal'",
        ),
        ({"user_facts": "user,relation\nann,x\n"}, r"user_facts\.csv, line 1: no column 'entity'"),
        ({"user_links": "user,friend\n,bob\n"}, r"user_links\.csv: no row has all its ids"),
        ({"user_facts": "user,relation,entity\n"}, r"user_facts\.csv: there is no row"),
    ],
)
def test_refused_files_of_users(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_tables(**shop(tmp_path, **files))
