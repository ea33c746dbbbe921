"""The share of numbers that PTAT trains, counted on full-size architectures without weights (torch's meta device).

The authors state 2.42 % of plain fine-tuning, and not of which encoders. Defaults of the method, heads of two layers
of 1024 numbers; the share is over everything that plain fine-tuning trains: both towers, heads, temperature.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from handmade import part
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTModel,
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapAudioModel,
    RobertaConfig,
    RobertaModel,
)

from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import Modality, Pair, Task, VectorSpec

PAIR: Pair = ("audio", "text")
STATED = 0.0242
BERT = (768,) * 12
AST = (768,) * 12
HTSAT = (96,) * 2 + (192,) * 2 + (384,) * 6 + (768,) * 2
HEADS = 2 * (768 * 1024 + 1024 + 1024 * 1024 + 1024)
ROBERTA = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}


class Hollow(AbstractTower):
    """A tower without weights that nobody runs."""

    def __init__(self, modality: Modality, encoder: nn.Module, widths: tuple[int, ...]):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, VectorSpec(1), 768
        self.encoder, self.depth, self.width = encoder, len(widths), widths

    def forward(self, x: Tensor, prompt: Any = None) -> Tensor:
        raise NotImplementedError


def towers(audio: str, text: str) -> dict[Modality, AbstractTower]:
    with torch.device("meta"):
        sound = ASTModel(ASTConfig()) if audio == "ast" else ClapAudioModel(ClapAudioConfig())
        if text == "bert":
            words = BertModel(BertConfig(), add_pooling_layer=False)
        else:
            words = RobertaModel(RobertaConfig(**ROBERTA), add_pooling_layer=False)
    return {"audio": Hollow("audio", sound, AST if audio == "ast" else HTSAT), "text": Hollow("text", words, BERT)}


def trained(use: str, of: dict[Modality, AbstractTower], **settings: Any) -> int:
    """The parameters that a task of a method trains, its own included."""
    heads: dict[Modality, HeadConfig] = {m: HeadConfig(kind="mlp", hidden=1024) for m in of}
    model = Model(of, heads, 1024, frozenset(of), tasks=4)
    method = Chain([part(use, **settings)], Setup(model, Objective(ObjectiveConfig(), (PAIR,)), 4, 0))
    method.begin_task(model, Task("second", 2, (), (), (), (PAIR,)))
    return sum(p.numel() for m in (model, method) for p in m.parameters() if p.requires_grad)


def prompts(audio: tuple[int, ...]) -> int:
    """Four tokens a block, and two affine maps a distinct width to 768."""
    return 4 * sum(audio) + 2 * sum(w * 768 + 768 for w in set(audio))


@pytest.mark.parametrize(
    ("audio", "text", "widths", "whole", "share"),
    [
        ("ast", "bert", AST, 198.75, 2.46),
        ("ast", "roberta", AST, 213.9, 2.29),
        ("htsat", "bert", HTSAT, 140.1, 4.22),
    ],
)
def test_the_share_is_what_prompts_maps_heads_and_temperature_come_to_and_near_what_the_authors_state(
    audio: str, text: str, widths: tuple[int, ...], whole: float, share: float
) -> None:
    of = towers(audio, text)
    ours, everything = trained("ptat", of), trained("finetune", of)
    assert ours == prompts(widths) + HEADS + 1
    assert everything == sum(p.numel() for t in of.values() for p in t.parameters()) + HEADS + 1
    assert everything / 1e6 == pytest.approx(whole, abs=0.05)
    assert 100 * ours / everything == pytest.approx(share, abs=0.005)
    assert STATED / 2 < ours / everything < STATED * 2


def test_the_widths_are_those_of_the_architectures() -> None:
    assert (ASTConfig().hidden_size,) * ASTConfig().num_hidden_layers == AST
    assert (BertConfig().hidden_size,) * BertConfig().num_hidden_layers == BERT
    cfg = ClapAudioConfig()
    stages = [(cfg.patch_embeds_hidden_size * 2**n,) * depth for n, depth in enumerate(cfg.depths)]
    assert sum(stages, ()) == HTSAT and cfg.hidden_size == 768


def test_the_share_of_htsat_with_tokens_that_are_768_wide_throughout_is_less() -> None:
    of = towers("htsat", "bert")
    wide = {"audio": Hollow("audio", of["audio"].encoder, AST), "text": of["text"]}
    assert 100 * trained("ptat", wide) / trained("finetune", of) == pytest.approx(3.49, abs=0.005)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"heads": False}, prompts(AST) + 1),
        ({"heads": False, "scale": False}, 1_218_048),
        ({"coupling": "none"}, 3 * 4 * 12 * 768 + HEADS + 1),
        ({"shared_linear": False}, 4 * 12 * 768 + 24 * (768 * 768 + 768) + HEADS + 1),
        ({"feature": 0, "similarity_weight": 0}, prompts(AST) + HEADS + 1),
    ],
)
def test_the_teacher_counts_for_nothing_and_switches_for_what_they_take_away(settings: dict, expected: int) -> None:
    assert trained("ptat", towers("ast", "bert"), **settings) == expected
