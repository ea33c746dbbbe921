"""What methods that steer towers refuse, and what they say: towers, room, ranks, routers, states of other sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import Said, command
from conformance.lessons import TASKS, build, features, learn, mixed
from conformance.miniature_towers import MINIATURES
from handmade import task
from safetensors.torch import load_file, save_file
from tiny import WORLD, tiny, tiny_recipe

import polymnia
from polymnia.config import find, names
from polymnia.continual.prompts import PromptConfig, spread
from polymnia.continual.select import SelectConfig, Selector
from polymnia.models.tower import AbstractTower
from polymnia.recipe import validate
from polymnia.runs.life import Session
from polymnia.types import AudioFile, Captions, Item, Modality, UserError

METHODS = [n for n in names("methods") if find("methods", n).Method.keeps_towers]
PROMPTING = [n for n in METHODS if issubclass(find("methods", n).Config, PromptConfig)]
ROUTED = [n for n in METHODS if "select" in find("methods", n).Config.model_fields]
OF_TASKS = [*ROUTED, "coda", "dualprompt"]  # what each task has of its own
BOTH: tuple[Modality, ...] = ("audio", "text")
Build = Callable[..., dict[Modality, AbstractTower]]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Miniatures by name and variant."""

    def get(*chosen: tuple[str, str]) -> dict[Modality, AbstractTower]:
        made: list[AbstractTower] = []
        for name, variant in chosen or (("tiny_audio", "transformer"), ("tiny_text", "words")):
            module = find("models.towers", name)
            made.append(module.Tower(module.Config(**MINIATURES[name][variant](tmp_path_factory.mktemp(name)))).eval())
        return {t.modality: t for t in made}

    return get


def part(name: str, **settings: Any) -> dict[str, Any]:
    return {"use": name, **({"per_task": True} if name == "lora" else {}), **settings}


# Towers


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_tower_takes_no_prompts_and_no_updates(name: str, towers: Build) -> None:
    with pytest.raises(UserError, match=r"towers\.text is frozen: .* set frozen: false"):
        build([part(name, modalities=BOTH)], towers(), frozen=("text",))


@pytest.mark.parametrize("name", METHODS)
def test_where_every_tower_is_frozen_nothing_can_be_learned(name: str, towers: Build) -> None:
    with pytest.raises(UserError, match="set frozen: false"):
        build([part(name)], towers(), frozen=BOTH)


@pytest.mark.parametrize("name", PROMPTING)
def test_a_tower_without_blocks_takes_no_prompts(name: str, towers: Build) -> None:
    with pytest.raises(UserError, match=r"towers\.audio \(polymnia\.models\.towers\.tiny_audio\) takes no prompts"):
        build([part(name, modalities=BOTH)], towers(("tiny_audio", "conv"), ("tiny_text", "words")))


def test_more_prompt_tokens_than_positions_are_left_are_refused_with_how_many_are_left(towers: Build) -> None:
    of = towers(("tiny_audio", "transformer"), ("clip_text", "letters"))
    room = of["text"].room
    assert room == 16  # 32 positions, texts of 16
    fits, too_many = ("coop", {"length": room}), ("coop", {"length": room + 1})
    for name, settings in (fits, ("sprompts", {"context": room})):
        learn(*build([part(name, **settings)], of), of, 1)
    beside = ("maple", {"length": 17}), ("l2p", {"length": 5, "top_n": 4}), ("sprompts", {"context": 17})
    for name, settings in (too_many, *beside):
        with pytest.raises(
            UserError, match=r"(17|20) prompt tokens have no room .* leave 16; set towers.text.max_tokens"
        ):
            learn(*build([part(name, **settings)], of), of, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use": "lora", "rank": 17}, r"rank 17 is above the 16 of body\.blocks\.0\.qkv \(48 x 16\)"),
        ({"use": "lpi", "rank": 17}, "rank 17 is above the 16 numbers of a token of towers.audio"),
        ({"use": "lpi", "interaction": {"rank": 17}}, "interaction.rank 17 is above the 16 numbers"),
    ],
    ids=["lora", "lpi", "lpi's interaction"],
)
def test_a_rank_above_the_width_is_refused(settings: dict[str, Any], message: str, towers: Build) -> None:
    with pytest.raises(UserError, match=message):
        build([settings], towers())


# Tasks


def test_two_tasks_of_one_name_are_refused(shared: Path, tmp_path: Path) -> None:
    raw = tiny_recipe(shared, tmp_path, method=["lora"])
    again = {"name": raw["tasks"][0]["name"], "pairs": [["audio", "text"]], "data": {**WORLD, "domains": ["music"]}}
    with pytest.raises(UserError, match="two tasks are called 'nature'; names must differ"):
        Session(validate(raw | {"tasks": [*raw["tasks"], again]}))


@pytest.mark.parametrize("name", ROUTED)
def test_a_task_of_fewer_samples_than_its_router_has_centres_is_refused(name: str, towers: Build) -> None:
    of = towers()
    learn(*build([part(name, select={"centres": 12})], of), of, 1)  # 2 batches of 6
    message = "task 1 has 12 training samples with audio, fewer than the 13 centres of its router; set select.centres"
    with pytest.raises(UserError, match=message):
        learn(*build([part(name, select={"centres": 13})], of), of, 1)


@pytest.mark.parametrize("name", ROUTED)
def test_a_task_of_too_few_samples_is_refused_before_it_is_learned(name: str, towers: Build) -> None:
    of = towers()
    model, method = build([part(name, select={"centres": 5})], of)
    item = Item("a", {"audio": AudioFile(Path("a.wav")), "text": Captions(("one", "two"))}, "g")
    method.begin_task(model, task(1)._replace(train=(item,) * 5))
    with pytest.raises(UserError, match="task 1 has 4 training samples with audio, fewer than the 5 centres"):
        method.begin_task(model, task(1)._replace(train=(item,) * 4))


def test_a_dry_run_counts_the_samples_that_are_there_for_a_router(shared: Path, tmp_path: Path) -> None:
    def rehearse(centres: int) -> Said:
        method = [{"use": "lora", "per_task": True, "modalities": ["audio"], "select": {"centres": centres}}]
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tiny_recipe(shared, tmp_path / "runs", method=method, train__batch=2)))
        return command("run", path, "--dry-run", "--json")

    found = rehearse(5)
    assert found.code == 0, found
    (plan,) = json.loads(found.out)["plans"]
    there = min(task["items"]["train"]["present"] for task in plan["tasks"])
    assert there > 2 * 2  # two batches: what is measured with is fewer
    assert rehearse(there).code == 0
    assert f"has {there} training samples with audio, fewer than the {there + 1} centres" in rehearse(there + 1).error


@pytest.mark.parametrize("oracle", [False, True])
def test_a_task_that_was_not_learned_is_served_as_the_nearest_that_was(oracle: bool) -> None:
    selector = Selector(SelectConfig(centres=1, oracle=oracle), "audio", 4, 2, 0)
    query = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    assert selector.choose(query, torch.tensor([3, 3])).tolist() == [0, 0]  # nothing was learned
    for number, centre in enumerate(([1.0, 0.0], [0.0, 1.0]), start=1):
        selector.begin(number)
        selector.learn(number, torch.tensor([centre, centre]))
    for unknown in (0, 3, 4):
        assert selector.choose(query, torch.tensor([unknown] * 2)).tolist() == [1, 2]
    assert selector.choose(query, torch.tensor([2, 1])).tolist() == ([2, 1] if oracle else [1, 2])


@pytest.mark.parametrize("name", OF_TASKS)
def test_inputs_of_a_task_that_was_not_learned_are_served_by_one_that_was(name: str, towers: Build) -> None:
    of = towers()
    model, chain = build([part(name)], of)
    learn(model, chain, of, 1)
    x, _ = mixed(of, "audio")
    served = features(model, chain, "audio", x)
    assert torch.equal(features(model, chain, "audio", x, task=torch.full((len(x),), 3)), served)
    with torch.no_grad():
        assert not torch.equal(served, of["audio"](x))


def test_prompts_of_a_task_that_there_is_not_are_an_error(towers: Build) -> None:
    model, chain = build(["sprompts"], towers())
    bank = chain.prompter.bank
    assert len(bank("audio", torch.tensor([1, TASKS]))[0]) == 2
    for number in (0, -1, TASKS + 1):  # -1 would be the last but one in a list
        with pytest.raises(IndexError):
            bank("audio", torch.tensor([1, number]))
    with pytest.raises(IndexError, match="task 0.*count from 1"):
        spread(torch.tensor([0, 1]))


# States


@pytest.mark.parametrize("name", OF_TASKS)
def test_the_state_of_another_number_of_tasks_is_refused(name: str, towers: Build) -> None:
    of = towers()
    _, three = build([part(name)], of)
    for tasks in (2, 3):
        _, chain = build([part(name)], of, tasks=tasks)
        if tasks == TASKS:
            chain.load_state_dict(three.state_dict(), strict=True)
            continue
        for into, state in ((chain, three.state_dict()), (three, chain.state_dict())):
            with pytest.raises(RuntimeError, match=r"(?s)loading state_dict.*(key|size mismatch)"):
                into.load_state_dict(state, strict=True)


def test_an_encoder_that_lacks_a_task_or_has_one_too_many_is_refused(shared: Path, tmp_path: Path) -> None:
    deep = {f"towers__{m}__layers": 1 for m in ("audio", "text")}
    recipe = tiny(
        shared, tmp_path, method=[part("lora", modalities=["audio"], select={"centres": 2})], examples=0, **deep
    )
    folder = Path(shutil.copytree(Session(recipe).go().folder, tmp_path / "moved"))
    file = folder / "encoders" / "after-3.safetensors"
    whole, own = load_file(file), "method.updates.2.audio.b.body/blocks/0/qkv"
    assert polymnia.load(folder).task == 3
    more = {own.replace("updates.2", "updates.3"): whole[own].clone()}
    for state in ({k: v for k, v in whole.items() if k != own}, whole | more, whole | {own: whole[own][:, :2]}):
        save_file({k: v.contiguous() for k, v in state.items()}, file)
        with pytest.raises(UserError, match=r"these weights do not fit the recipe: updates\.[23]\.audio\.b"):
            polymnia.load(folder)
