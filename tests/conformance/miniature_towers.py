"""A small version of each tower: name -> variant -> function of an empty folder -> settings of Config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Settings = dict[str, Any]


def constant(**settings: Any) -> Callable[[Path], Settings]:
    return lambda folder: settings


def sentence(folder: Path) -> Settings:
    """A BERT of one block that knows six words."""
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "a", "dog", "barks", "slowly", "on"]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=16).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    cfg = BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.5, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(cfg).save_pretrained(folder)
    return {"model": str(folder), "max_tokens": 12}


SMALL = {"width": 16, "layers": 3, "heads": 2, "out_dim": 10}

MINIATURES: dict[str, dict[str, Callable[[Path], Settings]]] = {
    "cached": {"vectors": constant(dim=12, modality="image")},
    "efficientat": {"quarter": constant(width=0.1, seconds=0.3)},
    "sentence": {"mean": sentence, "cls": lambda folder: sentence(folder) | {"pooling": "cls"}},
    "tiny_audio": {
        "transformer": constant(seconds=0.3, n_mels=8, **SMALL),
        "conv": constant(seconds=0.3, n_mels=8, arch="conv", **SMALL),
    },
    "tiny_image": {"conv": constant(size=16, **SMALL), "vit": constant(size=16, arch="vit", **SMALL)},
    "tiny_text": {"words": constant(buckets=64, max_tokens=12, **SMALL)},
}
