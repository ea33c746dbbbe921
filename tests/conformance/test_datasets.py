"""What every file in ``polymnia/data/datasets`` must be and do; a new file is picked up by its name."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from polymnia.config import find, names
from polymnia.data.items import DatasetConfig
from polymnia.types import MODALITIES, AudioFile, Captions, ImageFile, Item, Split, UserError, VideoFile

from .miniatures import GENERATED, MINIATURES

KIND = {"audio": AudioFile, "image": (ImageFile, VideoFile), "text": Captions}


@pytest.fixture(params=names("data.datasets"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def module(name: str) -> ModuleType:
    return find("data.datasets", name)


@pytest.fixture
def settings(name: str, tmp_path: Path) -> dict[str, Any]:
    if name not in MINIATURES:
        pytest.fail(
            f"the data set '{name}' has no miniature: in tests/conformance/miniatures.py, write a function that makes "
            "a few files in its official layout and returns the settings of Config, and list it in MINIATURES"
        )
    folder = tmp_path / name
    folder.mkdir()
    return MINIATURES[name](folder)


@pytest.fixture
def items(module: ModuleType, settings: dict[str, Any]) -> Sequence[Item]:
    return module.items(module.Config(**settings))


def test_a_data_set_says_what_it_is(module: ModuleType) -> None:
    assert module.__doc__ and len(module.__doc__.split()) > 20, f"{module.__name__}: what, where from, licence, layout"


def test_a_data_set_has_a_frozen_config_of_the_common_kind(module: ModuleType) -> None:
    assert issubclass(module.Config, DatasetConfig)
    assert module.Config is not DatasetConfig
    assert module.Config.model_config["frozen"]


def test_items_is_a_function_of_the_config(module: ModuleType) -> None:
    assert typing.get_type_hints(module.items) == {"cfg": module.Config, "return": list[Item]}


def test_a_missing_root_is_named_with_the_way_out_or_generated(
    name: str, module: ModuleType, settings: dict[str, Any], tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    cfg = module.Config(**settings | {"root": nowhere})
    if name in GENERATED:
        assert module.items(cfg) and nowhere.is_dir()
        return
    with pytest.raises(UserError) as caught:
        module.items(cfg)
    assert str(nowhere) in str(caught.value)
    assert "data=" in str(caught.value)


def test_ids_are_unique(items: Sequence[Item]) -> None:
    assert len({item.id for item in items}) == len(items) > 0


def test_every_item_has_an_id_a_group_and_a_known_split(items: Sequence[Item]) -> None:
    for item in items:
        assert item.id.strip() and item.group.strip()
        assert item.split in typing.get_args(Split)


def test_every_item_has_sources_of_known_modalities(items: Sequence[Item]) -> None:
    for item in items:
        assert item.sources
        assert set(item.sources) <= set(MODALITIES)
        assert all(isinstance(source, KIND[m]) for m, source in item.sources.items())


def test_captions_are_filled(items: Sequence[Item]) -> None:
    texts = [item.sources["text"] for item in items if "text" in item.sources]
    assert all(captions.texts and all(t.strip() and "{" not in t for t in captions.texts) for captions in texts)


def test_the_files_of_the_sources_exist(items: Sequence[Item]) -> None:
    files = [s.path for item in items for s in item.sources.values() if not isinstance(s, Captions)]
    assert [path for path in files if not path.is_file()] == []


def test_a_second_call_gives_the_same_items_in_the_same_order(
    module: ModuleType, settings: dict[str, Any], items: Sequence[Item]
) -> None:
    assert module.items(module.Config(**settings)) == list(items)
