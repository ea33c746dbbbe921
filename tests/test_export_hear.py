"""A run as a module of HEAR: what is in it, what it gives, and what the validator catches in flawed ones."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command import command
from hypothesis import given, settings
from hypothesis import strategies as some
from small_run import small_recipe, small_root, small_run
from torch import Tensor, nn

import polymnia as pm
from polymnia.continual.chain import Chain
from polymnia.export import hear, stamps
from polymnia.export.hear import HearModel
from polymnia.export.modules import export_hear, write_hear
from polymnia.export.validate import Problem, check_stamps, find_module, validate
from polymnia.models.towers import tiny_audio
from polymnia.models.towers.tiny_audio import Tower
from polymnia.types import UserError

RATE = 16000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The small run's module; the run that it came from is gone."""
    folder = tmp_path_factory.mktemp("hear")
    run = shutil.copytree(small_run(), folder / "my-run")
    export_hear(run, folder / "out")
    shutil.rmtree(run)
    before = list(sys.path)
    yield find_module(str(folder / "out"))
    sys.path[:] = before


@pytest.fixture(scope="module")
def conv() -> Tower:
    """A tower that sees 15 log-mel frames at a time, and so the same in a window as in the whole."""
    torch.manual_seed(0)
    cfg = tiny_audio.Config(arch="conv", layers=3, width=8, n_mels=8, seconds=0.2)
    tower = Tower(cfg)
    for norm in (m for m in tower.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        tower(sound(4, 1.0))
    return tower.eval()


def sound(clips: int, seconds: float, rate: int = RATE) -> Tensor:
    noise = torch.rand(clips, int(seconds * rate), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return noise * torch.linspace(1, 0.1, noise.shape[1]) ** 2


def test_the_module_gives_what_the_towers_features_are_in_the_run(exported: ModuleType) -> None:
    model, audio = exported.load_model(), sound(2, 0.7)
    tower = pm.load(small_run()).model.tower("audio")
    with torch.no_grad():
        assert torch.equal(exported.get_scene_embeddings(audio, model), tower(audio))
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16000, 16, 16)
    assert validate(exported) == []


def test_the_module_names_its_run_and_no_folder_of_the_machine_that_made_it(exported: ModuleType) -> None:
    folder = Path(str(exported.__file__)).parent
    assert exported.__name__ == "polymnia_my_run"
    said = yaml.safe_load((folder / "export.yaml").read_text())
    assert (said["run"], said["task"], said["timestamps"]) == ("my-run", 2, "frames")
    for path in (*folder.glob("*.yaml"), *folder.glob("*.py"), *folder.parent.glob("*.*")):
        assert str(small_root()) not in path.read_text()


def test_pip_makes_a_wheel_of_it_with_weights_and_settings_inside(exported: ModuleType, tmp_path: Path) -> None:
    project = Path(str(exported.__file__)).parents[1]
    build = f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"
    source = shutil.copytree(project, tmp_path / "source")
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    inside = zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist()
    wanted = {f"polymnia_my_run/{f}" for f in ("__init__.py", "weights.safetensors", "export.yaml", "recipe.yaml")}
    assert wanted <= set(inside)


@pytest.mark.parametrize(
    "called", ['it\'s "quoted"', 'a""" + exit() + """b', "back\\slash", "two\nlines {x}", "caf\u00e9"]
)
def test_whatever_a_run_is_called_its_module_is_python_and_toml(tmp_path: Path, conv: Tower, called: str) -> None:
    part = tiny_audio.Config(arch="conv", layers=3, width=8, n_mels=8, seconds=0.2).model_dump(mode="json")
    write_hear(tmp_path / "out", "polymnia_odd", conv, {"use": "tiny_audio", **part}, {"run": called, "task": 1})
    project = tomllib.loads((tmp_path / "out/pyproject.toml").read_text())["project"]
    tree = ast.parse((tmp_path / "out/polymnia_odd/__init__.py").read_text())
    first, last = called[0], called[-1]  # letters at one end at least, which are kept
    assert {first, last} & set(project["description"]) and {first, last} & set(str(ast.get_docstring(tree)))
    assert "exit()" not in [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def test_files_beside_a_module_hide_no_library_and_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "beside_own"
    package.mkdir()
    (package / "__init__.py").write_text("import beside_helper, colorsys\nfrom beside_own import inner\n")
    (package / "inner.py").write_text("")
    (tmp_path / "beside_helper.py").write_text("")
    (tmp_path / "colorsys.py").write_text("raise SystemExit\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("beside_own", "beside_own.inner", "beside_helper", "colorsys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = find_module(str(tmp_path))
    assert str(module.__file__) == str(package / "__init__.py") and module is find_module(str(package))
    assert sys.modules["colorsys"].__file__ != str(tmp_path / "colorsys.py")
    for name in ("beside_own", "beside_own.inner", "beside_helper"):
        del sys.modules[name]


def test_the_module_of_a_folder_is_the_one_there_and_not_another_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json/__init__.py").write_text("")
    with pytest.raises(UserError, match="another 'json' is loaded"):
        find_module(str(tmp_path))
    (tmp_path / "json").rename(tmp_path / "half_a_module")
    (tmp_path / "half_a_module/__init__.py").write_text("import not_there_at_all")
    for _ in range(2):
        with pytest.raises(UserError, match="cannot import .*half_a_module.*: No module named 'not_there_at_all'"):
            find_module(str(tmp_path))


def test_weights_of_the_run_after_another_task_can_be_given(exported: ModuleType, tmp_path: Path) -> None:
    audio = sound(1, 0.7)
    first = exported.load_model(str(small_run() / "encoders" / "after-1.safetensors"))
    name = export_hear(small_run(), tmp_path / "one", task=1)
    one = find_module(str(tmp_path / "one"))
    assert name == one.__name__ and name.endswith("_task1")
    found = [m.get_scene_embeddings(audio, n) for m, n in ((exported, first), (one, one.load_model()))]
    assert torch.equal(*found)
    assert not torch.allclose(found[0], exported.get_scene_embeddings(audio, exported.load_model()), atol=1e-4)


def test_options_choose_the_timestamps_and_left_over_ones_are_refused(exported: ModuleType) -> None:
    assert exported.load_model("", timestamps="sliding").timestamps == "sliding"
    with pytest.raises(UserError, match="unknown option 'timestamp'; did you mean 'timestamps'"):
        exported.load_model(timestamp="sliding")
    with pytest.raises(UserError, match="timestamps must be 'frames' or 'sliding', not 'all'"):
        exported.load_model(timestamps="all")


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone.safetensors", "no weights at"), ("cut.safetensors", "truncated"), ("frozen.safetensors", "does not fit")],
)
def test_weights_that_are_none_of_this_tower_are_refused(
    exported: ModuleType, tmp_path: Path, path: str, message: str
) -> None:
    shutil.copyfile(small_run() / "frozen.safetensors", tmp_path / "frozen.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "frozen.safetensors").read_bytes()[:99])
    with pytest.raises(UserError, match=message):
        exported.load_model(str(tmp_path / path))


@pytest.mark.parametrize(
    "bad", [torch.zeros(RATE), torch.zeros(1, 1, RATE), torch.zeros(2, 0), torch.zeros(1, 9, dtype=torch.int16)]
)
def test_what_is_no_batch_of_sounds_is_refused(exported: ModuleType, bad: Tensor) -> None:
    with pytest.raises(UserError, match="audio must be"):
        hear._ready(bad, exported.load_model())


def test_a_clip_with_nan_is_refused(exported: ModuleType) -> None:
    with pytest.raises(UserError, match="NaN"):
        exported.get_scene_embeddings(torch.full((1, RATE), torch.nan), exported.load_model())


def test_runs_that_hear_cannot_take_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fast(part: dict[str, Any]) -> None:
        part |= {"sample_rate": 11025, "seconds": 6400 / 11025}

    with pytest.raises(UserError, match="towers.audio takes 11025 Hz; HEAR has 16000, 22050, 32000"):
        export_hear(edited(tmp_path, fast), tmp_path / "out")
    with pytest.raises(UserError, match="is no run folder"):
        export_hear(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="already holds something"):
        export_hear(small_run(), tmp_path / "full")
    encoder = pm.load(small_run())
    monkeypatch.setattr(Chain, "prompting", property(lambda self: True))
    monkeypatch.setattr("polymnia.export.modules.load", lambda *_: encoder)
    with pytest.raises(UserError, match="puts prompts into the towers"):
        export_hear(small_run(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The small run with another audio tower in its recipe, whose weights have the same shapes."""
    run = shutil.copytree(small_run(), folder / "edited")
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    change(raw["towers"]["audio"])
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return run


def test_frames_are_refused_of_a_tower_that_has_none(monkeypatch: pytest.MonkeyPatch, conv: Tower) -> None:
    monkeypatch.delattr(Tower, "frames")
    with pytest.raises(UserError, match="has no features over time: use timestamps 'sliding'"):
        HearModel(conv, "frames")


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("polymnia.export.modules.save_tensors", full)
    with pytest.raises(OSError):
        export_hear(small_run(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_and_checks(tmp_path: Path) -> None:
    code, out, err = command("export", "hear", small_run(), tmp_path / "out", "--timestamps", "sliding")
    name = out.split(":")[0]
    assert code == 0, err
    code, out, _ = command("export", "check", tmp_path / "out")
    assert code == 0 and f"{name} keeps the common API" in out
    assert "cannot import 'no_such_module'" in command("export", "check", "no_such_module").error
    assert "holds 0 Python packages" in command("export", "check", small_root()).error
    init = tmp_path / "out" / name / "__init__.py"
    init.write_text(init.read_text() + "\n\ndel get_scene_embeddings\n")
    importlib.reload(sys.modules[name])
    code, out, _ = command("export", "check", tmp_path / "out")
    assert code == 1 and out == "error: the module has no function 'get_scene_embeddings'\n"


# Timestamps


@settings(deadline=None, max_examples=40)
@given(some.integers(1, 200_000), some.sampled_from([16000, 22050, 32000, 44100, 48000]))
def test_timestamps_are_the_multiples_of_50_ms_within_the_clip(samples: int, rate: int) -> None:
    at = stamps.milliseconds(samples, rate).double()
    assert torch.equal(at, torch.arange(len(at)) * 50.0)
    assert at[-1] * rate <= 1000 * samples < (at[-1] + 50) * rate


@pytest.mark.parametrize("rate", [22050, 44100])
def test_sliding_windows_do_not_drift_at_rates_whose_hop_is_no_whole_number(rate: int) -> None:
    starts = stamps.centred(1200 * rate, rate, rate)
    centres = (starts + rate // 2).double() / rate  # seconds
    assert (centres - torch.arange(24001).double() / 20).abs().max() <= 0.5 / rate + 1e-9


@settings(deadline=None, max_examples=60)
@given(some.integers(1, 5000), some.integers(1, 700))
def test_equal_windows_cover_a_clip_and_share_at_most_a_sample(samples: int, most: int) -> None:
    starts, length = stamps.equal_windows(samples, most)
    assert starts[0] == 0 and starts[-1] + length == samples and length <= most
    assert len(starts) == -(-samples // most)
    assert all(length - 1 <= b - a <= length for a, b in zip(starts, starts[1:], strict=False))


@settings(deadline=None, max_examples=60)
@given(some.integers(1, 200_000), some.integers(4000, 50_000), some.integers(1, 6000))
def test_every_timestamp_lies_well_inside_the_window_that_it_is_taken_from(
    samples: int, most: int, stride: int
) -> None:
    windows = list(stamps.overlapping(samples, most, stride, count := stamps.count(samples, RATE), RATE))
    assert [w.first for w in windows[1:]] == [w.last for w in windows[:-1]]
    assert windows[0].first == 0 and windows[-1].last == count and windows[-1].stop == samples
    for w in windows:
        assert w.stop - w.start <= most and (stride > most * 3 // 4 or w.start % stride == 0)
        first, last = (k * RATE // 20 for k in (w.first, w.last - 1))
        if w.last > w.first:
            assert w.start == 0 or first - w.start >= most // 8 - 1
            assert w.stop == samples or w.stop - last >= most // 8 - 1


def test_interpolation_is_linear_and_holds_the_ends() -> None:
    rows, centres = torch.randn(2, 4, 3), torch.tensor([0.11, 0.43, 0.75, 1.07])
    at = torch.arange(26) * 0.05
    found = stamps.interpolate(rows, centres, at)
    wanted = [[np.interp(at, centres, rows[b, :, o]) for o in range(3)] for b in range(2)]
    assert np.allclose(found.mT.numpy(), wanted, atol=1e-6)
    assert torch.equal(stamps.interpolate(rows[:, :1], centres[:1], at), rows[:, :1].expand(2, 26, 3))


def test_frames_of_a_long_clip_are_those_of_the_whole(conv: Tower) -> None:
    audio, whole = sound(2, 7.3), HearModel(conv, "frames")
    pieces = HearModel(conv, "frames")
    pieces.spec = replace(conv.spec, max_seconds=1.6)
    found, wanted = (hear.get_timestamp_embeddings(audio, m)[0] for m in (pieces, whole))
    assert found.shape == (2, 147, conv.out_dim)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_sliding_embedding_is_the_towers_of_the_second_around_it(conv: Tower) -> None:
    audio = sound(2, 2.0)
    found, at = hear.get_timestamp_embeddings(audio, HearModel(conv, "sliding"))
    assert at[0].tolist() == [50.0 * k for k in range(41)]
    with torch.no_grad():
        assert torch.allclose(found[:, 20], conv(audio[:, 8000:24000]), atol=1e-5)  # 1 s: 0.5 to 1.5
        start = torch.cat([torch.zeros(2, 8000), audio[:, :8000]], dim=1)
        assert torch.allclose(found[:, 0], conv(start), atol=1e-5)


def test_twenty_minutes_go_through_in_pieces_of_bounded_size(conv: Tower) -> None:
    seen: list[int] = []
    model = HearModel(conv, "frames")
    hook = conv.mel.register_forward_pre_hook(lambda _, given: seen.append(given[0].numel()))
    audio = sound(1, 1200.0)
    stamped, at = hear.get_timestamp_embeddings(audio, model)
    scene = hear.get_scene_embeddings(audio, model)
    hook.remove()
    assert stamped.shape == (1, 24001, conv.out_dim) and at[0, -1] == 1_200_000 and scene.isfinite().all()
    assert max(seen) <= hear.AT_ONCE * RATE


# What the validator catches


def module(model: Any = None, stamped: Callable[[Tensor], Any] | None = None, scene: Any = None) -> ModuleType:
    """A module without a flaw but for what is given."""
    made = ModuleType("made")

    def stamp(audio: Tensor, model: Any) -> tuple[Tensor, Tensor]:
        at = torch.arange(audio.shape[1] // 800 + 1) * 50.0
        return torch.zeros(len(audio), len(at), 3), at.expand(len(audio), -1)

    good = Named(sample_rate=RATE, scene_embedding_size=3, timestamp_embedding_size=3)
    made.load_model = lambda *_: good if model is None else model  # type: ignore[attr-defined]
    made.get_timestamp_embeddings = (  # type: ignore[attr-defined]
        stamp if stamped is None else lambda audio, m: stamped(*stamp(audio, m))  # type: ignore[call-arg]
    )
    made.get_scene_embeddings = scene or (lambda audio, m: torch.zeros(len(audio), 3))  # type: ignore[attr-defined]
    return made


class Named(nn.Module):
    def __init__(self, **attributes: Any):
        super().__init__()
        vars(self).update(attributes)


GOOD = {"sample_rate": RATE, "scene_embedding_size": 3, "timestamp_embedding_size": 3}


def test_a_module_without_a_flaw_has_no_problem() -> None:
    assert validate(module(), device="cpu") == []


@pytest.mark.parametrize(
    ("flawed", "message"),
    [
        (module(stamped=lambda e, t: (e, t / 1000)), "end at 1.05 ms of 1070 ms (seconds instead of milliseconds?)"),
        (module(stamped=lambda e, t: (e, t + 30)), "behind the end of the clip"),
        (module(stamped=lambda e, t: (e, t + 5 * (t == 100))), "timestamps are not regular"),
        (module(stamped=lambda e, t: (e[:, :-4], t[:, :-4])), "timestamps end at 850 ms of 1070 ms"),
        (module(stamped=lambda e, t: (e, t.double())), "timestamps are torch.float64"),
        (module(stamped=lambda e, t: (e.half(), t)), "embeddings are torch.float16"),
        (module(stamped=lambda e, t: (e[:1], t[:1])), "embeddings have the shape (1, 22, 3), not (2, t, 3)"),
        (module(stamped=lambda e, t: (e, t[:, 1:])), "(2, 22, 3) embeddings have (2, 21) timestamps"),
        (module(stamped=lambda e, t: (e, t[0])), "timestamps have the shape (22,), not (2, t)"),
        (module(stamped=lambda e, t: (e.mean(1), t)), "embeddings have the shape (2, 3), not (2, t, 3)"),
        (module(stamped=lambda e, t: (e[..., :2], t)), "embeddings have the shape (2, 22, 2), not (2, t, 3)"),
        (module(stamped=lambda e, t: (e.requires_grad_(), t)), "embeddings carry a gradient"),
        (module(stamped=lambda e, t: 1 / 0), "get_timestamp_embeddings, 1.07 s: ZeroDivisionError"),
        (module(scene=lambda a, m: torch.zeros(len(a), 2)), "get_scene_embeddings, 2.74 s: embeddings have the shape"),
        (module(scene=lambda a, m: torch.zeros(3, 3)), "embeddings have the shape (3, 3), not (4, 3)"),
        (module(scene=lambda a, m: torch.zeros(4, 3).double()), "embeddings are torch.float64"),
        (module(model=object()), "load_model gave a object, not a torch.nn.Module"),
        (module(model=Named(**GOOD | {"sample_rate": 8000})), "model.sample_rate is 8000"),
        (module(model=Named(**GOOD | {"sample_rate": 16000.0})), "model.sample_rate must be an int, not 16000.0"),
        (module(model=Named(**GOOD | {"scene_embedding_size": np.int64(3)})), "scene_embedding_size must be an int"),
        (module(model=Named(sample_rate=RATE, scene_embedding_size=3)), "timestamp_embedding_size must be an int"),
    ],
)
def test_the_validator_calls_a_flaw_an_error(flawed: ModuleType, message: str) -> None:
    problems = validate(flawed, device="cpu")
    assert [p for p in problems if p.level == "error" and message in p.message], problems


@pytest.mark.parametrize(
    ("at", "levels"),
    [
        (np.arange(21) * 50.0, []),
        (np.arange(17) * 60.0, ["warning"]),  # wider than advised
        (np.arange(1, 20) * 50.0 + 20, ["warning"]),  # begins late
        (np.arange(20) * 49.5, ["warning"]),  # ends more than 50 ms early
        (np.arange(19) * 50.0, ["warning"]),  # two steps early: not yet an error
        (np.arange(18) * 50.0, ["error"]),
        (np.arange(21) * 50.0 + 1, ["error"]),  # a millisecond behind the end
        (np.arange(21) * 50.0 - np.eye(21)[3] * 0.9, ["warning"]),  # within the millisecond, but one step of 50.9
        (np.arange(21) * 50.0 - np.eye(21)[3] * 1.1, ["warning", "error"]),
        (np.array([0.0]), []),
    ],
)
def test_the_rules_for_timestamps_of_one_second_are_the_validators(at: np.ndarray, levels: list[str]) -> None:
    assert [p.level for p in check_stamps(np.stack([at, at]), 1.0)] == levels


def test_a_problem_reads_as_a_line() -> None:
    assert str(Problem("warning", "it is late")) == "warning: it is late"


def test_a_run_without_sound_has_nothing_to_export(tmp_path: Path) -> None:
    raw = small_recipe(small_root(), out=str(tmp_path / "runs"), stages=[], method=[])
    del raw["towers"]["audio"], raw["heads"]
    raw["towers"]["image"]["frozen"] = False
    raw["tasks"] = [t | {"pairs": [["image", "text"]]} for t in raw["tasks"][:1]]
    with pytest.raises(UserError, match="has no audio tower"):
        export_hear(pm.run(raw).folder, tmp_path / "out")
