"""Prompts in HTS-AT against a walk written by hand: window by window, place by place, one row at a time."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch
from swin_by_hand import by_hand, walk
from torch import Tensor

from polymnia.models.prompting import Prompt
from polymnia.models.swin import run_swin
from polymnia.types import UserError

WIDTHS = (8, 8, 16, 16)  # of the miniature: two stages of two blocks, a map of 16 x 16 and one of 8 x 8
SIZES = [(16, 16), (8, 8)]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.ModuleList:
    from transformers import ClapAudioModelWithProjection

    folder = checkpoints.clap(tmp_path_factory.mktemp("clap"))
    with checkpoints.quiet():
        model = ClapAudioModelWithProjection.from_pretrained(folder).double().eval()
    return model.audio_model.audio_encoder.layers


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def tokens(count: int = 3, rows: int = 2, blocks: int = 4) -> list[Tensor]:
    """For each block ``count`` in its own width, of each row others."""
    return [draws(rows, count, w, seed=9 + i) for i, w in enumerate(WIDTHS[:blocks])]


@torch.no_grad()
def test_in_one_window_prompts_and_patches_are_one_attention(stages: torch.nn.ModuleList) -> None:
    x, prompt = draws(2, 64, 16), Prompt(front=[draws(2, 3, 16, seed=1), draws(2, 5, 16, seed=2)])
    ours = run_swin(stages[1:], SIZES[1:], x, prompt)
    torch.testing.assert_close(ours, by_hand(stages[1:], x, prompt, side=8))


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_every_window_sees_a_copy_and_they_come_back_as_the_mean_of_their_own_row(
    stages: torch.nn.ModuleList, blocks: int
) -> None:
    x, prompt = draws(2, 256, 8), Prompt(front=tokens(blocks=blocks))
    torch.testing.assert_close(run_swin(stages, SIZES, x, prompt), by_hand(stages, x, prompt))


@torch.no_grad()
@pytest.mark.parametrize("deep", ["add", "insert"])
def test_slots_that_go_on_are_widened_as_if_each_were_four_patches(stages: torch.nn.ModuleList, deep: str) -> None:
    x, prompt = draws(2, 256, 8), Prompt(front=tokens(), deep=deep)
    torch.testing.assert_close(run_swin(stages, SIZES, x, prompt), by_hand(stages, x, prompt))


@torch.no_grad()
def test_prefixes_are_seen_in_every_window_and_a_gate_is_added_for_them_and_for_slots(
    stages: torch.nn.ModuleList,
) -> None:
    x, gate = draws(1, 256, 8), [torch.tensor(-0.7, dtype=torch.double)] * 4
    prefix = [(draws(1, 2, w, seed=20 + i), draws(1, 2, w, seed=30 + i)) for i, w in enumerate(WIDTHS)]
    prompt = Prompt(front=tokens(rows=1), prefix=prefix, gate=gate)
    torch.testing.assert_close(run_swin(stages, SIZES, x, prompt), by_hand(stages, x, prompt))


@torch.no_grad()
def test_what_is_read_are_the_prompts_behind_the_last_block(stages: torch.nn.ModuleList) -> None:
    x, prompt = draws(1, 256, 8), Prompt(front=tokens(rows=1), read="prompts")
    ours = run_swin(stages, SIZES, x, prompt)
    expected = walk(stages, x[0], prompt)[0].mean(0)
    torch.testing.assert_close(ours, expected.expand(1, 64, 16))


@torch.no_grad()
def test_tokens_of_the_first_width_are_folded_and_slots_keep_their_numbers(stages: torch.nn.ModuleList) -> None:
    x, base = draws(2, 256, 8), [draws(2, 4, 8, seed=40 + i) for i in range(4)]
    folded = [*base[:2], *(torch.cat([t[:, ::2], t[:, 1::2]], dim=2) for t in base[2:])]  # 4 x 8 into 2 x 16
    expected = by_hand(stages, x, Prompt(front=folded, deep="add"), pairs=True)
    for given in (base, folded):
        torch.testing.assert_close(run_swin(stages, SIZES, x, Prompt(front=given, deep="add")), expected)


@torch.no_grad()
def test_slots_that_another_tower_mixes_into_keep_their_numbers(stages: torch.nn.ModuleList) -> None:
    x, first, heard = draws(1, 256, 8), draws(1, 4, 8, seed=1), draws(4, 4, 8, seed=2)

    def mix(i: int, slots: Tensor) -> Tensor:
        """As LPI's: four tokens of eight numbers, whatever their shape has become."""
        return (0.9 * slots.reshape(-1, 4, 8) + 0.1 * heard[i]).reshape(slots.shape)

    prompt = Prompt(front=[first], mix=mix)
    torch.testing.assert_close(run_swin(stages, SIZES, x, prompt), by_hand(stages, x, prompt, pairs=True))


@torch.no_grad()
def test_a_map_knows_no_order_of_prompts_so_that_those_behind_are_as_those_in_front(
    stages: torch.nn.ModuleList,
) -> None:
    x, front = draws(2, 256, 8), tokens(5)
    apart = Prompt(front=[t[:, :3] for t in front], back=[t[:, 3:] for t in front])
    torch.testing.assert_close(run_swin(stages, SIZES, x, apart), run_swin(stages, SIZES, x, Prompt(front=front)))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [SIZES, [(12, 20), (6, 10)]])
def test_a_closed_gate_leaves_transformers_own_walk(stages: torch.nn.ModuleList, sizes: list, tmp_path: Path) -> None:
    """Maps that no whole number of windows covers are padded, those that one covers are not shifted."""
    from transformers import ClapAudioModelWithProjection

    with checkpoints.quiet():  # of its own, as a layer keeps the size of the smallest map that it has seen
        model = ClapAudioModelWithProjection.from_pretrained(checkpoints.clap(tmp_path)).double().eval()
    own = model.audio_model.audio_encoder.layers
    if sizes != SIZES:
        own = own[:1]
    x = draws(2, sizes[0][0] * sizes[0][1], 8)
    expected = x
    for stage, size in zip(own, sizes, strict=False):
        expected = stage(expected, size)[0]
    shut = [torch.tensor(-1e4, dtype=torch.double)] * 4
    ours = run_swin(own, sizes[: len(own)], x, Prompt(front=tokens(blocks=2), gate=shut[: 2 * len(own)]))
    torch.testing.assert_close(ours, expected)


def test_tokens_that_cannot_be_folded_are_refused(stages: torch.nn.ModuleList) -> None:
    x = draws(1, 256, 8)
    with pytest.raises(UserError, match="3 prompt tokens of 8 numbers cannot be folded into tokens of 16"):
        run_swin(stages, SIZES, x, Prompt(front=[draws(1, 3, 8)] * 3))
    with pytest.raises(UserError, match="width 12, but this tower's are 16 wide"):
        run_swin(stages, SIZES, x, Prompt(front=[None, None, draws(1, 3, 12)]))
    with pytest.raises(UserError, match="prompts for 5 blocks, but this tower has 4"):
        run_swin(stages, SIZES, x, Prompt(front=[draws(1, 2, 8)] * 5))
