"""The recipes of the prompt papers on miniature trees in the official layouts, with checkpoints in the public ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import ast, bert, clap, clip
from command import command
from prompt_world import FORGOTTEN, PromptWorld

from polymnia.data.coco import SUPERCATEGORIES
from polymnia.recipe import plan

PAPERS = Path(__file__).parents[2] / "recipes/papers"
TAIL = sorted(p.stem for p in (PAPERS / "ptat").glob("*.yaml"))
NAMES = ["AudioCaps", "Clotho", "BBC", "AudioSet"]
# A dry run takes seconds a variant. These take paths of their own: all weights, a memory, all tasks at once,
# components for queries, routers and low-rank prompts, a teacher of prompts.
PATHS = ["finetune", "er", "joint", "coda", "lpi", "ptat"]
LPI_ORDER = [
    *("appliance", "sports", "outdoor", "electronic", "accessory", "indoor"),
    *("kitchen", "furniture", "vehicle", "food", "animal", "person"),
]


@pytest.fixture(scope="session")
def tail_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = PromptWorld(tmp_path_factory.mktemp("tail")).tail().root
    for make in (clap, ast):
        make(root / "weights" / make.__name__)
    bert(root / "weights/bert", positions=64)
    return root


@pytest.fixture(scope="session")
def coco_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = PromptWorld(tmp_path_factory.mktemp("lpi")).coco().root
    clip(root / "weights/clip")
    return root


def small(root: Path, tmp_path: Path, **keys: Any) -> Path:
    """A file of overrides that makes a recipe small, without touching what it is made of."""
    keys = {k.replace("__", "."): v for k, v in keys.items()}
    where = {"data": str(root), "out": str(tmp_path / "runs"), "cache": str(tmp_path / "cache"), "seeds": [0]}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**where, "dim": 6, "train.batch": 4, "train.epochs": 1, **keys}))
    return path


def small_tail(name: str, root: Path, tmp_path: Path, epochs: int) -> Path:
    model = "ast" if name.startswith("ast") else "clap"
    counts = {f"tasks__{task}__data__{split}_count": 4 for task in ("BBC", "AudioSet") for split in ("test", "valid")}
    towers = {"towers__audio__model": str(root / "weights" / model), "towers__text__model": str(root / "weights/bert")}
    sizes = {"heads__audio__hidden": 8, "heads__text__hidden": 8, "towers__text__max_tokens": 12}
    epoch = {"train__epochs": epochs, "tasks__Clotho__train__epochs": epochs}
    return small(root, tmp_path, **epoch, **towers, **sizes, **counts)


def small_coco(root: Path, tmp_path: Path, **keys: Any) -> Path:
    model = str(root / "weights/clip")
    towers = {"towers__image__model": model, "towers__text__model": model, "towers__text__max_tokens": 16}
    return small(root, tmp_path, **towers, **keys)


def rehearsed(recipe: Path, over: Path, *more: str) -> list[dict[str, Any]]:
    """The plans of all variants, from a dry run that has nothing to object to."""
    said = command("run", recipe, "--with", over, "--dry-run", "--json", *more)
    assert said.code == 0, said
    return json.loads(said.out)["plans"]


def items(plan: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Items that are there, by task and split."""
    return {t["name"]: {s: n["present"] for s, n in t["items"].items()} for t in plan["tasks"]}


@pytest.mark.parametrize("name", TAIL)
def test_a_recipe_of_tail_passes_its_dry_run(name: str, tail_world: Path, tmp_path: Path) -> None:
    before = listing(tail_world, tmp_path)
    over = small_tail(name, tail_world, tmp_path, epochs=12)  # a balance needs some steps
    only = PATHS if name == "base" else ["finetune", "ptat"]
    found, *others = rehearsed(PAPERS / f"ptat/{name}.yaml", over, f"only=[{', '.join(only)}]")
    assert listing(tail_world, tmp_path) == sorted([*before, str(over)])  # it touches nothing
    assert [plan["variant"] for plan in (found, *others)] == only
    assert all(items(plan) == items(found) for plan in others if plan["variant"] != "joint")
    order = {"order-reverse": NAMES[::-1], "order-random": ["Clotho", "BBC", "AudioSet", "AudioCaps"]}.get(name, NAMES)
    assert [t["name"] for t in found["tasks"]] == order
    # AudioSet: 26 clips less two on the blacklist, 4 and 4 of them held out, and one that AudioCaps tests with
    assert items(found) == {
        "AudioCaps": {"train": 5, "valid": 2, "test": 3},
        "Clotho": {"train": 6, "valid": 3, "test": 4},
        "BBC": {"train": 12, "valid": 4, "test": 4},
        "AudioSet": {"train": 15, "valid": 4, "test": 4},
    }


def test_every_variant_of_tail_is_a_valid_recipe_and_all_parts_of_ptat_are_crossed_with_the_coupling() -> None:
    runs = {r.variant: r for r in plan(PAPERS / "ptat/base.yaml", {"seeds": [0]})}
    chains = {tuple(part.use for part in run.method) for run in runs.values()}
    assert chains >= {(use,) for use in ("coop", "dgl", "ivlp", "lpi", "maple", "vpt")}
    parts = [part.config for run in runs.values() for part in run.method if part.use == "ptat"]
    cells = sorted((cfg.coupling, cfg.feature, cfg.similarity_weight) for cfg in parts)
    assert cells == sorted(itertools.product(("a->t", "none"), (0, 1), (0, 1)))
    (components,) = (part.config for part in runs["coda"].method)
    assert components.per_task * len(runs["coda"].tasks) == 100


def test_no_task_of_tail_is_stopped_before_its_last_epoch() -> None:
    for run in plan(PAPERS / "ptat/base.yaml", {"seeds": [0]}):
        for task in run.tasks:
            assert task.train.stop is not None and task.train.stop.patience >= task.train.epochs


@pytest.mark.slow
def test_tail_trains_and_what_audiocaps_tests_with_is_not_learned_from_audioset(
    tail_world: Path, tmp_path: Path
) -> None:
    matrix, meta = trained(
        PAPERS / "ptat/base.yaml", small_tail("base", tail_world, tmp_path, epochs=1), tmp_path, "ptat"
    )
    assert matrix["tasks"] == NAMES
    (leak,) = meta["leaks"]
    assert (leak["outcome"], leak["learned"], leak["scored"]) == ("dropped", "wavcaps", "audiocaps")
    assert [why for _, _, why in leak["examples"]] == [f"youtube:-caps{FORGOTTEN:06d}"]
    scores = matrix["values"]["latest"]["Clotho"]
    assert (scores["text>audio/N"][-1], scores["audio>text/N"][-1]) == (20, 4)  # five captions a clip


def test_the_recipe_of_lpi_passes_its_dry_run(coco_world: Path, tmp_path: Path) -> None:
    only = ["zero-shot", "l2p", "dcp-like", "lpi"]
    few = {f"variants.{name}.method.lpi.select.centres": 2 for name in only[2:]}  # a task has three images
    over = small_coco(coco_world, tmp_path, **few)
    found, *others = rehearsed(PAPERS / "lpi/coco-base.yaml", over, f"only=[{', '.join(only)}]")
    assert [plan["variant"] for plan in (found, *others)] == only
    assert all(items(plan) == items(found) for plan in others)
    assert [t["name"] for t in found["tasks"]] == LPI_ORDER and {*LPI_ORDER} == {*SUPERCATEGORIES}
    for task in found["tasks"]:
        assert [task["items"][split]["present"] for split in ("train", "valid", "test")] == [3, 0, 2]
        assert task["rows_an_epoch"] == 15  # every caption with its image
        assert all(metric.startswith("union/") for metric in task["score"])


def test_every_variant_of_lpi_is_a_valid_recipe_and_divides_similarities_by_the_temperature_of_clip() -> None:
    runs = plan(PAPERS / "lpi/coco-base.yaml", {"seeds": [0]})
    assert len(runs) == 13 and {run.objective.temperature for run in runs} == {0.01}


@pytest.mark.slow
def test_lpis_tasks_are_scored_in_the_gallery_of_all_tasks_so_far(coco_world: Path, tmp_path: Path) -> None:
    over = small_coco(coco_world, tmp_path, order=LPI_ORDER[:3], method__lpi__select__centres=2)
    matrix, _ = trained(PAPERS / "lpi/coco-base.yaml", over, tmp_path, "lpi")
    first = matrix["values"]["latest"]["appliance"]
    assert first["union/text>image/M"][1:] == [2, 4, 6]
    assert first["union/image>text/M"][1:] == [10, 20, 30]
    six = [first[f"union/{way}/R@{k}"][-1] for way in ("image>text", "text>image") for k in (1, 5, 10)]
    assert matrix["score"]["latest"][3][0] == pytest.approx(sum(six) / 6)


def trained(recipe: Path, over: Path, tmp_path: Path, variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``matrix.json`` and ``meta.json`` of one variant of a recipe."""
    said = command("run", recipe, "--with", over, f"only=[{variant}]")
    assert said.code == 0, said.err
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/meta.json"))
    matrix, meta = (json.loads((run / f"{name}.json").read_text()) for name in ("matrix", "meta"))
    assert meta["finished"]
    return matrix, meta


def listing(*folders: Path) -> list[str]:
    return sorted(str(p) for folder in folders for p in folder.rglob("*"))
