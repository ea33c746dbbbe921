"""A small version of each tower: name -> variant -> function of an empty folder -> settings of Config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoints import ast, clap, clip

Settings = dict[str, Any]


def constant(**settings: Any) -> Callable[[Path], Settings]:
    return lambda folder: settings


def sentence(folder: Path) -> Settings:
    """A BERT of two blocks that knows six words, with room for prompts of both."""
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "a", "dog", "barks", "slowly", "on"]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=16).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    cfg = BertConfig(vocab_size=len(words), max_position_embeddings=28, initializer_range=0.5, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(cfg).save_pretrained(folder)
    return {"model": str(folder), "max_tokens": 12}


SMALL = {"width": 16, "layers": 3, "heads": 2, "out_dim": 10}


def saved(write: Callable[[Path], str], **settings: Any) -> Callable[[Path], Settings]:
    """A tower that loads what ``write`` puts into the folder."""
    return lambda folder: {"model": write(folder), **settings}


MINIATURES: dict[str, dict[str, Callable[[Path], Settings]]] = {
    "ast": {"classes": saved(ast), "plain": saved(lambda folder: ast(folder, ()))},
    "audio_tokens": {
        "on frames": constant(front={"use": "tiny_audio", "seconds": 0.3, "n_mels": 8, **SMALL}, seconds=0.3, **SMALL),
    },
    "cached": {"vectors": constant(dim=12, modality="image")},
    "clap_audio": {"unfused": saved(clap)},
    "clap_text": {"letters": saved(lambda folder: clap(folder, positions=36), max_tokens=20)},
    "clip_image": {"vit": saved(clip)},
    "clip_text": {"letters": saved(clip, max_tokens=16)},  # of 32 positions
    "efficientat": {"quarter": constant(width=0.1, seconds=0.3)},
    "panns": {  # without stripes, which hide most of so short a clip from the batch norms
        "mobilenetv1": constant(arch="mobilenetv1", seconds=0.4, specaug=False),
        "cnn10": constant(arch="cnn10", rate=16000, seconds=0.4, specaug=False),
        "resnet22": constant(arch="resnet22", seconds=0.4, specaug=False),
    },
    "sentence": {"mean": sentence, "cls": lambda folder: sentence(folder) | {"pooling": "cls"}},
    "tiny_audio": {
        "transformer": constant(seconds=0.3, n_mels=8, **SMALL),
        "conv": constant(seconds=0.3, n_mels=8, arch="conv", **SMALL),
    },
    "tiny_image": {"conv": constant(size=16, **SMALL), "vit": constant(size=16, arch="vit", **SMALL)},
    "tiny_text": {"words": constant(buckets=64, max_tokens=12, **SMALL)},
}
