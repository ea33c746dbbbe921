"""What a frozen CLIP costs while an audio tower trains: computed in every step, or once before (the `cached` tower).

    python benchmarks/cached_supervision.py [clips] [rounds]

The same audio tower (MobileNetV1 of PANNs, clips of two seconds), stepped by the real loop against CLIP's texts (AT)
and pictures (AV); CLIP has the size of ViT-B/32 and random weights. ``audio alone`` is forward, backward and optimizer
of the audio tower and its head in plain torch, against constants: a step with cached supervision should cost no more.
Processor time of one thread, steps in turns, medians over the turns. Reading and decoding of media are not in it.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from same import Same
from torch import Tensor

from polymnia.config import parse_part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.hub import hide_broken_torchvision, quiet
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import cached
from polymnia.ops.contrastive import clip_loss
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import Trainer
from polymnia.types import Batch, Modality, Task

DIM = 512
CAPTION = "a dog barks in the rain while a car passes by"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Act = Callable[[], object]


def save_clip(folder: Path) -> None:
    """A CLIP of ViT-B/32's size with a tokenizer that splits words into letters."""
    hide_broken_torchvision()
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = [*LETTERS, *(f"{x}</w>" for x in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    end = len(words) - 1
    text = {"vocab_size": len(words), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    with quiet():
        CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
        CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)


def build(name: str, **settings: object) -> AbstractTower:
    part = parse_part("models.towers", {"use": name, **settings})
    return part.module.Tower(part.config)


def learner(other: AbstractTower) -> Model:
    """The audio tower with its head, and a frozen tower beside it."""
    torch.manual_seed(0)
    towers: dict[Modality, AbstractTower] = {
        "audio": build("panns", arch="mobilenetv1", seconds=2.0),
        other.modality: other,
    }
    return Model(towers, {"audio": HeadConfig(kind="mlp", hidden=DIM)}, DIM, frozenset({"audio"}))


def real_step(other: AbstractTower, sounds: Tensor, shown: Tensor) -> Act:
    """A step of the real loop."""
    model, pair = learner(other), ("audio", other.modality)
    objective = Objective(ObjectiveConfig(), (pair,))
    chain = Chain((), Setup(model, objective, 1, 0))
    chain.begin_task(model, Task("a", 1, (), (), (), (pair,)))
    every = torch.arange(len(sounds))
    inputs: dict[Modality, Tensor] = {"audio": sounds, other.modality: shown}
    batch = Batch(inputs, dict.fromkeys(inputs, every), every, torch.ones_like(every))
    cfg = TrainConfig(steps=1_000_000, lr=1e-4, measure=0)
    steps = Trainer(model, chain, objective, Same(batch), cfg, (0, 1)).steps()
    return lambda: next(steps)


def bare_step(sounds: Tensor, target: Tensor) -> Act:
    """The audio tower and its head alone, in plain torch."""
    model = learner(cached.Tower(cached.Config(modality="text", dim=DIM))).train()
    optimizer = torch.optim.AdamW([*model.towers["audio"].parameters(), *model.heads["audio"].parameters()], lr=1e-4)

    def step() -> None:
        loss = clip_loss(model.encode("audio", sounds), target, 14.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def actions(modality: Modality, folder: Path, clips: int) -> dict[str, Act]:
    """The three steps on the same batch."""
    tower = build(f"clip_{modality}", model=str(folder)).eval().requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    sounds = 0.1 * torch.randn(clips, 64000, generator=g)
    if modality == "text":
        shown = tower.prepare([f"{CAPTION} {LETTERS[n % 26]}" for n in range(clips)])
    else:
        shown = torch.randint(0, 256, (clips, 3, 224, 224), generator=g, dtype=torch.uint8)
    with torch.no_grad():
        features = tower(shown)
    once = cached.Tower(cached.Config(modality=modality, dim=DIM))
    return {
        "audio alone": bare_step(sounds, features),
        "cached": real_step(once, sounds, features),
        "computed every step": real_step(tower, sounds, shown),
    }


def measure(acts: dict[str, Act], rounds: int) -> dict[str, float]:
    """Median processor seconds of each, taken in turns after two turns to warm up."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(rounds + 2):
        for name, act in acts.items():
            start = time.process_time()
            act()
            if turn >= 2:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(clips: int = 16, rounds: int = 9) -> None:
    torch.set_num_threads(1)
    table = Table(title=f"a step of {clips} clips of 2 s, median of {rounds} turns, one thread")
    for name in ("task", "supervision", "ms", "/ audio alone", "/ cached"):
        table.add_column(name, justify="left" if name in ("task", "supervision") else "right")
    with tempfile.TemporaryDirectory() as folder:
        save_clip(Path(folder))
        modalities: tuple[Modality, ...] = ("text", "image")
        for modality in modalities:
            found = measure(actions(modality, Path(folder), clips), rounds)
            for name, seconds in found.items():
                ratios = (seconds / found["audio alone"], seconds / found["cached"])
                row = (f"{1000 * seconds:.0f}", *(f"{ratio:.2f}" for ratio in ratios))
                table.add_row("AT" if modality == "text" else "AV", name, *row)
            table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
