"""Options, settings and places that cannot be used: exit code 2, one message, nothing changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bad_input import SMALL, Message, contents, hakg, refuse, refuse_in_a_process, usage

pytestmark = pytest.mark.usefixtures("work")  # src, D and R in the working folder

PREPROCESS = ("preprocess", "src", "--out", "data")
TRAIN = ("train", "D", "--out", "R2", *SMALL)
FRACTION = "it is a fraction, at least 0 and below 1"
RELAX = "Relax this setting, or check the source."
ELSEWHERE = "Choose another place, or empty it yourself."


# --- hakg preprocess --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--valid 1.5", f"valid = 1.5 is not allowed; {FRACTION}"),
        ("--valid -0.1", f"valid = -0.1 is not allowed; {FRACTION}"),
        ("--valid nan", f"valid = nan is not allowed; {FRACTION}"),
        ("--test 1", f"test = 1.0 is not allowed; {FRACTION}"),
        ("--test inf", f"test = inf is not allowed; {FRACTION}"),
        ("--seed -1", "seed = -1 is not allowed; it is an integer of at least 0"),
        ("--min-item-interactions 0", "min_item_interactions = 0 is not allowed; it is an integer of at least 1"),
        ("--rating-threshold nan", "rating_threshold = nan is not allowed; it is a finite number"),
        (
            "--rating-threshold 3",
            "there are no ratings to apply a threshold to\nName the rating column, or drop it.",
        ),
        (
            "--split temporal",
            "a temporal split needs timestamps, and there are none\nName the timestamp column, or split at random.",
        ),
        (
            "--min-user-interactions 100",
            "min_user_interactions and min_item_interactions: nothing is left with 100 interactions a user and 1 an "
            f"item\n{RELAX}",
        ),
        ("--valid abc", usage("preprocess", "Invalid value for '--valid': 'abc' is not a valid float.")),
        (
            "--split fair",
            usage(
                "preprocess",
                "Invalid value for '--split': 'fair' is not one of 'random', 'temporal', 'temporal-global', "
                "'leave-one-out', 'cold-items', 'given'.",
            ),
        ),
        (
            "--format ampligraph",
            usage("preprocess", "Invalid value for '--format': 'ampligraph' is not one of 'kgat', 'kgcn', 'recbole'."),
        ),
        ("--links l.csv", usage("preprocess", "--links is an option for tables, and 'src' is a folder")),
    ],
)
def test_preprocess_options(options: str, message: str) -> None:
    refuse(message, *PREPROCESS, *options.split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "preprocess demo --split given",
            "the source has no split to keep\nChoose random, temporal, temporal-global, leave-one-out or cold-items.",
        ),
        (
            "preprocess tables --interactions i.csv --triples t.csv --rating-col stars --rating-threshold 6",
            f"rating_threshold: no interaction is rated 6 or more\n{RELAX}",
        ),
        (
            "preprocess tables --interactions i.csv --triples t.csv --drop-unlinked",
            f"drop_unlinked: no item of the interactions occurs in the knowledge graph\n{RELAX}",
        ),
        ("preprocess tables --triples i.csv", usage("preprocess", "SOURCE 'tables' needs --interactions")),
        ("preprocess tables", usage("preprocess", "SOURCE 'tables' needs --interactions")),
    ],
)
def test_filters_that_leave_nothing_and_sources_without_files(args: str, message: str) -> None:
    Path("i.csv").write_text("user,item,stars\nann,a,5\nbob,b,1\n")
    Path("t.csv").write_text("head,relation,tail\nQ1,genre,Q9\n")
    refuse(message, *args.split(), "--out", "data")


def test_shares_are_of_what_is_there_so_every_user_keeps_a_training_item() -> None:
    result = hakg(*PREPROCESS, "--split", "random", "--test", 0.6, "--valid", 0.6)
    assert result.exit_code == 0, result.output
    assert "60 interactions, 12 train, 12 valid, 36 test" in result.stdout  # a user: 3 of 5, 1 of 2, 1


def test_out_is_required() -> None:
    refuse(usage("preprocess", "Missing option '--out'."), "preprocess", "src")
    refuse(usage("train", "Missing option '--out'."), "train", "D")


# --- where a data set may be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("src", f"src: holds other files, such as 'kg_final.txt'\n{ELSEWHERE}"),
        (".", f".: holds other files, such as 'D'\n{ELSEWHERE}"),
        ("R", f"R: holds other files, such as 'config.toml'\n{ELSEWHERE}"),
        ("link", f"link: is a link, which is not replaced\n{ELSEWHERE}"),
        ("dead", f"dead: is a link, which is not replaced\n{ELSEWHERE}"),
        ("half", f"half: exists and is not a data set\n{ELSEWHERE}"),
        ("src/train.txt", usage("preprocess", "Invalid value for '--out': Directory 'src/train.txt' is a file.")),
        (
            "src/train.txt/data",
            "src/train.txt/data: cannot be written: Not a directory\n"
            "Nothing was changed there. Free some space, change the permissions, or choose another place.",
        ),
        ("x" * 300, f"{'x' * 300}: File name too long"),
    ],
)
def test_places_that_are_not_free(out: str, message: str) -> None:
    Path("link").symlink_to("D")
    Path("dead").symlink_to("nowhere")
    Path("half").mkdir()
    Path("half/triples.parquet").write_bytes(b"precious")
    refuse(message, "preprocess", "src", "--out", out)


def test_a_place_is_refused_before_the_source_is_read() -> None:
    Path("src/train.txt").write_text("0 x\n")
    refuse(f"R: holds other files, such as 'config.toml'\n{ELSEWHERE}", "preprocess", "src", "--out", "R")


def test_a_data_set_may_lie_within_its_source_which_stays_as_it_is() -> None:
    before = contents(Path("src"))
    for _ in range(2):
        assert hakg("preprocess", "src", "--out", "src/data").exit_code == 0
        after = contents(Path("src"))
        assert {name: after[name] for name in before} == before
        assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"data"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("preprocess", "src", "--out", "closed/data"),
            "closed/data: cannot be written: Permission denied\n"
            "Nothing was changed there. Free some space, change the permissions, or choose another place.",
        ),
        (
            ("recommend", "R", "--out", "closed/lists.csv"),
            usage(
                "recommend",
                "Invalid value for '--out': 'closed/lists.csv' cannot be written: '{here}/closed' is not writable",
            ),
        ),
    ],
)  # fmt: skip
def test_a_place_without_permission(work: Path, closed: list[str], args: tuple[str, ...], message: str) -> None:
    refuse_in_a_process(message.replace("{here}", str(work)), *args, prefix=closed)


@pytest.fixture
def closed(work: Path) -> list[str]:
    """The folder ``closed``, that nobody may write to, and what to put before a command that may not either."""
    folder = work / "closed"
    folder.mkdir(mode=0o500)
    prefix: list[str] = []
    for prefix in ([], ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]):
        if not prefix or shutil.which(prefix[0]):
            done = subprocess.run([*prefix, "mkdir", str(folder / "try")], capture_output=True, check=False)
            if done.returncode:
                return prefix
            (folder / "try").rmdir()
    pytest.skip("root writes everywhere here, whatever the permissions")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("margn=1", "there is no setting 'margn'; did you mean 'margin'?"),
        ("loss.dim=3", "there is no setting 'loss.dim'; did you mean 'dim'?"),
        (
            "zzz=1",
            re.compile(
                "there is no setting 'zzz' of model 'hakg'; the settings it reads are kind, formulation, [a-z0-9_, ]+"
            ),
        ),
        ("margin", "--set 'margin': write it as key=value, for example lr=0.001"),
        ("=1", "--set '=1': write it as key=value, for example lr=0.001"),
        ("dim=1\nlr=2", r"--set 'dim=1\nlr=2': give one setting in each --set"),
        ("dim=[1", re.compile(r"--set 'dim=\[1': \[1 is not valid TOML: .+")),
        ("margin=abc", "margin = 'abc': must be a number"),
        ("margin=", "margin = '': must be a number"),
        ("margin=5", "margin = 5.0 is not allowed: it must be in [-1, 1]"),
        ("lr=nan", "lr = nan: must be a number"),
        ("lr=inf", "lr = inf is not allowed: it must be in [1e-08, 100]"),
        ("lr=1e-400", "lr = 0.0 is not allowed: it must be in [1e-08, 100]"),
        ("dim=4.5", "dim = 4.5: must be a whole number"),
        ("dim=0", "dim = 0 is not allowed: it must be in [1, 4096]"),
        (f"dim={10**30}", f"dim = {10**30} is not allowed: it must be in [1, 4096]"),
        (f"dim={'9' * 5000}", re.compile("dim = '9{5000}': must be a whole number")),
        ("gate=1", "gate = 1: must be true or false"),
        ("formulation=other", "formulation = 'other' is not allowed: it must be one of 'released', 'paper'"),
        (
            "select_by=ndcg@0",
            "select_by = 'ndcg@0' is not allowed: it must be a metric (recall, ndcg, precision, hit, mrr, map) and a "
            "cut below a million, such as 'ndcg@20' or "
            "'recall@10'",
        ),
        (f"select_by=ndcg@{10**30}", re.compile("select_by = 'ndcg@10{30}' is not allowed: .+")),
        (
            'hierarchical_relations=["genre"]',
            "hierarchical_relations names 'genre', which the data set lacks; it has 'relation_0', 'relation_1'",
        ),
    ],
)
def test_settings(assignment: str, message: Message) -> None:
    refuse(message, *TRAIN, "--set", assignment)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "epochs = 0 is not allowed: it must be in [1, 1e+07]"),
        ("--seed -1", "seed = -1 is not allowed: it must be in [0, 9.22337e+18]"),
        ("--epochs x", usage("train", "Invalid value for '--epochs': 'x' is not a valid integer.")),
        (
            "--preset nope",
            "there is no preset 'nope' of model 'hakg'; its presets are default, fast, released, paper, "
            "alibaba-ifashion, yelp2018, last-fm",
        ),
        ("--device tpu", usage("train", "Invalid value for '--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'.")),
        (
            "--protocol fair",
            usage("train", "Invalid value for '--protocol': 'fair' is not one of 'validation', 'published'."),
        ),
        (
            "--resume --overwrite",
            usage("train", "--resume continues the run in OUT, --overwrite starts anew: give one of them"),
        ),
    ],
)
def test_train_options(options: str, message: str) -> None:
    refuse(message, *TRAIN, *options.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr = ", "is not valid TOML: .+"),
        (b"\xff\xfe", "is not valid TOML: .+"),
        (b"lr = 1\nlr = 2", "is not valid TOML: .+"),
        (b"lr = " + b"9" * 5000, "is not valid TOML: .+"),
        (b"lr = " + b"[" * 5000, "is not valid TOML: .+"),
        (b"lr = 'x'", "lr = 'x': must be a number"),
        (b"[training]\ndim = 4", "there is no setting 'training.dim'; did you mean 'dim'?"),
        (b"[trainig]\nlr = 1", "there is no section 'trainig'; the sections are model, loss, training, run"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_settings_files(content: bytes | None, message: str) -> None:
    if content is not None:
        Path("c.toml").write_bytes(content)
    pattern = message if message.endswith(".+") else re.escape(message)
    refuse(re.compile(f"c.toml: {pattern}"), *TRAIN, "--config", "c.toml")


def test_a_folder_is_no_settings_file() -> None:
    refuse("src: cannot be read: Is a directory", *TRAIN, "--config", "src")


@pytest.mark.parametrize("args", [TRAIN, ("evaluate", "R"), ("recommend", "R", "--user", "0")])
def test_cuda_without_cuda(args: tuple[str, ...]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    refuse(
        f"device = 'cuda', but this PyTorch ({torch.__version__}) finds no CUDA device; use --device cpu, or install a "
        "CUDA build of PyTorch (docs/install.md)",
        *(*args, "--device", "cuda"),
    )


# --- where a run may be written ---------------------------------------------------------------------------------------

OTHER = "holds something else than a run; choose another folder, or empty it yourself"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "train D --out R",
            "R: holds a run already\nAdd --resume to continue it, --overwrite to train anew, or choose another folder.",
        ),
        ("train D --out src", f"src: {OTHER}"),
        ("train D --out src --overwrite", f"src: {OTHER}"),
        ("train D --out D", f"D: {OTHER}"),
        ("train D --out R2 --resume", "R2: there is no run to resume; train without --resume"),
        ("train D --out src --resume", "src: there is no run to resume; train without --resume"),
        (
            "train D --out R --resume --set dim=8",
            "R: the run has other settings: dim (was 4, now 8); resume with its own, or train in another folder",
        ),
        (
            "train D --out src/train.txt",
            usage("train", "Invalid value for '--out': Directory 'src/train.txt' is a file."),
        ),
        (
            "train nowhere --out R2",
            "nowhere: no such folder\nMake a data set with 'hakg preprocess SOURCE --out DATA'.",
        ),
        (
            "train src --out R2",
            "src: not a data set: it holds no dataset.json\nMake a data set with 'hakg preprocess SOURCE --out DATA'.",
        ),
        (
            "train src/train.txt --out R2",
            "src/train.txt: a file, not the folder of a data set\n"
            "Make a data set with 'hakg preprocess SOURCE --out DATA'.",
        ),
    ],
)
def test_places_of_runs_and_data_sets(args: str, message: str) -> None:
    refuse(message, *args.split())


@pytest.mark.parametrize(
    ("options", "protocol", "split"),
    [("--valid 0 --test 0.2", "validation", "valid"), ("--valid 0.2 --test 0", "published", "test")],
)
def test_a_data_set_without_the_split_that_selects(options: str, protocol: str, split: str) -> None:
    assert hakg(*PREPROCESS, "--split", "random", *options.split()).exit_code == 0
    refuse(
        f"data set 'src' has no {split} interactions, which protocol '{protocol}' needs; preprocess again with a "
        f"larger --{split}",
        *("train", "data", "--out", "R2", "--protocol", protocol, *SMALL),
    )
