"""The sentence tower takes encoders of several families, each with its own positions, padding and attributes."""

from pathlib import Path

import checkpoints
import pytest
import torch

from polymnia.models.hub import hide_broken_torchvision
from polymnia.models.towers.sentence import Config, Tower
from polymnia.types import UserError

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"raindogbks", "Ġ"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "a", "dog"]
MPNET = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[UNK]", "rain", "a", "dog"]
WIDE = {"hidden_size": 12, "max_position_embeddings": 18, **checkpoints.BLOCK}
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
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_family_gives_the_mean_of_each_text_alone_up_to_its_last_position(kind: str, tmp_path: Path) -> None:
    hide_broken_torchvision()
    import transformers

    tokenizer, words, sizes, most = KINDS[kind]
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys(words))}
    with checkpoints.quiet():
        getattr(transformers, tokenizer)(vocab=vocabulary).save_pretrained(tmp_path)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(vocabulary), **sizes)
    encoder = getattr(transformers, f"{kind}Model")(config).eval()
    checkpoints.save(encoder, tmp_path)
    tower = Tower(Config(model=str(tmp_path), max_tokens=most))
    texts = ["rain", "a dog " * 20, "a dog"]
    batch = tower.prepare(texts)
    assert batch.shape == (3, most)
    with torch.inference_mode():
        alone = [row[row != tower.spec.pad_id][None] for row in batch]
        expected = torch.cat([encoder(input_ids=row).last_hidden_state.mean(1) for row in alone])
        assert torch.allclose(tower(batch), expected, atol=1e-5)
    assert torch.pdist(expected).min() > 1e-3
    with pytest.raises(UserError, match=f"max_tokens {most + 1} is more than the {most}"):
        Tower(Config(model=str(tmp_path), max_tokens=most + 1))
