"""Every audio tower, exported for HEAR: what its validator asks, and what the validator cannot see."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from polymnia.config import find, names, parse_part
from polymnia.export.hear import HearModel, has_frames
from polymnia.export.modules import RATES, write_hear
from polymnia.export.validate import find_module, validate
from polymnia.models.tower import AbstractTower

from .miniature_towers import MINIATURES
from .test_towers import rows, settle

AUDIO = [t for t in names("models.towers") if hasattr(find("models.towers", t), "AudioSpec")]
CASES = [(t, v) for t in AUDIO for v in MINIATURES.get(t, {})]


class Case(NamedTuple):
    """A tower, and the module that it was exported as, loaded where nothing else of it is left."""

    tower: AbstractTower
    module: ModuleType
    model: HearModel

    def clips(self, count: int, seconds: float) -> Tensor:
        noise = torch.rand(count, int(seconds * self.model.sample_rate), generator=torch.Generator().manual_seed(5))
        return (noise * 2 - 1) * torch.logspace(0, -1, count)[:, None]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: "-".join(c))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name, variant = request.param
    files, out = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp("exported")
    part = parse_part("models.towers", {"use": name, **MINIATURES[name][variant](files)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = part.module.Tower(part.config).eval()
    if tower.spec.sample_rate not in RATES:
        pytest.skip(f"HEAR has no recordings at {tower.spec.sample_rate} Hz")
    settle(tower, rows(tower, 4))
    called = f"polymnia_{name}_{variant}"
    write_hear(out, called, tower, part.dump(), {"run": called, "task": 1})
    shutil.rmtree(files)
    before = list(sys.path)
    module = find_module(str(out))
    yield Case(tower, module, module.load_model())
    sys.path[:] = before
    del sys.modules[called]


def test_it_passes_every_check_of_the_validator(case: Case) -> None:
    assert validate(case.module, device="cpu") == []


def test_scenes_are_the_features_of_the_tower(case: Case) -> None:
    spec = case.tower.spec
    audio = case.clips(2, min(spec.least / spec.sample_rate + 0.1, spec.max_seconds))  # in one piece
    with torch.no_grad():
        assert torch.allclose(case.module.get_scene_embeddings(audio, case.model), case.tower(audio), atol=1e-5)


def test_what_a_clip_gets_depends_on_no_other_clip(case: Case) -> None:
    audio = case.clips(3, 0.5)
    scenes = case.module.get_scene_embeddings(audio, case.model)
    stamped, at = case.module.get_timestamp_embeddings(audio, case.model)
    scale = scenes.abs().max()
    for i in range(3):
        alone = audio[i : i + 1]
        assert (case.module.get_scene_embeddings(alone, case.model) - scenes[i]).abs().max() < 1e-5 * scale
        rows_alone, at_alone = case.module.get_timestamp_embeddings(alone, case.model)
        assert (rows_alone - stamped[i]).abs().max() < 1e-5 * stamped.abs().max()
        assert torch.equal(at_alone[0], at[i])
    assert torch.pdist(scenes).min() > 1e-4 * scale


def test_clips_of_70_milliseconds_have_embeddings_at_0_and_50(case: Case) -> None:
    audio, least = case.clips(2, 0.07), case.tower.spec.least
    with torch.no_grad():
        wanted = case.tower(torch.nn.functional.pad(audio, (0, max(0, least - audio.shape[1]))))  # as in a run
    assert torch.allclose(case.module.get_scene_embeddings(audio, case.model), wanted, atol=1e-5)
    stamped, at = case.module.get_timestamp_embeddings(audio, case.model)
    assert stamped.isfinite().all() and at.tolist() == [[0.0, 50.0]] * 2


def test_long_clips_go_through_in_pieces_and_every_timestamp_gets_an_embedding(case: Case) -> None:
    spec, seen = case.tower.spec, []
    model = HearModel(case.model.tower, case.model.timestamps)
    model.spec = replace(spec, max_seconds=max(spec.least / spec.sample_rate, 0.7))
    most = round(model.spec.max_seconds * spec.sample_rate)
    audio = case.clips(1, 2.3 * model.spec.max_seconds)
    hook = model.tower.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    scene = case.module.get_scene_embeddings(audio, model)
    hook.remove()
    assert len(seen) == 3 and max(seen) <= most
    thirds = torch.stack([case.module.get_scene_embeddings(a, model) for a in audio.tensor_split(3, 1)])
    assert torch.allclose(scene, thirds.mean(0), atol=0.05 * float(thirds.abs().max()))
    stamped, at = case.module.get_timestamp_embeddings(audio, model)
    assert stamped.shape[1] == at.shape[1] == audio.shape[1] * 20 // spec.sample_rate + 1
    assert stamped.isfinite().all() and (stamped.abs().amax(2) > 0).all()


def test_a_sound_is_found_at_the_time_when_it_is_heard(case: Case) -> None:
    rate = case.model.sample_rate
    quiet = case.clips(1, 4.0) * 0.01
    for when in (0.8, 2.1, 3.3):
        loud = quiet.clone()
        loud[:, int((when - 0.1) * rate) : int((when + 0.1) * rate)] *= 100
        stamped, at = case.module.get_timestamp_embeddings(torch.cat([quiet, loud]), case.model)
        moved = (stamped[1] - stamped[0]).norm(dim=1)
        moved = (moved - moved.median()).clamp(min=0)  # attention over the whole clip moves every frame a little
        centre = float((moved * at[0]).sum() / moved.sum())
        assert abs(centre - 1000 * when) < 200, (centre, when)


def test_loading_and_running_leave_no_trace(case: Case) -> None:
    rng = torch.get_rng_state()
    model = case.module.load_model().train()
    audio = case.clips(1, 0.2).requires_grad_()
    first = case.module.get_scene_embeddings(audio, model)
    assert torch.equal(first, case.module.get_scene_embeddings(audio, case.model)) and not first.requires_grad
    assert not any(t.requires_grad for t in case.module.get_timestamp_embeddings(audio, model))
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(p.requires_grad for p in model.parameters())


def test_timestamps_come_from_the_tower_itself_where_it_has_features_over_time(case: Case) -> None:
    assert case.model.timestamps == ("frames" if has_frames(case.tower) else "sliding")
