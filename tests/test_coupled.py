"""Coupled prompts: tokens of one tower made from another's, by hand, and how many numbers that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from test_lpi_parts import array, shaken
from torch import nn

from polymnia.continual.coupled import Coupled, CoupledConfig
from polymnia.types import Modality

THREE = {"audio": (12,) * 3, "image": (8,) * 3, "text": (16,) * 3}
TWO = {m: THREE[m] for m in ("audio", "text")}


def coupled(widths: dict[Modality, Sequence[int]], **settings: Any) -> Coupled:
    torch.manual_seed(2)
    found = Coupled(CoupledConfig(**settings), widths).double()
    shaken(found)
    return found


def mapped(tokens: np.ndarray, of: nn.Linear) -> np.ndarray:
    return np.einsum("pi,oi->po", tokens, array(of.weight)) + array(of.bias)


@pytest.mark.parametrize("shared", [True, False])
def test_text_tokens_are_affine_maps_of_the_audio_tokens_of_the_same_block(shared: bool) -> None:
    bank = coupled(TWO, shared_linear=shared)
    audio, text = bank("audio", 2), bank("text", 2)
    assert len(audio.front) == len(text.front) == len(text.back) == 3 and not audio.back
    for block in range(3):
        a = array(bank.front["audio"].blocks[block])
        assert a.shape == (4, 12)
        which = 0 if shared else block
        for got, maps in ((text.front, bank.to_front), (text.back, bank.to_back)):
            expected = mapped(a, maps["text"].maps[which])
            assert got[block].shape == (2, 4, 16)
            assert np.allclose(array(got[block]), expected)  # both rows
        assert np.allclose(array(audio.front[block]), a)
        assert not np.allclose(array(text.front[block]), array(text.back[block]))
    assert len(bank.to_front["text"].maps) == len(bank.to_back["text"].maps) == (1 if shared else 3)


@pytest.mark.parametrize(
    ("coupling", "free", "mapped_to"),
    [
        ("a->t", {"front.audio"}, {"to_front.image", "to_front.text", "to_back.text"}),
        ("t->a", {"front.text", "back.text"}, {"to_front.audio", "to_front.image"}),
        ("none", {"front.audio", "front.image", "front.text", "back.text"}, set()),
    ],
)
def test_each_coupling_has_its_free_tokens_and_its_maps(coupling: str, free: set, mapped_to: set) -> None:
    bank = coupled(THREE, coupling=coupling)
    held = {n.rsplit(".", 2)[0] for n, _ in bank.front.named_parameters("front")}
    held |= {n.rsplit(".", 2)[0] for n, _ in bank.back.named_parameters("back")}
    assert held == free
    maps = {f"{k}.{m}" for k in ("to_front", "to_back") for m in getattr(bank, k)}
    assert maps == mapped_to
    for m, widths in THREE.items():
        prompt = bank(m, 1)
        assert [t.shape[2] for t in prompt.front] == list(widths)
        assert len(prompt.back) == (3 if m == "text" else 0)


def test_where_text_leads_the_other_towers_have_maps_of_its_front_tokens() -> None:
    bank = coupled(THREE, coupling="t->a")
    lead = array(bank.front["text"].blocks[1])
    assert np.allclose(array(bank("text", 1).front[1]), lead)
    for m in ("audio", "image"):
        assert np.allclose(array(bank(m, 1).front[1][0]), mapped(lead, bank.to_front[m].maps[0]))


def test_without_post_prompts_nothing_stands_behind_the_words() -> None:
    for coupling in ("a->t", "t->a", "none"):
        bank = coupled(TWO, coupling=coupling, post=False)
        assert not bank("text", 1).back
        assert not any("back" in n for n, _ in bank.named_parameters())


def test_the_first_of_sound_and_picture_leads() -> None:
    assert coupled(THREE).leader == "audio"
    bank = coupled({m: THREE[m] for m in ("text", "image")})
    assert bank.leader == "image" and set(bank.front) == {"image"}


def test_a_leader_that_widens_has_a_map_a_distinct_width() -> None:
    bank = coupled({"audio": (4, 4, 8, 8), "text": (16,) * 5})
    assert [m.in_features for m in bank.to_front["text"].maps] == [4, 8]
    prompt = bank("text", 3)
    assert len(prompt.front) == 4 == len(bank("audio", 1).front)  # as many as the smallest tower has blocks
    for block, which in enumerate((0, 0, 1, 1)):
        expected = mapped(array(bank.front["audio"].blocks[block]), bank.to_back["text"].maps[which])
        assert np.allclose(array(prompt.back[block]), expected)
    each = coupled({"audio": (4, 4, 8, 8), "text": (16,) * 5}, shared_linear=False)
    assert [m.in_features for m in each.to_front["text"].maps] == [4, 4, 8, 8]
    follows = coupled({"image": (4, 4, 8, 8), "text": (16,) * 5}, coupling="t->a")
    assert [t.shape[2] for t in follows("image", 1).front] == [4, 4, 8, 8]


def test_tokens_are_drawn_by_the_rule_of_vpt() -> None:
    torch.manual_seed(0)
    bank = Coupled(CoupledConfig(length=50), {"audio": (96,) * 4, "text": (64,) * 4})
    drawn = torch.cat([t.detach().flatten() for t in bank.front["audio"].blocks])
    bound = np.sqrt(6 / (3 * 16 * 16 + 96))
    assert 0.99 * bound < float(drawn.abs().max()) <= bound
    assert float(drawn.std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 824_320),  # DGL's linear variant, 827,392, without its 4 global tokens of 768
        ({"post": False}, 430_592),
        ({"shared_linear": False}, 4 * 12 * 768 + 24 * (768 * 512 + 512)),
        ({"depth": 1}, 4 * 768 + 2 * (768 * 512 + 512)),
        ({"coupling": "none"}, 4 * 12 * (768 + 512 + 512)),
        ({"coupling": "none", "post": False, "length": 2}, 2 * 12 * (768 + 512)),  # IVLP: 2 + 2, depth 12
        (
            {"coupling": "t->a", "post": False, "length": 2, "depth": 9, "shared_linear": False},
            3_555_072,
        ),  # MaPLe: 3.56 M
        ({"gate": -4.0}, 824_320 + 24),
        ({"length": 0}, 2 * (768 * 512 + 512)),
    ],
)
def test_clip_sized_towers_get_as_many_parameters_as_the_formulas_say(settings: dict, expected: int) -> None:
    bank = Coupled(CoupledConfig(**settings), {"image": (768,) * 12, "text": (512,) * 12})
    assert sum(p.numel() for p in bank.parameters()) == expected
