"""Where prompt tokens enter a transformer, followed token by token."""

import pytest
import torch
from torch import Tensor, nn

from polymnia.models.prompting import Prompt, run_blocks


class AddTen(nn.Module):
    """Adds ten to every token and remembers what it saw."""

    def forward(self, x: Tensor, mask: Tensor | None = None, prefix: object = None) -> Tensor:
        self.seen, self.mask = x[0, :, 0].tolist(), None if mask is None else mask[0, 0].tolist()
        return x + 10


def tokens(*values: float) -> Tensor:
    """One row of tokens of width one."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_prompts_of_each_depth_take_the_place_of_the_last_ones_and_leave_at_the_end(at: int) -> None:
    blocks = nn.ModuleList(AddTen() for _ in range(3))
    prompt = torch.tensor([[[[100.0], [101.0]], [[200.0], [201.0]]]])  # two blocks deep, two tokens each
    out = run_blocks(blocks, tokens(1, 2, 3), Prompt.of(prompt), at=at)
    plain = [1.0, 2.0, 3.0]

    def around(shift: float, *prompts: float) -> list[float]:
        shifted = [v + shift for v in plain]
        return [*shifted[:at], *prompts, *shifted[at:]]

    assert blocks[0].seen == around(0, 100, 101)
    assert blocks[1].seen == around(10, 200, 201)  # what became of 100 and 101 is dropped
    assert blocks[2].seen == around(20, 210, 211)  # behind the last prompted block they are propagated
    assert out[0, :, 0].tolist() == [31.0, 32.0, 33.0]


def test_prompt_tokens_are_attended_to_and_padding_stays_padding() -> None:
    blocks = nn.ModuleList([AddTen()])
    mask = torch.tensor([[True, True, False]])
    run_blocks(blocks, tokens(1, 2, 3), Prompt.of(torch.zeros(1, 1, 2, 1)), at=1, mask=mask)
    assert blocks[0].mask == [True, True, True, True, False]


def test_without_prompts_the_blocks_see_the_plain_tokens() -> None:
    for prompt in (None, Prompt(), Prompt.of(torch.zeros(1, 1, 0, 1)), Prompt.of(torch.zeros(1, 0, 2, 1))):
        blocks = nn.ModuleList(AddTen() for _ in range(2))
        assert run_blocks(blocks, tokens(1, 2), prompt)[0, :, 0].tolist() == [21.0, 22.0]
        assert blocks[1].seen == [11.0, 12.0]
