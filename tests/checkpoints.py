"""Tiny random checkpoints in the layout of the published ones, written by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polymnia.models.hub import hide_broken_torchvision, quiet

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, "Ġ"]
BLOCK = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save(model: Any, folder: Path) -> str:
    """Weights large enough for features that differ, norms and running statistics unlike those of a new model."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            scale = "norm" in name.lower() and name.endswith(("weight", "running_var"))
            tensor.copy_(1 + 0.5 * noise.tanh() if scale else 0.5 * noise)
    with quiet():
        model.save_pretrained(folder)
    return str(folder)


def clip(folder: Path, **text: Any) -> str:
    """CLIP for pictures of 16 x 16 and texts of letters, 32 tokens at most."""
    hide_broken_torchvision()
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = [*LETTERS, *(f"{x}</w>" for x in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    end = len(words) - 1
    vision = {"hidden_size": 16, "image_size": 16, "patch_size": 8, "projection_dim": 6, **BLOCK}
    text = {"hidden_size": 12, "vocab_size": len(words), "max_position_embeddings": 32, "projection_dim": 6} | text
    text = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end, **BLOCK} | text
    with quiet():
        CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(folder)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor.save_pretrained(folder)
    return save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)), folder)


def clap(folder: Path, positions: int = 20, **audio: Any) -> str:
    """CLAP for windows of one second in 16 mel bands, and for texts of letters, ``positions`` tokens at most."""
    hide_broken_torchvision()
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

    audio = {"spec_size": 64, "num_mel_bins": 16, "window_size": 8, "patch_embeds_hidden_size": 8} | audio
    audio |= {"depths": [2, 2], "num_attention_heads": [2, 2], "hidden_size": 16, "num_hidden_layers": 2}
    text = {"vocab_size": len(WORDS), "hidden_size": 12, "max_position_embeddings": positions + 2, **BLOCK}
    with quiet():
        RobertaTokenizer(vocab={w: i for i, w in enumerate(WORDS)}, merges=[]).save_pretrained(folder)
        extractor = ClapFeatureExtractor(
            feature_size=16, max_length_s=1, frequency_min=50, truncation="rand_trunc", padding="repeatpad"
        )
        extractor.save_pretrained(folder)
    return save(ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=6)), folder)


def ast(folder: Path, classes: tuple[str, ...] = ("rain", "a dog", "wind")) -> str:
    """AST for windows of 0.64 s in 32 mel bands, with a classifier if there are ``classes``."""
    hide_broken_torchvision()
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, ASTModel

    config = ASTConfig(hidden_size=16, num_mel_bins=32, max_length=64, id2label=dict(enumerate(classes)), **BLOCK)
    with quiet():
        ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(folder)
    return save(ASTForAudioClassification(config) if classes else ASTModel(config), folder)


def bert(folder: Path, positions: int = 16) -> str:
    """What is none of them."""
    hide_broken_torchvision()
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "a", "dog", "barks"]
    with quiet():
        BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return save(
        BertModel(BertConfig(vocab_size=9, hidden_size=12, max_position_embeddings=positions, **BLOCK)), folder
    )
