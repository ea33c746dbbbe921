"""PANNs checkpoints: every form in which they are found, and files that are something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import panns_public as public
import pytest
import torch

from polymnia.models.towers.panns import Config, Tower
from polymnia.types import UserError

State = public.State
ARCH = "mobilenetv1"
COUNTER = "num_batches_tracked"


@pytest.fixture(scope="module")
def state() -> State:
    return public.random_state(ARCH)


def without(state: State, *ends: str) -> State:
    return {k: v for k, v in state.items() if not k.endswith(ends)}


def sampler() -> dict[str, Any]:
    """What the sampler of the published training keeps: arrays, also of objects, and numpy's numbers."""
    ragged = np.array([[1, 2], [3]], dtype=object)
    return {
        "indexes_per_class": [np.arange(5), ragged],
        "queue": [np.int64(3), 4],
        "pointers_of_classes": [np.zeros(2)],
    }


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s},
    "trainer": lambda s: {"iteration": 600_000, "model": s, "sampler": sampler()},
    "parallel": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "no front end": lambda s: {"model": without(s, "conv_real.weight", "conv_imag.weight", "melW")},
    "no counters": lambda s: {"model": without(s, COUNTER)},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_published_layout_loads(state: State, form: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "MobileNetV1_mAP=0.389.pth"
    torch.save(FORMS[form](state), path, _use_new_zipfile_serialization=zipped)
    own = Tower(Config(arch=ARCH, checkpoint=path)).net.state_dict()
    assert own.keys() == public.shapes(ARCH).keys()
    assert all(torch.equal(own[k], state[k]) for k in own if not (form == "no counters" and k.endswith(COUNTER)))


def test_class_names_come_from_the_label_file_beside_the_checkpoint(state: State, tmp_path: Path) -> None:
    path, rows = tmp_path / "weights.pth", [f'{i},/m/{i},"sound, no. {i}"' for i in range(527)]
    torch.save(state, path)
    assert Tower(Config(arch=ARCH, checkpoint=path)).class_names[0] == "class 0"
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *rows]))
    assert Tower(Config(arch=ARCH, checkpoint=path)).class_names[526] == "sound, no. 526"


def narrow(state: State) -> State:
    """As Cnn14_emb512: the same names, another width."""
    return state | {"fc1.weight": torch.zeros(512, 1024), "fc1.bias": torch.zeros(512)}


def other_bands(state: State) -> State:
    fmax = public.mel_filters(32000, 1024, 16000)
    return state | {"logmel_extractor.melW": torch.tensor(fmax, dtype=torch.float32)}


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        (
            "mobilenetv2",
            lambda s: s,
            "no checkpoint of mobilenetv2: .* It is one of mobilenetv1: set arch: mobilenetv1",
        ),
        ("resnet22", lambda s: s, "no checkpoint of resnet22: conv_block1.conv1.weight is missing"),
        (ARCH, narrow, r"fc1.weight is \(512, 1024\), not \(1024, 1024\) .* fits none of .*mobilenetv1 comes nearest"),
        (ARCH, lambda s: s | {"attention.weight": torch.zeros(3)}, "attention.weight is too many"),
        (ARCH, lambda s: without(s, "fc1.bias"), r"fc1.bias is missing\. It fits none"),
        (ARCH, lambda s: {"fc1.weight": s["fc1.weight"]}, r"is missing \(and .* more faults\)"),
        (ARCH, lambda s: s | public.front_end(16000), r"another front end \(.*conv_real.weight is \(257, 1, 512\).*"),
        (ARCH, lambda s: s | public.front_end(16000), "wrong sample rate; it is for 16000 Hz: set rate: 16000"),
        (ARCH, other_bands, "melW has other values, of other mel bands.* only the front ends of 32000, 16000, 8000"),
        (ARCH, lambda s: s | {"logmel_extractor.melW": torch.full((513, 64), torch.nan)}, "melW has other values"),
        (ARCH, lambda s: s | {"fc1.bias": np.zeros(3)}, "holds a dict, not a state dict of tensors"),
    ],
)
def test_another_checkpoint_is_refused_with_the_way_out(
    state: State, arch: str, change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    torch.save({"model": change(state)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        Tower(Config(arch=arch, checkpoint=tmp_path / "w.pth"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 0.999])
def test_a_half_downloaded_file_is_refused(state: State, share: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(UserError, match="w.pth is (truncated|damaged or half-downloaded).*zenodo.org/record/3987831"):
        Tower(Config(arch=ARCH, checkpoint=path))


class Gadget:
    """What a hostile sampler would carry."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("gadget",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_objects_beside_the_weights_are_never_made(
    state: State, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    torch.save({"model": state, "sampler": Gadget()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="holds Python objects and is refused"):
        Tower(Config(arch=ARCH, checkpoint=path))
    assert not (tmp_path / "gadget").exists()


def test_numpy_makes_nothing_of_what_a_file_says(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays hold bytes that numpy would interpret: a file is not to reach it, wherever its functions live."""
    torch.save({"model": state, "sampler": sampler()}, tmp_path / "w.pth")
    monkeypatch.setattr("numpy._core.multiarray._reconstruct", lambda *a: pytest.fail("numpy was called"))
    found = Tower(Config(arch=ARCH, checkpoint=tmp_path / "w.pth")).net.state_dict()
    assert torch.equal(found["fc1.weight"], state["fc1.weight"])


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint not found: .*ResNet38_mAP=0.434.pth"):
        Tower(Config(arch="cnn6", checkpoint=tmp_path / "none.pth"))
