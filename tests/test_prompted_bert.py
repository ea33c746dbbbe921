"""Sentence encoders with prompts against attention written by hand in numpy, and which encoders take them."""

from __future__ import annotations

import checkpoints
import numpy as np
import pytest
import torch

from polymnia.models.prompting import Prompt
from polymnia.models.towers.sentence import Config, Tower
from polymnia.types import UserError

TEXTS = ["a dog", "rain", "a dog barks a dog"]
HEADS = 2  # of the miniature, over 12 numbers
Array = np.ndarray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoints.bert(tmp_path_factory.mktemp("bert"))


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm(x: Array, w: dict[str, Array], name: str) -> Array:
    x = x - x.mean(1, keepdims=True)
    return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy()) / 2


def layer(x: Array, w: dict[str, Array], n: int, prefix: tuple[Array, Array], gates: Array) -> Array:
    """BERT's layer ``n`` over one row without padding; ``gates``: what is added for each key, the prefix's first."""
    at = f"encoder.layer.{n}"
    q, k, v = (linear(x, w, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
    k, v = np.concatenate([prefix[0], k]), np.concatenate([prefix[1], v])
    heads = []
    for part in np.split(np.arange(q.shape[1]), HEADS):
        logits = q[:, part] @ k[:, part].T / np.sqrt(len(part)) + gates
        share = np.exp(logits - logits.max(1, keepdims=True))
        heads.append(share / share.sum(1, keepdims=True) @ v[:, part])
    attended = linear(np.concatenate(heads, axis=1), w, f"{at}.attention.output.dense")
    x = norm(x + attended, w, f"{at}.attention.output.LayerNorm")
    wide = gelu(linear(x, w, f"{at}.intermediate.dense"))
    return norm(x + linear(wide, w, f"{at}.output.dense"), w, f"{at}.output.LayerNorm")


def by_hand(tower: Tower, text: str, front: Array, back: Array, prefix: Array, gate: float) -> Array:
    """Hidden states of the words of one text. ``front``, ``back`` (l p w): tokens of each block, which take the places
    of the last ones; ``prefix`` (l 2 p w)."""
    w = {k: v.double().numpy() for k, v in tower.encoder.state_dict().items()}
    ids = tower.prepare([text])[0].numpy()
    words, places, kinds = (w[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = norm(words[ids] + places[: len(ids)] + kinds[0], w, "embeddings.LayerNorm")
    gates = np.zeros(prefix.shape[2] + front.shape[1] + len(x) + back.shape[1])
    gates[: prefix.shape[2]] = gate
    gates[prefix.shape[2] + 1 : prefix.shape[2] + 1 + front.shape[1]] = gate
    for n in range(len(front)):
        x = layer(np.concatenate([x[:1], front[n], x[1:], back[n]]), w, n, tuple(prefix[n]), gates)
        x = np.concatenate([x[:1], x[1 + front.shape[1] : len(x) - back.shape[1]]])
    return x


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_tokens_behind_the_first_and_at_the_back_are_one_attention_with_the_words(folder: str, pooling: str) -> None:
    tower = Tower(Config(model=folder, max_tokens=10, pooling=pooling))
    front, back, prefix = draws(3, 2, 2, 12), draws(3, 2, 3, 12, seed=1), draws(3, 2, 2, 4, 12, seed=2)
    beside = tuple((k, v) for k, v in (p.unbind(1) for p in prefix.unbind(1)))
    prompt = Prompt(tuple(front.unbind(1)), tuple(back.unbind(1)), beside, gate=[torch.tensor(-0.7)] * 2)
    given = (front.double().numpy(), back.double().numpy(), prefix.double().numpy())
    hidden = [by_hand(tower, text, *(g[r] for g in given), gate=-0.7) for r, text in enumerate(TEXTS)]
    expected = np.stack([h.mean(0) if pooling == "mean" else h[0] for h in hidden])
    np.testing.assert_allclose(tower(tower.prepare(TEXTS), prompt).numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_attention_drops_out_while_a_prompted_encoder_trains(folder: str) -> None:
    tower = Tower(Config(model=folder, max_tokens=10))
    for name, module in tower.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5 if name.endswith("attention.self.dropout") else 0.0
    x, prompt = tower.prepare(TEXTS), Prompt(front=[draws(3, 2, 12)])
    assert torch.equal(tower(x, prompt), tower(x, prompt))
    tower.train()
    assert not torch.allclose(tower(x, prompt), tower(x, prompt), atol=1e-3)


def test_room_is_what_the_positions_leave(folder: str) -> None:
    assert Tower(Config(model=folder, max_tokens=10)).room == 6
    tower = Tower(Config(model=folder, max_tokens=16))
    with pytest.raises(UserError, match="2 prompt tokens have no room in the text tower: it has 16 positions"):
        tower(tower.prepare(TEXTS), Prompt(front=[draws(3, 2, 12)]))
