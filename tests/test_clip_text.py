"""CLIP's text tower against transformers' own model, and its tokenizer against published token ids."""

import gzip
import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import torch
from real import DATA

from polymnia.models.hub import load_tokenizer
from polymnia.models.towers.clip_text import Config, Tower
from polymnia.types import TextSpec, UserError

TEXTS = ["a dog barks", "rain", "", "a dog barks slowly on a dog"]
VOCABULARY = DATA / "weights" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoints.clip(tmp_path_factory.mktemp("clip"))


def direct(folder: str, ids: list[int]) -> torch.Tensor:
    """The feature of one text by transformers' whole model."""
    from transformers import CLIPModel

    with checkpoints.quiet(), torch.inference_mode():
        model = CLIPModel.from_pretrained(folder).eval()
        return model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]


def ids(text: str) -> list[int]:
    """Letters in the order of the tiny vocabulary: plain, then those that end a word, then start and end."""
    found = [checkpoints.LETTERS.index(x) + 26 * (i == len(w) - 1) for w in text.split() for i, x in enumerate(w)]
    return [52, *found, 53]


def test_features_of_a_padded_batch_are_those_of_each_text_alone(folder: str) -> None:
    tower = Tower(Config(model=folder))
    assert (tower.spec, tower.out_dim) == (TextSpec(32, 53), 6)
    batch = tower.prepare(TEXTS)
    longest = max(len(ids(t)) for t in TEXTS)
    assert batch.tolist() == [ids(t) + [53] * (longest - len(ids(t))) for t in TEXTS]
    with torch.inference_mode():
        expected = torch.stack([direct(folder, ids(t)) for t in TEXTS])
        assert torch.allclose(tower(batch), expected, atol=1e-5)
        assert torch.allclose(tower(torch.nn.functional.pad(batch, (0, 5), value=53)), expected, atol=1e-5)


def test_captions_are_never_padded_to_all_positions_when_shorter(folder: str) -> None:
    tower = Tower(Config(model=folder))
    assert tower.prepare(["rain"]).shape == (1, 6)
    assert tower.prepare(["rain", "a"]).shape == (2, 6)


def test_a_text_that_is_cut_keeps_its_end(folder: str) -> None:
    tower = Tower(Config(model=folder, max_tokens=5))
    assert tower.prepare(["barks", "a"]).tolist() == [[*ids("barks")[:4], 53], [*ids("a"), 53, 53]]
    whole = Tower(Config(model=folder))
    long = whole.prepare(["a dog barks " * 9])
    assert long.shape == (1, 32)
    assert long[0, -1] == 53


def test_a_configuration_that_calls_the_end_2_is_read_at_the_highest_id(tmp_path: Path) -> None:
    old = checkpoints.clip(tmp_path, eos_token_id=2, bos_token_id=0, pad_token_id=1)
    tower = Tower(Config(model=old))
    with torch.inference_mode():
        assert torch.allclose(tower(tower.prepare(TEXTS))[1], direct(old, ids("rain")), atol=1e-5)


def test_another_checkpoints_tokenizer_is_refused(folder: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 50
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="ends texts with 53 .* its model 50 .* not of one checkpoint"):
        Tower(Config(model=str(tmp_path / "a")))


def test_a_folder_without_its_vocabulary_is_refused(folder: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (tmp_path / "a" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="cannot load the CLIP text tower"):
        Tower(Config(model=str(tmp_path / "a")))


def test_more_tokens_than_positions_and_other_architectures_are_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_tokens 33 is more than the 32"):
        Tower(Config(model=folder, max_tokens=33))
    with pytest.raises(UserError, match="of type 'bert', and the CLIP text tower needs"):
        Tower(Config(model=checkpoints.bert(tmp_path)))


@pytest.mark.skipif(not VOCABULARY.exists(), reason="CLIP's vocabulary is not beside this checkout")
def test_the_published_vocabulary_gives_the_published_ids(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    rules = gzip.decompress(VOCABULARY.read_bytes()).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    signs = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]  # a sign a byte (GPT-2)
    words = signs + [f"{s}</w>" for s in signs] + [r.replace(" ", "") for r in rules]
    words += ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(r.split()) for r in rules]
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    tokenizer = load_tokenizer(str(tmp_path), True, "CLIP text tower")
    assert len(tokenizer) == 49408
    known = {  # as OpenAI's tokenizer gives them
        "hello world!": [3306, 1002, 256],
        "a photo of a cat": [320, 1125, 539, 320, 2368],
        "A  DIAGRAM": [320, 22697],
        "a dog": [320, 1929],
    }
    for text, inside in known.items():
        assert tokenizer(text)["input_ids"] == [49406, *inside, 49407]
    cut = tokenizer(["a dog " * 60], truncation=True, max_length=77)["input_ids"][0]
    assert (len(cut), cut[-1]) == (77, 49407)
