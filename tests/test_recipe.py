"""Recipes: what a typo says, what is inherited, what an override reaches, and what the hash stands for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import small_recipe

from polymnia.recipe import expand, merge, override, parse_overrides, plan, read, validate
from polymnia.types import UserError

ROOT = Path("/nowhere")  # nothing is opened


def raw(**changes: Any) -> dict[str, Any]:
    return override(small_recipe(ROOT), {k.replace("__", "."): v for k, v in changes.items()})


def refused(changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        validate(override(small_recipe(ROOT), changes), "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "path", "near"),
    [
        ("dimm", "unknown key 'dimm'", "dim"),
        ("train.lrr", "train: unknown key 'lrr'", "lr"),
        ("train.schedule.warmap", "train.schedule: unknown key 'warmap'", "warmup"),
        ("tasks.seas.pears", "tasks.0: unknown key 'pears'", "pairs"),
        ("tasks.1.train.stepz", "tasks.1.train: unknown key 'stepz'", "steps"),
        ("tasks.1.data.domans", "tasks.1.data.0: in data.datasets 'soundworld': unknown key 'domans'", "domains"),
        ("towers.audio.widht", "towers.audio: in models.towers 'tiny_audio': unknown key 'widht'", "width"),
        ("method.lwf.wait", "method.0: in methods 'lwf': unknown key 'wait'", "weight"),
        ("method.lwf.balance.targt", "method.0: in methods 'lwf': balance: unknown key 'targt'", "target"),
        ("eval.retrieval.gallary", "eval.0: in eval.evaluators 'retrieval': unknown key 'gallary'", "gallery"),
        ("heads.audio.hiden", "heads.audio: unknown key 'hiden'", "hidden"),
        ("objective.wights", "objective: unknown key 'wights'", "weights"),
    ],
)
def test_a_typo_names_its_path_and_the_nearest_key(key: str, path: str, near: str):
    assert f"{path}; did you mean '{near}'?" in refused({key: 1})


def test_a_typo_that_tasks_inherit_is_told_once():
    message = refused({"train.lrr": 1})
    assert message.count("lrr") == 1 and "(and in 4 more places)" in message  # two stages, two tasks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": [{"use": "lwff"}]}, "method.0: no 'lwff' in methods; did you mean 'lwf'?"),
        (
            {"towers.audio.use": "tiny_audi"},
            "towers.audio: no 'tiny_audi' in models.towers; did you mean 'tiny_audio'?",
        ),
        ({"tasks.0.data": "soundword"}, "tasks.0.data.0: no 'soundword' in data.datasets; did you mean 'soundworld'?"),
        ({"eval": ["retrival"]}, "eval.0: no 'retrival' in eval.evaluators; did you mean 'retrieval'?"),
        ({"towers.sound": "tiny_audio"}, "towers.sound"),
        ({"method": "no.such.module"}, "cannot import 'no.such.module' for methods"),
        ({"method": ".er"}, "cannot import '.er' for methods"),
        ({"method": "polymnia.types"}, "polymnia.types has no class Config(Frozen)"),
        ({"method": [3]}, "a part of methods is a name or {use: name, ...}, not 3"),
    ],
)
def test_an_unknown_part_names_the_nearest_known_one(changes: dict[str, Any], message: str):
    assert message in refused(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": "many"}, "dim: Input should be a valid integer"),
        ({"dim": 0}, "dim: Input should be greater than 0"),
        ({"train.lr": -1}, "train.lr: Input should be greater than 0"),
        ({"train.augment.crop": "loud"}, "train.augment.crop: Input should be 'random' or 'loudest'"),
        ({"train": 3}, "train: Input should be a valid dictionary"),
        ({"train": {"steps": 1, "epochs": 2}}, "give either steps or epochs"),
        ({"tasks": []}, "a recipe needs tasks, or at least something to watch"),
        ({"tasks.0.pairs": [["audio", "sound"]]}, "tasks.0.pairs.0.1: Input should be 'audio', 'image' or 'text'"),
        ({"tasks.0.pairs": [["audio", "audio"]]}, "tasks.0.pairs: a pair is of two different modalities"),
        ({"tasks.0.pairs": []}, "tasks.0 ('seas') has no pairs"),
        ({"tasks.0.objective": {"kind": "tags"}}, "tasks.0 ('seas') has the objective tags, which is for stages"),
        ({"name": "a/b"}, "name: String should match pattern"),
        ({"method.lwf.weight": 1.5}, "method.0: in methods 'lwf': weight: Input should be less than or equal to 1"),
    ],
)
def test_a_wrong_value_names_its_path(changes: dict[str, Any], message: str):
    assert message in refused(changes)


def test_a_key_that_is_no_text_is_an_error_not_a_crash():
    with pytest.raises(UserError, match="unknown key 'True'"):
        validate({**small_recipe(ROOT), True: 1})
    with pytest.raises(UserError, match="unknown key '3'"):
        validate(override(small_recipe(ROOT), {"method": [{"use": "lwf", 3: 4}]}))


# --- inheritance


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path: Path):
    write(tmp_path / "base.yaml", {"dim": 8, "train": {"lr": 1, "batch": 4}, "eval": ["retrieval", "zeroshot"]})
    own = write(tmp_path / "own.yaml", {"base": "base.yaml", "train": {"lr": 2}, "eval": ["retrieval"]})
    assert read(own) == {"dim": 8, "train": {"lr": 2, "batch": 4}, "eval": ["retrieval"]}


def test_a_base_of_a_base_is_refused(tmp_path: Path):
    write(tmp_path / "a.yaml", {"base": "b.yaml"})
    own = write(tmp_path / "own.yaml", {"base": "a.yaml"})
    with pytest.raises(UserError, match="a.yaml: a base may not have a base of its own"):
        read(own)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n", "must be a mapping"),
        ("a: [1\n", "is no YAML recipe"),
        ("base: no.yaml\n", "own.yaml: base: 'no.yaml' is no recipe file"),
        ("base: 3\n", "base: 3 is no recipe"),
        ("a: 1\na: 2\n", "key 'a' twice"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: str, message: str):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "own.yaml", content))


def test_tasks_inherit_training_and_objective_and_may_change_single_keys():
    recipe = validate(
        raw(
            tasks__1__train={"lr": 0.5},
            objective={"weights": {"audio-text": 2.0}, "multi_positive": True},
            tasks__0__objective={"multi_positive": False},
        )
    )
    assert [t.train.lr for t in recipe.tasks] == [0.003, 0.5] and {t.train.batch for t in recipe.tasks} == {6}
    own = recipe.tasks[0].objective
    assert own is not None and not own.multi_positive and own.weights == {"audio-text": 2.0}


def test_a_task_that_gives_epochs_does_not_inherit_steps():
    recipe = validate(raw(tasks__0__train={"epochs": 2}))
    assert [(t.train.steps, t.train.epochs) for t in recipe.tasks] == [(None, 2), (4, None)]


# --- overrides


def test_an_override_reaches_keys_entries_by_place_and_entries_by_name():
    changed = raw(train__lr=1, tasks__1__name="x", tasks__seas__train__steps=9, method__lwf__weight=0.5)
    assert changed["train"] == {**small_recipe(ROOT)["train"], "lr": 1}
    assert changed["tasks"][1]["name"] == "x" and changed["tasks"][0]["train"] == {"steps": 9}
    assert changed["method"] == [{"use": "lwf", "weight": 0.5}]


def test_an_override_makes_keys_that_are_not_there_yet_and_opens_bare_names():
    assert override(
        {"eval": ["zeroshot"], "method": "er"}, {"eval.zeroshot.by": "label", "method.rows": 3, "a.b": 1}
    ) == {
        "eval": [{"use": "zeroshot", "by": "label"}],
        "method": {"use": "er", "rows": 3},
        "a": {"b": 1},
    }


def test_an_override_leaves_what_it_was_given_as_it_was():
    before = small_recipe(ROOT)
    kept = copy.deepcopy(before)
    override(before, {"tasks.0.train.steps": 9, "method.0.weight": 1})
    assert before == kept


def test_an_entry_that_is_not_there_is_an_error_that_lists_the_entries():
    with pytest.raises(UserError, match=r"tasks.sees.train.lr: no entry 'sees' in a list of 2 \(seas, tunes\)"):
        raw(tasks__sees__train__lr=1)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3e-4", 0.0003), ("1e4", 10000.0), ("-2E+3", -2000.0), (".5e1", 5.0), ("7", 7), ("null", None), ("on", True),
        ("[a, 1e-3]", ["a", 0.001]), ("{use: ewc, weight: 1e4}", {"use": "ewc", "weight": 10000.0}),
        ("infinity", "infinity"), ("e5", "e5"), ("1e", "1e"), ("a=b", "a=b"), ("", None),
    ],
)  # fmt: skip
def test_values_are_yaml_and_3e_4_is_a_number(tmp_path: Path, word: str, value: object):
    found = parse_overrides([f"k={word}"])["k"]
    assert found == value and type(found) is type(value)
    assert read(write(tmp_path / "own.yaml", f"k: {word}\n" if word != "a=b" else "k: a=b\n"))["k"] == value


@pytest.mark.parametrize("word", ["train.lr", "=3", "a={"])
def test_a_word_that_is_no_key_and_value_is_refused(word: str):
    with pytest.raises(UserError, match="'") as caught:
        parse_overrides([word])
    assert "\n" not in str(caught.value)


def test_merging_joins_mappings_and_replaces_all_else():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1], "e": 1}, {"a": {"b": 3}, "d": [2], "e": {"f": 1}}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
        "e": {"f": 1},
    }


# --- the hash


@pytest.mark.parametrize(
    "changes",
    [{"data": "d"}, {"out": "o"}, {"cache": "c"}, {"device": "cuda"}, {"workers": 2}, {"threads": 2}, {"jobs": 2},
     {"checkpoint_every": 7}, {"title": "t"}, {"variant": "v"}, {"anchors": 3}],
)  # fmt: skip
def test_the_hash_ignores_where_and_with_what_a_run_is_done(changes: dict[str, Any]):
    assert validate(raw(**changes)).hash == validate(raw()).hash


def paths(value: Any, at: str = "") -> list[tuple[str, Any]]:
    """Every leaf of a resolved recipe with its dotted key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if entries is None or not value:
        return [(at, value)]
    return [leaf for k, v in entries for leaf in paths(v, f"{at}.{k}" if at else str(k))]


def test_the_hash_changes_with_any_other_value():
    recipe = validate(raw(tasks__0__train={"stop": {"patience": 3}, "clip": 1.0}, stages__0__seed=1))
    resolved = yaml.safe_load(recipe.dump())
    where = {"data", "out", "cache", "device", "workers", "threads", "jobs", "checkpoint_every", "title", "variant"}
    where |= {"anchors"}
    words = {
        "arch": "conv",
        "crop": "loudest",
        "optimizer": "sgd",
        "part": "base",
        "g0": "classifier",
        "gallery": "seen",
    }
    hashes, tried = {recipe.hash}, 1
    for key, value in paths(resolved):
        name = key.split(".")[-1]
        changed: Any = words.get(name, value)
        if isinstance(value, (bool, int, float)):
            changed = not value if isinstance(value, bool) else value / 2 if 0 < value < 1 else value + 1
        if changed == value or key.split(".")[0] in where or name == "epochs":
            continue
        try:
            hashes.add(validate(override(resolved, {key: changed})).hash)
        except UserError:  # a value that must fit to another
            continue
        tried += 1
    assert tried > 100 and len(hashes) == tried


def test_order_of_tasks_and_of_methods_counts_and_order_of_keys_does_not():
    one, other = raw(), raw()
    other["tasks"] = other["tasks"][::-1]
    assert validate(one).hash != validate(other).hash
    assert validate(dict(reversed(list(one.items())))).hash == validate(one).hash


def test_the_folder_is_named_by_name_variant_seed_and_hash():
    recipe = validate(raw(variant="er", seed=3))
    assert recipe.folder == ROOT / "runs" / f"small-er-s3-{recipe.hash}"


def test_a_dumped_recipe_reads_back_as_an_equal_one(tmp_path: Path):
    for name in ("demo", "real-mini"):
        for recipe in plan(Path(__file__).parents[1] / "recipes" / f"{name}.yaml", {"only": ["lwf"], "seed": 2}):
            back = validate(read(write(tmp_path / "back.yaml", recipe.dump())))
            assert back == recipe and back.hash == recipe.hash and back.folder == recipe.folder


def test_a_recipe_of_a_paper_that_leaves_out_tasks_reads_back_from_its_run_folder(tmp_path: Path):
    folder = Path(__file__).parents[1] / "recipes/papers/audio"
    for path in sorted(folder.glob("*.yaml")):
        if path.stem not in ("base", "mini", "published"):
            for recipe in plan(path, {}):
                assert validate(read(write(tmp_path / "back.yaml", recipe.dump()))) == recipe, path


def test_every_variant_of_every_recipe_here_is_valid_and_a_run_of_its_own():
    folder = Path(__file__).parents[1] / "recipes"
    for path in sorted(
        {*folder.glob("*.yaml"), *(folder / "papers/ptat").glob("*"), *(folder / "papers/lpi").glob("*")}
    ):
        recipes = plan(path, {})
        assert len({recipe.folder for recipe in recipes}) == len(recipes), path
        assert len({recipe.hash for recipe in recipes}) == len(recipes), path


# --- variants and seeds


def study(**changes: Any) -> dict[str, Any]:
    return {
        **small_recipe(ROOT),
        "variants": {"a": {"method": []}, "b": {"train.lr": 1.0}},
        "seeds": [0, 4],
        **changes,
    }


def test_every_variant_is_run_with_every_seed():
    found = expand(study())
    assert [(r.variant, r.seed) for r in found] == [("a", 0), ("b", 0), ("a", 4), ("b", 4)]
    assert [len(r.method) for r in found] == [0, 1, 0, 1] and [r.train.lr for r in found] == [0.003, 1.0] * 2
    assert len({r.folder for r in found}) == 4


def test_a_recipe_without_variants_is_one_run_with_its_own_seed():
    (found,) = expand({**small_recipe(ROOT), "seed": 7})
    assert (found.variant, found.seed) == ("", 7)


def test_only_keeps_some_variants_and_refuses_unknown_ones():
    assert [r.variant for r in expand(study(only="b", seeds=1))] == ["b"]
    with pytest.raises(UserError, match="mine: no variant aa; did you mean 'a'"):
        expand(study(only=["aa"]), "mine")


@pytest.mark.parametrize("changes", [{"only": []}, {"seeds": []}])
def test_a_study_of_nothing_is_refused(changes: dict[str, Any]):
    with pytest.raises(UserError, match="is empty, so there is nothing to run"):
        expand(study(**changes))


@pytest.mark.parametrize("variants", [["a"], {"a": 3}])
def test_variants_of_another_shape_are_refused(variants: Any):
    with pytest.raises(UserError, match="variants must be"):
        expand(study(variants=variants))


def test_an_override_holds_over_what_a_variant_says():
    found = expand(study(), "mine", {"train.lr": 5.0, "method": ["er"], "seed": 9, "variants.b.dim": 4})
    assert [(r.train.lr, r.method[0].use, r.seed, r.dim) for r in found] == [(5.0, "er", 9, 16), (5.0, "er", 9, 4)]


def test_an_override_that_reaches_no_entry_of_a_variant_is_an_error():
    with pytest.raises(UserError, match="method.0.weight: no entry '0' in a list of 0"):
        expand(study(), "mine", {"method.0.weight": 1})


def test_a_fault_in_a_variant_names_the_variant():
    with pytest.raises(UserError, match="mine, variant 'c': train: unknown key 'lrr'"):
        expand(study(variants={"c": {"train.lrr": 1}}), "mine")


def test_an_override_of_the_steps_takes_the_place_of_the_epochs():
    raw = override({"train": {"epochs": 3, "batch": 4}}, {"train.steps": 7})
    assert raw == {"train": {"batch": 4, "steps": 7}}


def ordered(**keys: Any) -> dict[str, Any]:
    data = {"data": {"use": "manifest", "root": "somewhere"}}
    tasks = [{"name": n, "pairs": [["audio", "text"]], **data} for n in ("x", "y", "z")]
    watch = [{"name": f"of {n}", "eval": ["zeroshot"], "of": [n], **data} for n in ("x", "y")]
    watch.append({"name": "of all", "eval": ["zeroshot"], **data})
    return {**raw(), "stages": [], "tasks": tasks, "watch": watch, **keys}


def test_an_order_chooses_tasks_and_what_is_watched_for_them():
    recipe = validate(ordered(order=["z", "x"]))
    assert [t.name for t in recipe.tasks] == ["z", "x"]
    assert [w.name for w in recipe.watch] == ["of x", "of all"]
    assert [w.name for w in validate(ordered(order=[])).watch] == ["of all"]
    assert [t.name for t in validate(ordered()).tasks] == ["x", "y", "z"]
    assert validate(ordered(order=["x", "y", "z"])).hash == validate(ordered()).hash


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"order": ["xx"]}, "order names the task 'xx'; did you mean 'x'"),
        ({"order": ["x", "x"]}, "each once"),
        ({"order": "x"}, "a list of names"),
        ({"watch": [{"name": "w", "of": ["zz"]}]}, "watch 'w' names the task 'zz'; did you mean 'z'"),
    ],
)
def test_an_order_of_unknown_or_doubled_tasks_is_refused(keys: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        validate(ordered(**keys))


def test_files_of_overrides_stand_below_those_of_the_command_line(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("train.lr: 3e-4\nseed: 1\ndim: 7\n")
    (tmp_path / "b.yaml").write_text("dim: 8\n")
    found = parse_overrides(["seed=2"], [tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert found == {"train.lr": 3e-4, "seed": 2, "dim": 8}
    with pytest.raises(UserError, match="no recipe at"):
        parse_overrides([], [tmp_path / "none.yaml"])
