"""Parts: found by the name of their file, in a user's own module too, and validated by that file's Config."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from polymnia.config import Frozen, MethodPart, Part, explain, find, names, nearest, parse_part
from polymnia.types import UserError

LAYERS = ("methods", "models.towers", "data.datasets", "eval.evaluators")
OWN = "from polymnia.config import Frozen\nclass Config(Frozen):\n    size: int = 3\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory for modules of a user's own; what was imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


class Inner(Frozen):
    size: int = 1


class Outer(Frozen):
    inner: Inner = Inner()
    method: MethodPart | None = None


@pytest.mark.parametrize("layer", LAYERS)
def test_the_files_of_a_folder_are_the_names_of_its_parts(layer: str):
    import polymnia

    folder = Path(polymnia.__file__).parent.joinpath(*layer.split("."))
    assert names(layer) == sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def test_a_part_is_a_name_or_a_name_with_settings():
    assert parse_part("methods", "lwf") == parse_part("methods", {"use": "lwf"})
    part = parse_part("methods", {"use": "lwf", "weight": 0.5})
    assert part.config.weight == 0.5 and part.module.__name__ == "polymnia.methods.lwf"
    assert parse_part("methods", part) is part


def test_a_part_dumps_to_what_it_can_be_parsed_from():
    part = parse_part("models.towers", {"use": "tiny_audio", "width": 8})
    assert parse_part("models.towers", part.dump()) == part


def test_nothing_of_a_config_or_part_can_be_changed():
    part = parse_part("methods", "lwf")
    for thing, key in ((part, "use"), (part.config, "weight")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, key, "er")


def test_a_dotted_name_is_a_module_of_the_working_directory(own: Path):
    (own / "own_pkg").mkdir()
    (own / "own_pkg" / "part.py").write_text(OWN)
    part = parse_part("methods", {"use": "own_pkg.part", "size": 4})
    assert part.config.size == 4 and part.dump() == {"use": "own_pkg.part", "size": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "own_pkg.part has no class Config"),
        ("class Config: pass\n", "own_pkg.part has no class Config"),
        ("import own_not_there\n", "cannot import 'own_pkg.part' for methods: No module named 'own_not_there'"),
        ("from polymnia.types import Nothing\n", "cannot import 'own_pkg.part' for methods: cannot import name"),
        ("def f(:\n", "cannot import 'own_pkg.part' for methods: invalid syntax"),
    ],
)
def test_a_module_that_is_no_part_is_named_with_the_reason(own: Path, content: str, message: str):
    (own / "own_pkg").mkdir()
    (own / "own_pkg" / "part.py").write_text(content)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        find("methods", "own_pkg.part")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_others():
    with pytest.raises(
        UserError, match="no 'lfw' in methods; did you mean 'lwf'\\? known: cassle, .*; or a dotted name"
    ):
        find("methods", "lfw")
    assert nearest("zzzzzz", ["b", "a"]) == "known: a, b"


def test_an_unknown_key_is_refused_on_every_level():
    for raw, message in (
        ({"iner": {}}, "unknown key 'iner'; did you mean 'inner'?"),
        ({"inner": {"sise": 1}}, "inner: unknown key 'sise'; did you mean 'size'?"),
        (
            {"method": {"use": "lwf", "wait": 1}},
            "method: in methods 'lwf': unknown key 'wait'; did you mean 'weight'?",
        ),
    ):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate(raw)
        assert message in explain(caught.value)


def test_several_faults_are_told_together():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"size": "x"}, "method": {"use": "lwf", "weight": 7}})
    assert explain(caught.value).count("; ") == 1 and "inner.size: " in explain(caught.value)


def test_a_part_keeps_its_type_through_a_dump():
    outer = Outer(method={"use": "er", "rows": 5})  # type: ignore[arg-type]
    assert isinstance(outer.method, Part)
    assert Outer.model_validate(outer.model_dump(mode="json")) == outer
