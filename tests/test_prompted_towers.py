"""Towers of the Hugging Face kind with prompts, against their layers fed by hand, one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import checkpoints
import pytest
import torch
from torch import Tensor

from polymnia.models.attention import clip_block
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import ast, clap_audio, clap_text, clip_image, clip_text, sentence
from polymnia.types import UserError

TEXTS = ["a dog", "rain", "a dog on a dog"]
LEGACY = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
Layers = Sequence[Callable[[Tensor], Tensor]]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(tower: AbstractTower, count: int = 3, rows: int = 3) -> list[Tensor]:
    """For each block ``count``, of each row others."""
    return [draws(rows, count, w, seed=5 + i) for i, w in enumerate(tower.widths)]


def fed(layers: Layers, x: Tensor, at: int, front: Sequence[Tensor], deep: str = "replace") -> Tensor:
    """Layers of transformers over a row (1 t w) with tokens (p w) behind ``at`` others; what became of the others."""
    slots = x[:, :0]
    for layer, new in zip(layers, front, strict=True):
        slots = slots + new if deep == "add" and slots.shape[1] else new[None]
        x = layer(torch.cat([x[:, :at], slots, x[:, at:]], dim=1))
        x, slots = torch.cat([x[:, :at], x[:, at + len(new) :]], dim=1), x[:, at : at + len(new)]
    return x


# CLIP


@torch.no_grad()
@pytest.mark.parametrize("deep", ["replace", "add"])
@pytest.mark.parametrize("config", [{}, LEGACY])
def test_clips_texts_with_tokens_in_front_are_its_causal_layers_over_start_tokens_words_end(
    config: dict, deep: str, tmp_path: Path
) -> None:
    tower = clip_text.Tower(clip_text.Config(model=checkpoints.clip(tmp_path, **config), max_tokens=20))
    model, front = tower.encoder.text_model, tokens(tower)
    layers = [lambda x, own=own: own(x, None, is_causal=True) for own in model.encoder.layers]
    expected = []
    for r, text in enumerate(TEXTS):
        words = model.embeddings(tower.prepare([text]))
        last = fed(layers, words, 1, [t[r] for t in front], deep)[:, -1]
        expected.append(tower.encoder.text_projection(model.final_layer_norm(last)))
    ours = tower(tower.prepare(TEXTS), Prompt(front=front, deep=deep))
    torch.testing.assert_close(ours, torch.cat(expected))


@torch.no_grad()
def test_clips_texts_with_tokens_at_the_back_have_them_right_before_the_end(tmp_path: Path) -> None:
    tower = clip_text.Tower(clip_text.Config(model=checkpoints.clip(tmp_path), max_tokens=20))
    model, back = tower.encoder.text_model, draws(3, 4, 12)
    expected = []
    for r, text in enumerate(TEXTS):
        words = model.embeddings(tower.prepare([text]))
        x = torch.cat([words[:, :-1], back[r : r + 1], words[:, -1:]], dim=1)
        last = model.encoder(x, is_causal=True).last_hidden_state[:, -1]
        expected.append(tower.encoder.text_projection(model.final_layer_norm(last)))
    torch.testing.assert_close(tower(tower.prepare(TEXTS), Prompt(back=[back])), torch.cat(expected))


@torch.no_grad()
def test_in_a_causal_tower_words_see_what_is_in_front_and_the_end_alone_what_is_at_the_back(tmp_path: Path) -> None:
    tower = clip_text.Tower(clip_text.Config(model=checkpoints.clip(tmp_path), max_tokens=20))
    model, ids = tower.encoder.text_model, tower.prepare(["a dog"])
    blocks, end = [clip_block(layer) for layer in model.encoder.layers], torch.tensor([ids.shape[1] - 1])

    def moved(prompt: Prompt) -> list[bool]:
        """Which of start, words and end are not what they are without the prompt."""
        plain, x = (run_blocks(blocks, model.embeddings(ids), p, at=1, end=end)[0] for p in (None, prompt))
        return ((plain - x).abs().amax(1) > 1e-4).tolist()

    assert moved(Prompt(front=[draws(1, 2, 12)])) == [False, True, True, True, True, True]
    assert moved(Prompt(back=[draws(1, 2, 12)])) == [False, False, False, False, False, True]
    with pytest.raises(UserError, match="stand before all words and see none of them: read the tower out itself"):
        tower(ids, Prompt(front=[draws(1, 2, 12)], read="prompts"))


@torch.no_grad()
def test_clips_pictures_have_tokens_behind_the_class_token_and_those_of_the_first_block_pass_the_first_norm(
    tmp_path: Path,
) -> None:
    tower = clip_image.Tower(clip_image.Config(model=checkpoints.clip(tmp_path)))
    model, front = tower.encoder.vision_model, tokens(tower)
    x = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    patches = model.pre_layrnorm(model.embeddings((x / 255 - tower.mean) / tower.std))
    layers, normed = [lambda x, own=own: own(x, None) for own in model.encoder.layers], model.pre_layrnorm(front[0])
    rows = [fed(layers, patches[r : r + 1], 1, [normed[r], front[1][r]]) for r in range(3)]
    expected = tower.encoder.visual_projection(model.post_layernorm(torch.cat(rows)[:, 0]))
    torch.testing.assert_close(tower(x, Prompt(front=front)), expected)


# AST and CLAP


@torch.no_grad()
def test_ast_has_tokens_behind_its_two_own_in_each_window_of_a_long_clip(tmp_path: Path) -> None:
    tower = ast.Tower(ast.Config(model=checkpoints.ast(tmp_path)))
    model, front, x = tower.encoder, tokens(tower), draws(3, 2 * tower.window, seed=1) * 0.1
    windows = []
    for start in (0, tower.window):
        mel = tower.fbank(x[:, start : start + tower.window])
        patches = model.embeddings((mel - tower.mean) / tower.std)
        rows = [fed(model.layers, patches[r : r + 1], 2, [t[r] for t in front]) for r in range(3)]
        windows.append(model.layernorm(torch.cat(rows))[:, :2].mean(1))
    torch.testing.assert_close(tower(x, Prompt(front=front)), torch.stack(windows).mean(0))


@torch.no_grad()
def test_claps_texts_have_tokens_behind_the_first_and_are_read_there(tmp_path: Path) -> None:
    tower = clap_text.Tower(clap_text.Config(model=checkpoints.clap(tmp_path, positions=30), max_tokens=20))
    model, front = tower.encoder.text_model, tokens(tower)
    rows = []
    for r, text in enumerate(TEXTS):
        words = model.embeddings(tower.prepare([text]))  # positions are counted from the words alone
        rows.append(fed(model.encoder.layer, words, 1, [t[r] for t in front])[0, 0])
    expected = tower.encoder.text_projection(model.pooler.activation(model.pooler.dense(torch.stack(rows))))
    torch.testing.assert_close(tower(tower.prepare(TEXTS), Prompt(front=front)), expected)


@torch.no_grad()
def test_a_long_sound_of_clap_has_the_same_prompts_in_each_of_its_windows(tmp_path: Path) -> None:
    tower = clap_audio.Tower(clap_audio.Config(model=checkpoints.clap(tmp_path)))
    prompt, x = Prompt(front=tokens(tower)), draws(3, 96000) * 0.1
    halves = [tower(part, prompt) for part in x.split(48000, dim=1)]
    torch.testing.assert_close(tower(x, prompt), torch.stack(halves).mean(0))
    assert not torch.allclose(tower(x, prompt), tower(x), atol=1e-2)


# All of them


MADE: dict[str, Callable[[Path], AbstractTower]] = {
    "ast": lambda folder: ast.Tower(ast.Config(model=checkpoints.ast(folder))),
    "clap_audio": lambda folder: clap_audio.Tower(clap_audio.Config(model=checkpoints.clap(folder))),
    "clap_text": lambda folder: clap_text.Tower(clap_text.Config(model=checkpoints.clap(folder), max_tokens=15)),
    "clip_image": lambda folder: clip_image.Tower(clip_image.Config(model=checkpoints.clip(folder))),
    "clip_text": lambda folder: clip_text.Tower(clip_text.Config(model=checkpoints.clip(folder), max_tokens=15)),
    "sentence": lambda folder: sentence.Tower(sentence.Config(model=checkpoints.bert(folder), max_tokens=10)),
}


@pytest.fixture(params=MADE)
def tower(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractTower:
    return MADE[request.param](tmp_path)


def inputs(tower: AbstractTower) -> Tensor:
    if tower.modality == "text":
        return tower.prepare(TEXTS)
    if tower.modality == "audio":
        return draws(3, tower.spec.samples) * 0.1
    return torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.no_grad()
def test_behind_a_closed_gate_blocks_one_by_one_are_transformers_own_forward(tower: AbstractTower) -> None:
    x, front, shut = inputs(tower), tokens(tower), [torch.tensor(-1e4)] * tower.depth
    hidden = Prompt(front=front, prefix=[(t, t) for t in front], gate=shut)
    torch.testing.assert_close(tower(x, hidden), tower(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_changes_no_row_that_is_prompted(tower: AbstractTower) -> None:
    if tower.modality == "text":
        x, front = inputs(tower), tokens(tower)
        padded = torch.nn.functional.pad(x, (0, 2), value=tower.spec.pad_id)
        for prompt in (Prompt(front=front), Prompt(back=front), Prompt(prefix=[(t, t) for t in front])):
            torch.testing.assert_close(tower(padded, prompt), tower(x, prompt), atol=1e-5, rtol=0)


@torch.no_grad()
def test_mixed_precision_stays_near(tower: AbstractTower) -> None:
    front = [0.1 * t for t in tokens(tower)]
    prompt = Prompt(front=front, prefix=[(t, t) for t in front], gate=[torch.tensor(-0.5)] * tower.depth)
    exact = tower(inputs(tower), prompt)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = tower(inputs(tower), prompt).float()
    assert torch.cosine_similarity(near, exact).min() > 0.99


def test_a_text_tower_has_room_for_the_positions_that_its_longest_text_leaves(tmp_path: Path) -> None:
    (tmp_path / "clap").mkdir()
    clip, clap = checkpoints.clip(tmp_path), checkpoints.clap(tmp_path / "clap")
    rooms = [clip_text.Tower(clip_text.Config(model=clip, max_tokens=n)).room for n in (None, 32, 16)]
    assert rooms == [0, 0, 16]  # of 32 positions
    assert clap_text.Tower(clap_text.Config(model=clap, max_tokens=15)).room == 5  # of 20: RoBERTa counts from 2 on
    assert clap_audio.Tower(clap_audio.Config(model=clap)).room is None
    assert clip_image.Tower(clip_image.Config(model=clip)).room is None


def test_more_prompt_tokens_than_there_is_room_for_are_refused_with_the_way_out(tmp_path: Path) -> None:
    tower = clip_text.Tower(clip_text.Config(model=checkpoints.clip(tmp_path), max_tokens=20))
    x = tower.prepare(TEXTS)
    out = "it has 32 positions, and texts of up to 20 tokens .max_tokens. leave 12; set towers.text.max_tokens to"
    assert tower(x, Prompt(front=[draws(3, 12, 12)])).shape == (3, 6)
    with pytest.raises(UserError, match=f"13 prompt tokens have no room in the text tower: {out} 19 or less"):
        tower(x, Prompt(front=[draws(3, 13, 12)]))
    with pytest.raises(UserError, match=f"14 prompt tokens .* {out} 18 or less"):
        tower(x, Prompt(front=[draws(3, 7, 12)] * 2, deep="insert"))
    with pytest.raises(UserError, match="30 prompt tokens .* use fewer prompt tokens"):
        tower(x, Prompt(front=[draws(3, 15, 12)], back=[draws(3, 15, 12)]))
