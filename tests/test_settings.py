import contextlib
import dataclasses
import math
import sys
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.errors import ConfigError, HakgError
from hakg_dgl.models.hakg import HAKG, HAKGLossSettings, HAKGSettings
from hakg_dgl.models.hakg.settings import HAKGTrainingSettings
from hakg_dgl.models.registry import model_class, model_names
from hakg_dgl.models.settings import Settings
from hakg_dgl.settings.run import RecordedRunSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALL = [name for name in model_names() if name in ("hakg", "popularity", "item-knn", "ease", "bpr-mf", "lightgcn")]
quick = settings(max_examples=50, deadline=None, derandomize=True)


def real(low: float, high: float, *, open_high: bool = False) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_max=open_high, allow_nan=False)


# Any names, so also such as need quoting and escaping in TOML.
relation_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
rates = real(0.0, 1.0, open_high=True)
valid_settings = st.builds(
    Settings,
    model=st.builds(
        HAKGSettings,
        formulation=st.sampled_from(["released", "paper"]),
        dim=st.integers(1, 4096),
        layers=st.integers(1, 16),
        geometry=st.sampled_from(["poincare", "euclidean"]),
        curvature=real(1e-4, 1e4),
        gate=st.booleans(),
        dual_item_embeddings=st.booleans(),
        score=st.sampled_from(["fused", "separate", "inner"]),
        kg_edge_dropout=rates,
        interaction_dropout=rates,
        message_dropout=rates,
        kernels=st.sampled_from(["auto", "torch", "dgl", "triton"]),
        precision=st.sampled_from(["float32", "bf16"]),
    ),
    loss=st.builds(
        HAKGLossSettings,
        negatives=st.integers(1, 100_000),
        margin=real(-1.0, 1.0),
        angle_weight=real(0.0, 1e3),
        angle_direction=st.sampled_from(["auto", "both", "attribute"]),
        angle_dropout=rates,
        angle_mask=st.sampled_from(["step", "edge"]),
        aperture=real(1e-6, 1.0),
        hierarchical_relations=st.lists(relation_names, min_size=1, max_size=4).map(tuple),
    ),
    training=st.builds(
        HAKGTrainingSettings,
        lr=real(1e-8, 100.0),
        lr_schedule=st.sampled_from(["constant", "cosine"]),
        batch_size=st.integers(1, 10_000_000),
        positives_per_user=st.integers(1, 10_000_000),
        epochs=st.integers(1, 10_000_000),
        eval_every=st.integers(1, 10_000_000),
        patience=st.integers(1, 10_000_000),
        select_by=st.builds(
            "{}@{}".format, st.sampled_from(["recall", "ndcg", "precision", "hit", "mrr"]), st.integers(1, 1000)
        ),
        protocol=st.sampled_from(["validation", "published"]),
    ),
    run=st.builds(
        RecordedRunSettings,
        seed=st.integers(0, 2**63 - 1),
        device=st.sampled_from(["auto", "cpu", "cuda"]),
        dtype=st.sampled_from(["float32", "float64"]),
        tensorboard=st.booleans(),
    ),
)


# --- round trips --------------------------------------------------------------------------------------------------


@given(valid_settings)
@quick
def test_toml_and_dictionaries_keep_every_value(value):
    read = tomllib.loads(value.to_toml())
    assert read == value.to_dict()
    assert Settings.from_dict(read) == value
    assert Settings.from_dict(value.to_dict()) == value


@given(valid_settings)
@quick
def test_a_file_gives_the_settings_back_over_any_preset(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(value.to_toml().encode())
    for preset in ("default", "yelp2018"):
        assert Settings.resolve(preset=preset, file=path) == value


@given(valid_settings)
@quick
def test_every_value_can_be_set_by_an_override(value):
    """What TOML writes for a key is what --set takes for it, with its section or without."""
    for prefix in ("", "{section}."):
        overrides = [
            prefix.format(section=section) + tomli_w.dumps({key: entry})
            for section, values in value.to_dict().items()
            for key, entry in values.items()
        ]
        assert Settings.resolve(overrides=overrides) == value


OTHER = {
    "formulation": "released", "dim": 32, "layers": 5, "geometry": "euclidean", "curvature": 0.5, "gate": False,
    "dual_item_embeddings": False, "score": "fused", "linear_weight": (0.0,), "linear_l2": (20.0,), "linear_rank": 3,
    "linear_exponent": (0.5,),
    "kg_edge_dropout": 0.1, "ranking_loss": "hinge", "temperature": 0.2, "candidates": 9, "interaction_dropout": 0.2,
    "message_dropout": 0.0, "kernels": "dgl", "precision": "bf16", "negatives": 7, "margin": -0.5, "angle_weight": 0.0,
    "angle_direction": "attribute", "angle_dropout": 0.25, "angle_mask": "edge", "aperture": 0.2,
    "hierarchical_relations": ("genre", "film.director"), "lr": 0.1, "lr_schedule": "cosine", "batch_size": 1,
    "epochs": 3, "eval_every": 2, "patience": 4, "select_by": "recall@5", "protocol": "published", "refit": False,
    "max_seconds": 9.5,
    "seed": 0, "device": "cpu", "dtype": "float64", "tensorboard": True, "cuda_graphs": True, "angle_pairs": "items",
    "degree_exponent": 0.75, "gate_l2": 0.5, "neighbours": (7,), "shrinkage": (1.0, 2.0), "similarity": "jaccard",
    "ease_l2": (3.0,), "weight_decay": 0.0, "facts_weight": (0.7,), "facts_l2": (5.0, 6.0), "facts_rank": 4,
    "new_items_weight": (0.3,), "new_items_bias": (0.7,), "side_information": "additive",
    "keep_overlap": True, "positives_per_user": 5,
}  # fmt: skip
"""A value for every setting that is not the default of any model."""


@pytest.mark.parametrize("kind", ALL)
def test_every_setting_survives_being_changed_alone(kind):
    """One other value a key, so that none is forgotten by a section, the dictionary or the file."""
    default = Settings(kind)
    assert set(default.by_section()) <= set(OTHER), "give the new setting another value"
    for key, section in default.by_section().items():
        changed = default.replace({key: OTHER[key]})
        assert getattr(getattr(changed, section), key) == OTHER[key]
        assert changed != default
        assert changed == default.replace({f"{section}.{key}": OTHER[key]})
        assert changed == default.replace({section: {key: OTHER[key]}})
        assert changed.replace({key: default.values()[key]}) == default
        assert Settings.from_dict(tomllib.loads(changed.to_toml())) == changed


@pytest.mark.parametrize("kind", ALL)
def test_keys_are_unique_over_the_sections(kind):
    per_section = [key for _, section in model_class(kind).sections.items() for key in section.setting_keys()]
    assert len(per_section) == len(set(per_section))
    assert not set(per_section) & {"kind", "model", "loss", "training", "run"}


@pytest.mark.parametrize("kind", ALL)
def test_settings_that_are_missing_in_a_file_have_the_defaults(kind, tmp_path):
    """Whichever lines are missing, one alone or several together."""
    default, path = Settings(kind), tmp_path / "config.toml"
    lines = default.to_toml().splitlines()
    keys = [line.partition(" ")[0] for line in lines if " = " in line and not line.startswith((" ", "kind"))]
    assert len(keys) == len(default.by_section())
    together = [["gate_l2", "degree_exponent"], ["gate_l2", "degree_exponent", "margin"], keys[:3], keys]
    for missing in [*([key] for key in keys), *together]:
        values = {
            section: {key: value for key, value in values.items() if key not in missing}
            for section, values in default.to_dict().items()
        }
        path.write_text(tomli_w.dumps(values))
        assert Settings.resolve(file=path) == default, missing
        assert Settings.from_dict(values) == default, missing


@pytest.mark.parametrize(("written", "value"), [("true", True), ("false", False), ('"auto"', "auto"), ("", "auto")])
def test_cuda_graphs_are_a_choice_and_were_a_switch(written, value, tmp_path):
    """Runs from before there was ``auto`` have true or false in their files."""
    path = tmp_path / "config.toml"
    path.write_text(f"[run]\ncuda_graphs = {written}\n" if written else "")
    found = Settings.resolve(file=path).run.cuda_graphs
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("written", ["1", "0", "1.0", '"true"', '"on"', "[true]"])
def test_what_only_looks_like_a_choice_is_refused(written):
    with pytest.raises(ConfigError, match=r"cuda_graphs = .* must be one of 'auto', true, false"):
        Settings.resolve(overrides=[f"cuda_graphs={written}"])


# --- settings that a model does not read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "assignment"),
    [
        ("popularity", "tensorboard=true"), ("popularity", "precision=bf16"), ("popularity", "cuda_graphs=true"),
        ("popularity", "lr=1"), ("popularity", "angle_weight=3"), ("popularity", "dtype=float64"),
        ("ease", "lr=5"), ("ease", "training.lr=5"), ("ease", "neighbours=5"), ("item-knn", "ease_l2=3"),
        ("bpr-mf", "layers=2"), ("bpr-mf", "kernels=dgl"), ("lightgcn", "cuda_graphs=true"),
        ("lightgcn", "gate=false"), ("hakg", "weight_decay=0.5"), ("hakg", "neighbours=5"),
    ],
)  # fmt: skip
def test_a_setting_that_the_model_does_not_read_is_refused(kind, assignment, tmp_path):
    key = assignment.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError) as error:
        Settings.resolve(overrides=[f"kind={kind}", assignment])
    message = str(error.value)
    assert f"model {kind!r} does not read {key!r}" in message
    owners = [name for name in ALL if key in Settings(name).by_section()]
    assert owners
    assert ", ".join(owners) in message
    for read in Settings(kind).by_section():
        assert read in message, "the settings that it reads are named"
    path = tmp_path / "mine.toml"
    path.write_text(f"kind = '{kind}'\n{key} = {tomli_w.dumps({'x': OTHER[key]})[4:]}")
    with pytest.raises(ConfigError, match="does not read"):
        Settings.resolve(file=path)


@pytest.mark.parametrize(
    ("switched", "idle", "when"),
    [
        ([], "margin=0.3", "ranking_loss = 'hinge'"),
        ([], "negatives=9", "ranking_loss = 'hinge'"),
        (["ranking_loss=hinge"], "temperature=0.5", "ranking_loss = 'softmax'"),
        (["linear_weight=0"], "linear_l2=5", "linear_weight"),
        (["angle_weight=0"], "angle_mask=edge", "angle_weight"),
        (["gate=false"], "gate_l2=0.5", "gate"),
        (["dual_item_embeddings=false"], "gate=false", "dual_item_embeddings"),
        (["geometry=euclidean"], "curvature=2.0", "geometry"),
    ],
)
def test_a_setting_that_another_switches_off_is_told(switched, idle, when):
    (told,) = Settings.resolve(overrides=[*switched, idle]).idle()
    assert idle.partition("=")[0] in told
    assert when in told
    assert Settings.resolve(overrides=switched).idle() == []
    assert Settings.resolve(preset="last-fm").idle() == []


def test_the_kind_of_settings_cannot_be_replaced():
    with pytest.raises(ConfigError, match="settings of 'hakg'"):
        Settings().replace({"kind": "ease"})
    assert Settings().replace({"kind": "hakg", "dim": 4}).model.dim == 4


def test_the_strongest_kind_wins(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nkind = 'lightgcn'\n[training]\nepochs = 7\n")
    assert Settings.resolve(file=path).kind == "lightgcn"
    other = Settings.resolve(file=path, overrides={"kind": "bpr-mf"})
    assert (other.kind, other.training.epochs, other.training.lr) == ("bpr-mf", 7, Settings("bpr-mf").training.lr)
    with pytest.raises(ConfigError, match="there is no model 'lightgnc'; the models are hakg"):
        Settings("lightgnc")
    with pytest.raises(ConfigError, match="kind = 3 is not allowed"):
        Settings.resolve(overrides={"kind": 3})


# --- presets and precedence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", HAKG.presets)
def test_presets_resolve_and_change_what_they_name(preset):
    value = Settings.resolve(preset=preset)
    for key, expected in HAKG.presets[preset].items():
        found = value.values()[key]
        assert found == ((expected,) if isinstance(found, tuple) else expected)


@pytest.mark.parametrize(
    ("preset", "lr", "layers", "negatives", "margin"),
    [
        ("alibaba-ifashion", 1e-4, 3, 200, 0.6),
        ("yelp2018", 5e-4, 2, 400, 0.8),
        ("last-fm", 1e-4, 3, 400, 0.7),
    ],
)
def test_presets_carry_the_published_values(preset, lr, layers, negatives, margin):
    value = Settings.resolve(preset=preset)
    assert value.training.lr == lr
    assert value.model.layers == layers
    assert (value.loss.negatives, value.loss.margin, value.loss.angle_weight) == (negatives, margin, 0.005)
    assert value.training.batch_size == 4096
    assert (value.model.formulation, value.model.dim, value.model.curvature) == ("released", 64, 1.0)
    assert value.model.geometry == "poincare"
    assert value.model.gate
    assert value.model.dual_item_embeddings
    assert (value.model.kg_edge_dropout, value.model.interaction_dropout) == (0.5, 0.5)
    assert (value.loss.angle_direction, value.loss.angle_dropout, value.loss.aperture) == ("auto", 0.5, 0.1)
    # What selects on the test split is asked for by name, never by a preset.
    assert value.training.protocol == "validation"


def test_unknown_preset_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"no preset 'yelp'.*default.*yelp2018"):
        Settings.resolve(preset="yelp")
    with pytest.raises(ConfigError, match=r"no preset 'released' of model 'ease'; it is a preset of hakg"):
        Settings.resolve(preset="released", overrides={"kind": "ease"})


def test_overrides_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("lr = 0.01\n[loss]\nmargin = 0.1\n")
    value = Settings.resolve(preset="yelp2018", file=path, overrides=["margin=0.2"])
    assert value.model.layers == 2  # preset
    assert value.training.lr == 0.01  # file over preset
    assert value.loss.margin == 0.2  # override over both
    assert value.loss.aperture == 0.1  # default
    assert Settings.resolve(preset="yelp2018", file=str(path), overrides={"margin": 0.2}) == value
    assert Settings.resolve() == Settings()


def test_replace_returns_another_and_leaves_the_first():
    value = Settings()
    assert value.replace({"dim": 8}).model.dim == 8
    assert value.model.dim == 128
    assert value.replace({}) == value


# --- frozen -------------------------------------------------------------------------------------------------------


def test_settings_are_frozen_and_hashable():
    value = Settings()
    for target, key in ((value, "model"), (value.model, "dim"), (value.loss, "margin"), (value.run, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, key, 1)
    assert hash(Settings()) == hash(value)
    assert isinstance(Settings.resolve(overrides=["hierarchical_relations=['a']"]).loss.hierarchical_relations, tuple)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("learning_rat", "no setting 'learning_rat'"),
        ("marginn", "did you mean 'margin'"),
        ("training.batchsize", "no setting 'training.batchsize'; did you mean 'batch_size'"),
        ("model.lr", "no setting 'model.lr'; did you mean 'lr'"),
        ("a.b.lr", "no setting 'a.b.lr'"),
        (".lr", "no setting '.lr'"),
        ("zzzz", r"the settings it reads are kind, formulation, dim, .*"),
        ("training", "no setting 'training'"),
    ],
)
def test_unknown_keys_are_named_with_a_suggestion(key, message):
    with pytest.raises(ConfigError, match=message):
        Settings().replace({key: 1})
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(overrides=[f"{key}=1"])


def test_unknown_section_is_named():
    with pytest.raises(ConfigError, match=r"no section 'optimiser'; the sections are model, loss, training, run"):
        Settings().replace({"optimiser": {"lr": 1.0}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dim", 64.0, "dim = 64.0: must be a whole number"),
        ("dim", "64", "dim = '64': must be a whole number"),
        ("dim", True, "dim = True: must be a whole number"),
        ("training.lr", "fast", "training.lr = 'fast': must be a number"),
        ("lr", None, "lr = None: must be a number"),
        ("lr", False, "lr = False: must be a number"),
        ("lr", math.nan, "lr = nan: must be a number"),
        ("gate", 1, "gate = 1: must be true or false"),
        ("gate", "no", "gate = 'no': must be true or false"),
        ("select_by", 20, "select_by = 20: must be a text"),
        ("hierarchical_relations", 3, "must be a list of names"),
        ("hierarchical_relations", ["a", 3], "must be a list of names"),
        ("formulation", 3, "formulation = 3 is not allowed: it must be one of 'released', 'paper'"),
        ("formulation", ["paper"], "it must be one of 'released', 'paper'"),
    ],
)
def test_wrong_types_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        Settings().replace({key: value})


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("dim", [1, 4096], [0, -1, 4097]),
        ("layers", [1, 16], [0, 17]),
        ("curvature", [1e-4, 1e4, 1], [0.0, -1.0, 1.1e4, math.inf]),
        ("kg_edge_dropout", [0, 0.999], [1.0, 1, -0.1]),
        ("interaction_dropout", [0.0], [1.0, -1e-9]),
        ("message_dropout", [0.0], [1.0]),
        ("negatives", [1, 100_000], [0, 100_001]),
        ("margin", [-1, 1], [-1.01, 1.01]),
        ("angle_weight", [0], [-1e-9, 1001.0]),
        ("angle_dropout", [0.0], [1.0]),
        ("aperture", [1e-6, 1.0], [0.0, 1.5]),
        ("lr", [1e-8, 100], [0.0, -1e-3, 101.0, math.inf]),
        ("batch_size", [1], [0, 10_000_001]),
        ("epochs", [1], [0]),
        ("eval_every", [1], [0]),
        ("patience", [1], [0]),
        ("max_seconds", [0, 0.5, 1e9], [-1.0, math.inf]),
        ("seed", [0, 2**63 - 1], [-1, 2**63]),
        ("select_by", ["mrr@1", "hit@100"], ["ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@2.5", "auc@20", "@20", ""]),
        ("hierarchical_relations", [["auto"], "genre"], [[]]),
        ("formulation", ["paper"], ["papers", "", "PAPER"]),
        ("geometry", ["euclidean"], ["sphere"]),
        ("score", ["separate"], ["dot"]),
        ("kernels", ["dgl", "triton"], ["cuda"]),
        ("precision", ["bf16"], ["float16"]),
        ("angle_mask", ["edge"], ["node"]),
        ("angle_direction", ["attribute"], ["item"]),
        ("lr_schedule", ["cosine"], ["linear"]),
        ("protocol", ["published"], ["test"]),
        ("device", ["cuda"], ["gpu"]),
        ("dtype", ["float64"], ["float16"]),
    ],
)  # fmt: skip
def test_limits_are_kept_and_named(key, inside, outside):
    for value in inside:
        Settings().replace({key: value})
    section = dict(HAKG.sections.items())
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^{key} = .* is not allowed: it must be .+"):
            Settings().replace({key: value})
        with pytest.raises(ConfigError, match=key):  # and where they are made
            section[Settings().by_section()[key]](**{key: tuple(value) if isinstance(value, list) else value})


def test_errors_are_those_users_can_catch():
    with pytest.raises(HakgError):
        Settings().replace({"lr": -1.0})
    with pytest.raises(ValueError, match="lr"):
        Settings().replace({"lr": -1.0})


def test_integers_become_the_floats_that_are_asked_for():
    value = Settings().replace({"lr": 1, "margin": 0})
    assert isinstance(value.training.lr, float)
    assert isinstance(value.loss.margin, float)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr = \n", r"bad\.toml: is not valid TOML.*line 1"),
        (b"[training\nlr = 1\n", r"bad\.toml: is not valid TOML"),
        (b"lr = 0.1\nlr = 0.2\n", r"bad\.toml: is not valid TOML"),
        (b"select_by = 'ndcg\xff@20'\n", r"bad\.toml: is not valid TOML"),
        (b"[training]\nlrr = 1\n", "did you mean 'lr'"),
        (b"[training.deeper]\nlr = 1\n", "no setting 'training.deeper'|training.deeper"),
        (b"[[training]]\nlr = 1\n", "no setting 'training'"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(file=path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        Settings.resolve(file=tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Settings.resolve(file=tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text("# nothing yet\n")
    assert Settings.resolve(preset="last-fm", file=path) == Settings.resolve(preset="last-fm")


# --- overrides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("formulation=paper", "formulation", "paper"),
        ('formulation="paper"', "formulation", "paper"),
        ("formulation='paper'", "formulation", "paper"),
        (" formulation = paper ", "formulation", "paper"),
        ("select_by=recall@10", "select_by", "recall@10"),
        ("lr=0.001", "lr", 0.001),
        ("lr=1e-3", "lr", 0.001),
        ("lr=1", "lr", 1.0),
        ("temperature=5e-1", "temperature", 0.5),
        ("batch_size=1_024", "batch_size", 1024),
        ("gate=false", "gate", False),
        ("tensorboard=true", "tensorboard", True),
        ("hierarchical_relations=['genre', \"film.director\"]", "hierarchical_relations", ("genre", "film.director")),
        ("hierarchical_relations=genre", "hierarchical_relations", ("genre",)),
        ("hierarchical_relations=a=b=c", "hierarchical_relations", ("a=b=c",)),
        ("hierarchical_relations=film.directed by/at", "hierarchical_relations", ("film.directed by/at",)),
    ],
)
def test_overrides_are_read_as_people_write_them(override, key, expected):
    value = Settings.resolve(overrides=[override])
    assert value.values()[key] == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "--set 'lr': write it as key=value"),
        ("=1", "--set '=1': write it as key=value"),
        (" =1", "write it as key=value"),
        ("", "write it as key=value"),
        ("a=b=c", "no setting 'a'"),
        ("lr=", "lr = '': must be a number"),
        ("lr=b=c", "lr = 'b=c': must be a number"),
        ("gate=True", "gate = 'True': must be true or false"),
        ("gate=yes", "gate = 'yes': must be true or false"),
        ("seed=007", "seed = '007': must be a whole number"),
        ("dim=64.0", "dim = 64.0: must be a whole number"),
        ("lr=nan", "lr = nan: must be a number"),
        ("lr=[1]", r"lr = \[1\]: must be a number"),
        ("training={lrr=1}", "no setting 'training.lrr'; did you mean 'lr'"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(overrides=[override])


@given(st.text(max_size=30), st.text(max_size=30))
@quick
def test_any_override_is_taken_or_refused_with_a_reason(left, right):
    for text in (left, f"{left}={right}", f"lr={right}", f"select_by={right}", f"hierarchical_relations={right}"):
        with contextlib.suppress(ConfigError):
            assert isinstance(Settings.resolve(overrides=[text]), Settings)


def test_the_last_of_equal_keys_wins():
    assert Settings.resolve(overrides=["lr=0.1", "lr=0.2"]).training.lr == 0.2
    assert Settings.resolve(overrides=["lr=0.1", "training.lr=0.2"]).training.lr == 0.2


# --- less common input --------------------------------------------------------------------------------------------


def test_the_last_of_equal_keys_wins_whatever_stands_between():
    assert Settings.resolve(overrides=["lr=0.1", "training.lr=0.2", "lr=0.3"]).training.lr == 0.3


@pytest.mark.parametrize("text", ["[genre, director]", "['genre', 'director'", '["genre" "director"]'])
def test_a_list_of_bare_words_is_a_list_or_an_error(text):
    try:
        names = Settings.resolve(overrides=[f"hierarchical_relations={text}"]).loss.hierarchical_relations
    except ConfigError:
        return
    assert names == ("genre", "director")


def test_an_override_of_two_lines_is_refused():
    with pytest.raises(ConfigError):
        Settings.resolve(overrides=["lr=0.5\nmargin = 0.1"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: HAKGSettings(dim=2.5),
        lambda: HAKGSettings(layers="3"),
        lambda: HAKGSettings(gate="no"),
        lambda: RecordedRunSettings(seed=None),
    ],
    ids=["float for int", "text for int", "text for bool", "none for int"],
)
def test_sections_check_types_where_they_are_made(make):
    with pytest.raises(ConfigError):
        make()


def test_one_relation_given_as_text_is_a_tuple_or_an_error_where_it_is_made():
    try:
        made = HAKGLossSettings(hierarchical_relations="genre")  # type: ignore[arg-type]
    except ConfigError:
        return
    assert made.hierarchical_relations == ("genre",)


@pytest.mark.parametrize("content", ["lrr = 1\n", "lr = -1.0\n", "[training]\nlr = 'fast'\n"])
def test_wrong_values_in_a_file_name_the_file(tmp_path: Path, content):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        Settings.resolve(file=path)


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("lr = 0.5\n", encoding="utf-8-sig")
    assert Settings.resolve(file=path).training.lr == 0.5
