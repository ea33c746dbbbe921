"""PANNs: equal to the published networks, for clips of any length, in training and over time."""

from __future__ import annotations

from pathlib import Path

import panns_public as public
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from polymnia.models.panns import network
from polymnia.models.panns.archs import ARCHS, build
from polymnia.models.panns.blocks import Residual
from polymnia.models.panns.front import FRONTS, constants
from polymnia.models.prompting import Prompt
from polymnia.models.towers import panns
from polymnia.models.towers.panns import Config, Tower
from polymnia.ops.specaugment import mixup_weights
from polymnia.types import AudioSpec, UserError

COUNTS = {  # trainable parameters as published
    "resnet38": 73_783_247,
    "resnet22": 63_675_087,
    "resnet54": 104_318_159,
    "cnn14": 80_753_615,
    "cnn10": 5_219_279,
    "cnn6": 4_837_455,
    "mobilenetv1": 4_796_303,
    "mobilenetv2": 4_075_343,
}


def clips(rows: int, samples: int) -> Tensor:
    """Noise, each row softer than the one before."""
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))
    return (noise * torch.logspace(-0.5, -2, rows)[:, None]).clamp(-1, 1)


def loaded(arch: str, state: public.State, folder: Path, rate: int = 32000) -> Tower:
    path = folder / f"{arch}.pth"
    torch.save({"model": state}, path)
    tower = Tower(Config(arch=arch, rate=rate, checkpoint=path, seconds=1)).eval()
    path.unlink()  # some are large
    return tower


@pytest.fixture(scope="module")
def state() -> public.State:
    return public.random_state("mobilenetv1")


@pytest.fixture(scope="module")
def small(state: public.State, tmp_path_factory: pytest.TempPathFactory) -> Tower:
    """MobileNetV1, the quickest, with weights that do something in every layer."""
    return loaded("mobilenetv1", state, tmp_path_factory.mktemp("panns"))


@pytest.mark.parametrize("arch", COUNTS)
def test_it_has_the_published_number_of_parameters_names_and_shapes(arch: str) -> None:
    with torch.device("meta"):  # counting needs no memory
        net = build(arch)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[arch]
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == public.shapes(arch)
    assert set(ARCHS) == set(COUNTS)


@pytest.mark.parametrize(("arch", "tensors", "values"), [("resnet38", 246, 74_892_215), ("cnn14", 84, 81_853_340)])
def test_a_published_file_is_what_the_network_and_three_constants_hold(arch: str, tensors: int, values: int) -> None:
    with torch.device("meta"):
        stored = [*build(arch).state_dict().values()]
    stored += constants(FRONTS[32000]).values()
    assert (len(stored), sum(v.numel() for v in stored)) == (tensors, values)


@pytest.mark.parametrize("arch", ["resnet38", "cnn14", "cnn10", "cnn6", "mobilenetv1", "mobilenetv2"])
def test_embedding_and_scores_are_those_of_the_published_network(arch: str, tmp_path: Path) -> None:
    weights = public.random_state(arch)
    tower, x = loaded(arch, weights, tmp_path), clips(2, 22_000)
    with torch.inference_mode():
        h = tower(x)
        maps = public.coarse(arch, weights, public.standardised(weights, x))
        wanted = public.embedding(weights, maps)
        assert h.shape == (2, wanted.shape[1])
        assert (h - wanted).abs().max() < 1e-4
        assert 0.1 < wanted.std() < 30 and (wanted[0] - wanted[1]).abs().max() > 0.1  # else it would say nothing
        assert torch.allclose(tower.classify(h).sigmoid(), public.scores(weights, wanted), atol=1e-5)
        assert tower.out_dim == wanted.shape[1]


def test_the_maps_of_resnet54_are_those_of_the_published_network() -> None:
    net, weights = ARCHS["resnet54"]().eval(), public.random_state("resnet54")
    net.load_state_dict({k: v for k, v in weights.items() if k in net.state_dict()})
    with torch.inference_mode():
        picture = public.standardised(weights, clips(2, 11_000))
        wanted = public.coarse("resnet54", weights, picture)
        assert torch.allclose(net.coarse(picture[:, 0].mT), wanted, atol=1e-4)
        assert 0.1 < wanted.std() < 30


@pytest.mark.parametrize(("rate", "least"), [(32000, 9920), (16000, 4960), (8000, 2480)])
def test_every_rate_has_its_front_end_and_pads_up_to_one_coarse_frame(rate: int, least: int, tmp_path: Path) -> None:
    weights = public.random_state("mobilenetv1", rate)
    tower, x = loaded("mobilenetv1", weights, tmp_path, rate), clips(2, rate)
    assert tower.spec == AudioSpec(rate, 1.0, 30.0, 0.31) and tower.spec.least == least
    with torch.inference_mode():
        for n in (1, round(0.3 * rate), least - 1, least, rate):
            cut = x[:, :n]
            padded = torch.nn.functional.pad(cut, (0, max(0, least - n)))
            maps = public.coarse("mobilenetv1", weights, public.standardised(weights, padded, rate))
            assert maps.shape[2] == max(1, (n // (rate // 100) + 1) // 32)
            # a clip of zeros has every band at the floor of -100 dB, where float32 has few digits behind the point
            assert torch.allclose(tower(cut), public.embedding(weights, maps), atol=2e-4)


@pytest.mark.parametrize(("arch", "least"), [("cnn10", 4800), ("cnn6", 4800), ("cnn14", 9920), ("resnet38", 9920)])
def test_the_least_length_is_what_the_poolings_need(arch: str, least: int) -> None:
    if arch in ("cnn10", "cnn6"):
        assert Tower(Config(arch=arch)).spec.least == least  # no crop's length: evaluation pads no more than this
    with torch.device("meta"):
        net = build(arch).eval()
        assert (net.stride - 1) * FRONTS[32000].hop == least
        assert net.maps(torch.zeros(1, 1, least // 320 + 1, 64)).shape[2] == 1
        with pytest.raises(RuntimeError):
            net.maps(torch.zeros(1, 1, least // 320, 64))


def test_a_minute_will_do_and_two_passes_agree_to_the_bit(small: Tower) -> None:
    x = clips(1, 32000 * 60)
    with torch.inference_mode():
        out = small(x)
        assert out.isfinite().all() and torch.equal(out, small(x))


def test_a_row_alone_is_the_row_in_a_batch_for_clips_and_over_time(small: Tower) -> None:
    x = clips(3, 40_000)
    with torch.inference_mode():
        whole, (rows, _) = small(x), small.frames(x)
        for i in range(3):
            assert torch.allclose(small(x[i : i + 1])[0], whole[i], atol=1e-5)
            assert torch.allclose(small.frames(x[i : i + 1])[0][0], rows[i], atol=1e-5)


@pytest.mark.parametrize(("seconds", "count"), [(10, 31), (1.07, 3), (0.01, 1)])
def test_features_over_time_have_centres_in_seconds(small: Tower, seconds: float, count: int) -> None:
    with torch.inference_mode():
        rows, centres = small.frames(clips(1, round(seconds * 32000)))
    assert rows.shape == (1, count, 1024)
    assert torch.allclose(centres, torch.tensor([(32 * j + 15.5) * 0.01 for j in range(count)]), atol=1e-6)


def test_features_over_time_pool_three_neighbouring_frames(small: Tower, state: public.State) -> None:
    x = clips(2, 32000 * 2)
    with torch.inference_mode():
        rows, _ = small.frames(x)
        maps = public.coarse("mobilenetv1", state, public.standardised(state, x))
        assert maps.shape[2] == 6
        for j in range(6):
            near = maps[:, :, max(0, j - 1) : j + 2]
            assert torch.allclose(rows[:, j], public.embedding(state, near), atol=1e-4)
        single = x[:, :12_000]
        assert torch.allclose(small.frames(single)[0][:, 0], small(single), atol=1e-5)


def test_cnn10_gives_features_every_160_ms() -> None:
    tower = Tower(Config(arch="cnn10")).eval()
    with torch.inference_mode():
        rows, centres = tower.frames(clips(1, 32000))
    assert rows.shape == (1, 6, 512)
    assert torch.allclose(centres[:2], torch.tensor([0.075, 0.235]))


@pytest.mark.parametrize("frames", [2581, 2562, 2880, 2561, 3199])
def test_a_long_recording_is_convolved_in_stretches_with_the_same_result(
    small: Tower, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    x = clips(1, (frames - 1) * 320)
    with torch.inference_mode():
        whole, (rows, centres) = small(x), small.frames(x)
        monkeypatch.setattr(network, "STRETCH", 640)
        parts, _ = small.frames(x)
        assert rows.shape[1] == frames // 32 == len(centres)
        assert torch.allclose(parts, rows, atol=1e-5)
        assert torch.allclose(small(x), whole, atol=1e-5)


@pytest.mark.parametrize("arch", ["resnet38", "mobilenetv2"])  # of the others none sees as far
def test_a_coarse_frame_depends_on_no_more_than_the_margin_of_a_stretch(arch: str) -> None:
    net = ARCHS[arch]().eval()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())  # no cancellation, nothing saturates
    x = torch.full((1, 1, 1280, 32), 1e-3, requires_grad=True)
    (grad,) = torch.autograd.grad(net.maps(x)[:, :, 20].sum(), x)
    seen = grad.abs().sum((0, 1, 3)).nonzero().flatten()
    before, behind = 20 * 32 - int(seen[0]), int(seen[-1]) - (20 * 32 + 31)
    assert 256 < max(before, behind) <= network.MARGIN
    assert network.MARGIN % net.stride == 0 == network.STRETCH % net.stride


def test_it_starts_as_published() -> None:
    net = build("resnet22")
    blocks = [m for m in net.modules() if isinstance(m, Residual)]
    assert len(blocks) == 8
    assert all((b.bn2.weight == 0).all() and (b.bn1.weight == 1).all() for b in blocks)
    assert (net.fc1.bias == 0).all()
    kernel = net.resnet.layer2[1].conv1.weight
    bound = (6 / (128 * 9 + 128 * 9)) ** 0.5  # Xavier: sqrt(6 / (fan in + fan out))
    assert 0.99 * bound < kernel.abs().max() <= bound


def test_training_gives_half_the_features_twice(small: Tower) -> None:
    tower = Tower(Config(arch="mobilenetv1", specaug=False, seconds=1)).train()
    tower.net.load_state_dict(small.net.state_dict())
    tower.net.eval()  # which leaves the last dropout, the tower's own
    x = clips(4, 16_000)
    with torch.no_grad():
        h, out = tower.hidden(x), tower(x)
    assert torch.equal(h, small(x))
    kept = out != 0
    assert torch.allclose(out[kept], 2 * h[kept])
    assert abs(kept[h > 0].float().mean() - 0.5) < 0.1


def test_the_published_dropouts_are_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def dropout(x: Tensor, p: float, training: bool) -> Tensor:
        assert training
        drawn.append(p)
        return x

    monkeypatch.setattr("torch.nn.functional.dropout", dropout)
    wanted = {
        "resnet22": [0.2] + [0.1] * 8 + [0.2, 0.2, 0.5, 0.5],
        "cnn10": [0.2] * 4 + [0.5, 0.5],
        "cnn6": [0.2] * 4 + [0.5, 0.5],
        "mobilenetv1": [0.5, 0.5],
        "mobilenetv2": [0.0, 0.5],
    }
    for arch, rates in wanted.items():
        drawn.clear()
        Tower(Config(arch=arch)).train()(clips(1, 100))
        assert drawn == rates, arch


def test_specaugment_comes_behind_the_first_batch_norm_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    monkeypatch.setattr(panns, "specaugment", record)
    x = clips(4, 16_000)
    Tower(Config(arch="mobilenetv1", specaug=False)).train()(x)
    Tower(Config(arch="mobilenetv1")).eval()(x)
    assert seen == []
    Tower(Config(arch="mobilenetv1")).train()(x)
    assert seen[0].shape == (4, 64, 51)
    assert seen[0].mean((0, 2)).abs().max() < 1e-3  # each band has mean 0 and deviation 1 over the batch
    assert (seen[0].std((0, 2)) - 1).abs().max() < 0.01


def test_mixup_joins_pairs_of_standardised_pictures(small: Tower, state: public.State) -> None:
    x, mix = clips(4, 12_000), mixup_weights(2)
    with torch.inference_mode():
        picture = public.standardised(state, x)
        joined = torch.stack([mix[0] * picture[0] + mix[1] * picture[1], mix[2] * picture[2] + mix[3] * picture[3]])
        wanted = public.embedding(state, public.coarse("mobilenetv1", state, joined))
        assert torch.allclose(small.hidden(x, mix), wanted, atol=1e-4)


def test_supervised_training_with_mixup_reaches_every_weight() -> None:
    tower = Tower(Config(arch="mobilenetv1")).train()
    logits = tower.classify(tower.hidden(clips(4, 16_000), mixup_weights(2)))
    assert logits.shape == (2, 527)
    nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())


def test_a_single_sample_can_be_trained_on() -> None:
    assert Tower(Config(arch="mobilenetv2")).train()(clips(1, 1)).isfinite().all()


def test_it_says_what_it_is_and_refuses_prompts_and_crops_beyond_the_longest_clip(small: Tower) -> None:
    assert (small.modality, small.depth, small.out_dim, small.class_names[526]) == ("audio", 0, 1024, "class 526")
    with pytest.raises(UserError, match="takes no prompts"):
        small(clips(1, 10_000), Prompt(front=(torch.zeros(1, 1, 1024),)))
    with pytest.raises(ValidationError, match="longer than max_seconds"):
        Config(seconds=31)
    with pytest.raises(ValidationError, match="rate"):
        Config(rate=44100)
