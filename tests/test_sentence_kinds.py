"""The sentence tower takes encoders of several families, each with its own positions, padding and attributes."""

from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch

from polymnia.models.hub import hide_broken_torchvision
from polymnia.models.prompting import Prompt
from polymnia.models.towers.sentence import Config, Tower
from polymnia.types import UserError

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"raindogbks", "Ġ"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "a", "dog"]
MPNET = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[UNK]", "rain", "a", "dog"]
WIDE = {"hidden_size": 12, "max_position_embeddings": 18, **checkpoints.BLOCK}
PROMPTED = ("Bert", "Camembert", "Roberta", "XLMRoberta")
KINDS = {  # tokenizer, its words, sizes, positions that a text can use
    "Bert": ("BertTokenizer", BERT, WIDE, 18),
    "Electra": ("BertTokenizer", BERT, WIDE | {"embedding_size": 12}, 18),
    "DistilBert": (
        "BertTokenizer",
        BERT,
        {"dim": 12, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 18},
        18,
    ),
    "Roberta": ("RobertaTokenizer", ROBERTA, WIDE, 16),
    "MPNet": ("MPNetTokenizer", MPNET, WIDE, 16),
    "Camembert": ("RobertaTokenizer", ROBERTA, WIDE, 16),
    "XLMRoberta": ("RobertaTokenizer", ROBERTA, WIDE, 16),
}


def saved(kind: str, folder: Path) -> tuple[str, Any, int]:
    """A tiny encoder of the family in a folder, the encoder itself, and its positions."""
    hide_broken_torchvision()
    import transformers

    tokenizer, words, sizes, most = KINDS[kind]
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys(words))}
    with checkpoints.quiet():
        getattr(transformers, tokenizer)(vocab=vocabulary).save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(vocabulary), **sizes)
    encoder = getattr(transformers, f"{kind}Model")(config).eval()
    return checkpoints.save(encoder, folder), encoder, most


@pytest.mark.parametrize("kind", KINDS)
def test_any_family_gives_the_mean_of_each_text_alone_up_to_its_last_position(kind: str, tmp_path: Path) -> None:
    folder, encoder, most = saved(kind, tmp_path)
    tower = Tower(Config(model=folder, max_tokens=most))
    texts = ["rain", "a dog " * 20, "a dog"]
    batch = tower.prepare(texts)
    assert batch.shape == (3, most)
    with torch.inference_mode():
        alone = [row[row != tower.spec.pad_id][None] for row in batch]
        expected = torch.cat([encoder(input_ids=row).last_hidden_state.mean(1) for row in alone])
        assert torch.allclose(tower(batch), expected, atol=1e-5)
    assert torch.pdist(expected).min() > 1e-3
    with pytest.raises(UserError, match=f"max_tokens {most + 1} is more than the {most}"):
        Tower(Config(model=folder, max_tokens=most + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_families_laid_out_as_bert_is_take_prompts_and_others_refuse_them(kind: str, tmp_path: Path) -> None:
    folder, _, most = saved(kind, tmp_path)
    tower = Tower(Config(model=folder, max_tokens=most - 4))
    ids, front = tower.prepare(["rain", "a dog"]), [torch.randn(2, 4, 12, generator=torch.Generator())] * 2
    if kind not in PROMPTED:
        assert (tower.depth, tower.width, tower.room) == (0, 0, None)
        with pytest.raises(UserError, match="takes no prompts"):
            tower(ids, Prompt(front=front))
        return
    assert (tower.depth, tower.width, tower.room) == (2, 12, 4)
    with torch.inference_mode():
        hidden, seen = (tower(ids, Prompt(front=front, gate=[torch.tensor(g)] * 2)) for g in (-1e4, 0.0))
        assert torch.allclose(hidden, tower(ids), atol=1e-5)
        assert not torch.allclose(seen, tower(ids), atol=1e-2)
