"""CLIP's image tower against transformers' own model and preprocessing."""

import json
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from real import DATA, needs_data

from polymnia.data.media import decode_image, fit_image
from polymnia.data.store import open_image_store
from polymnia.models.hub import hide_broken_torchvision
from polymnia.models.towers.clip_image import MEAN, STD, Config, Tower
from polymnia.types import ImageFile, ImageSpec, UserError

SIZES = [(300, 451), (451, 300), (500, 333), (224, 225), (225, 224), (37, 91), (101, 2999), (1, 30), (3, 2)]


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def preprocessed(image: Image.Image, **settings: object) -> np.ndarray:
    """By transformers; uint8 without ``do_rescale`` and ``do_normalize``."""
    hide_broken_torchvision()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**settings)(image, return_tensors="np")["pixel_values"][0]


def as_clip(image: Image.Image) -> np.ndarray:
    return preprocessed(image, do_rescale=False, do_normalize=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoints.clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("size", SIZES)
def test_a_resized_and_cropped_picture_is_clips_to_the_bit(size: tuple[int, int]) -> None:
    image = picture(*size)
    np.testing.assert_array_equal(fit_image(image, 224, 3, "resize_crop"), as_clip(image))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_is_clips_too(mode: str) -> None:
    image = picture(30, 50).convert(mode)
    np.testing.assert_array_equal(fit_image(image, 224, 3, "resize_crop"), as_clip(image))


def test_a_strip_too_long_to_be_resized_as_a_whole_is_cut_where_clip_cuts_it() -> None:
    ramp = np.tile(np.linspace(0, 255, 3000).astype(np.uint8)[:, None], (1, 90))
    image = Image.fromarray(ramp).convert("RGB")
    ours = fit_image(image, 64, 3, "resize_crop")
    expected = preprocessed(
        image, size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_rescale=False, do_normalize=False
    )
    assert np.abs(ours.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(20000, 1), (1, 20000)])
def test_a_strip_of_one_pixel_is_not_enlarged_to_a_billion(shape: tuple[int, int], monkeypatch) -> None:
    sizes: list[int] = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda i, s, *a, **k: sizes.append(s[0] * s[1]) or resize(i, s, *a, **k)
    )
    x = fit_image(Image.new("RGB", shape, (10, 200, 30)), 224, 3, "resize_crop")
    assert (x == np.uint8([10, 200, 30])[:, None, None]).all()
    assert max(sizes) <= 32 * 224**2


@needs_data
def test_a_photograph_is_clips_though_a_draft_of_it_would_be_smaller() -> None:
    path = DATA / "coco_mini" / "val2017" / "000000012280.jpg"
    with Image.open(path) as image:
        assert min(image.size) > 4 * 32  # the other rule decodes such a JPEG at half its size or less
        image.load()
    settings = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    expected = preprocessed(image, **settings, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(decode_image(ImageFile(path), 32, 3, "resize_crop"), expected)


def test_the_two_rules_are_stored_apart(tmp_path: Path) -> None:
    picture(40, 67).save(tmp_path / "a.png")
    source = ImageFile(tmp_path / "a.png")
    square = open_image_store([source], 16, 3, tmp_path / "cache").read(0)
    cropped = open_image_store([source], 16, 3, tmp_path / "cache", fit="resize_crop").read(0)
    np.testing.assert_array_equal(square, decode_image(source, 16, 3))
    np.testing.assert_array_equal(cropped, decode_image(source, 16, 3, "resize_crop"))
    assert not np.array_equal(square, cropped)


def test_features_are_what_clip_gives_for_the_same_pictures(folder: str) -> None:
    from transformers import CLIPModel

    images = [picture(20, 33), picture(31, 17), picture(16, 16)]
    sized = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    pixels = torch.from_numpy(np.stack([preprocessed(i, **sized) for i in images]).astype(np.float32))
    with checkpoints.quiet():
        model = CLIPModel.from_pretrained(folder).eval()
    tower = Tower(Config(model=folder))
    assert tower.spec == ImageSpec(16, 3, "resize_crop")
    raw = [fit_image(i, tower.spec.size, tower.spec.channels, tower.spec.fit) for i in images]
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
        assert torch.allclose(tower(tower.prepare(raw)), expected, atol=1e-5)


def edited(folder: str, target: Path, **changes: object) -> str:
    shutil.copytree(folder, target)
    path = target / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(target)


def test_means_come_from_the_checkpoint_or_are_clips_own(folder: str, tmp_path: Path) -> None:
    changed = Tower(Config(model=edited(folder, tmp_path / "a", image_mean=[0.5] * 3, image_std=[0.25] * 3)))
    assert changed.mean.flatten().tolist() == [0.5] * 3
    assert changed.std.flatten().tolist() == [0.25] * 3
    (tmp_path / "a" / "preprocessor_config.json").unlink()
    plain = Tower(Config(model=str(tmp_path / "a")))
    assert torch.allclose(plain.mean.flatten(), torch.tensor(MEAN))
    assert torch.allclose(plain.std.flatten(), torch.tensor(STD))


def test_one_file_for_all_parts_is_read_as_well(folder: str, tmp_path: Path) -> None:
    target = Path(edited(folder, tmp_path / "a", image_mean=[0.5] * 3))
    stated = json.loads((target / "preprocessor_config.json").read_text())
    (target / "preprocessor_config.json").unlink()
    (target / "processor_config.json").write_text(json.dumps({"image_processor": stated}))
    assert Tower(Config(model=str(target))).mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"height": 16, "width": 16}),
        ("size", 18),
        ("crop_size", {"height": 18, "width": 18}),
        ("resample", 2),
        ("rescale_factor", 1.0),
        ("do_center_crop", False),
        ("image_mean", [0.5]),
    ],
)
def test_another_preprocessing_is_refused(folder: str, tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"has {key}: "):
        Tower(Config(model=edited(folder, tmp_path / "a", **{key: value})))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a model of type 'bert', and the CLIP image tower needs one of clip, "):
        Tower(Config(model=checkpoints.bert(tmp_path)))


def test_a_damaged_or_incomplete_checkpoint_is_refused(folder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    target = tmp_path / "a"
    shutil.copytree(folder, target)
    weights = target / "model.safetensors"
    state = load_file(weights)
    kept = {k: v for k, v in state.items() if "vision_model.encoder.layers.1." not in k}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lack {len(state) - len(kept)} tensors of its CLIPVisionModelWithProjection"):
        Tower(Config(model=str(target)))
    save_file(state | {"visual_projection.weight": torch.zeros(7, 16)}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="cannot load the CLIP image tower"):
        Tower(Config(model=str(target)))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot load the CLIP image tower .*is its folder complete"):
        Tower(Config(model=str(target)))
    weights.unlink()
    with pytest.raises(UserError, match="cannot load the CLIP image tower"):
        Tower(Config(model=str(target)))
    (target / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load the CLIP image tower"):
        Tower(Config(model=str(target)))
    with pytest.raises(UserError, match="no model in .*nowhere"):
        Tower(Config(model=str(tmp_path / "nowhere")))
