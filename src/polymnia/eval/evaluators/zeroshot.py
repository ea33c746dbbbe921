"""Zero-shot classification: the class whose name, put into a sentence, lies nearest (CLIP's protocol).

class name -> templates -> text tower -> unit norm -> mean over templates -> unit norm -> cosine -> arg-max.
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1.4.

Keys: ``zeroshot/pooled`` (accuracy over all items), ``zeroshot/fold_mean`` (mean of the official folds' accuracies),
``zeroshot/N`` (items), ``zeroshot/classes``. An item is right only if its class scores *strictly* higher than every
other, so that a collapsed encoder scores nothing. Items without a class or without the modality are left out; a task
that has none of them, or no class at all, gives N = 0 and no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, field_validator
from torch import Tensor
from torch.nn.functional import normalize

from polymnia.config import Frozen
from polymnia.types import Captions, Embed, EvalData, Item

PROJECTED = True  # reads embeddings: another head changes the score


class Config(Frozen):
    """``by``: the class is the item's topic or its first label. ``names``: the words for a class, if not its name.
    ``among``: the classes to choose from are those of the task, or of all tasks ``seen`` so far (class-incremental).
    """

    modality: Literal["audio", "image"] = "audio"
    template: Annotated[tuple[str, ...], BeforeValidator(lambda t: (t,) if isinstance(t, str) else t)] = (
        "this is a sound of {}",
    )
    by: Literal["topic", "label"] = "topic"
    among: Literal["task", "seen"] = "task"
    names: dict[str, str] = {}
    split: Literal["test", "all"] = "test"

    @field_validator("template")
    @classmethod
    def _has_a_place_for_the_name(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if not templates or any("{}" not in t for t in templates):
            raise ValueError(f"every template needs a {{}} where the class name goes, got {list(templates)}")
        return templates


def evaluate(cfg: Config, embed: Embed, data: EvalData) -> dict[str, float]:
    """Accuracies in percent; the keys are explained at the top of the file."""
    # The order of the data set's own target column: first appearance, not the alphabet.
    more = data.seen if cfg.among == "seen" else ()
    classes = list(dict.fromkeys(c for i in data.train + data.test + data.valid + more if (c := _class(cfg, i))))
    asked = data.test if cfg.split == "test" else data.train + data.valid + data.test
    items = {item.id: item for item in asked if _class(cfg, item) and cfg.modality in item.sources}
    if not items:
        return {"zeroshot/N": 0.0, "zeroshot/classes": float(len(classes))}
    table = embed(list(items.values()), cfg.modality)
    scores = normalize(table.vectors, dim=1) @ class_vectors(cfg, embed, classes).T
    rows = [items[i] for i in table.ids]
    target = torch.tensor([classes.index(_class(cfg, item)) for item in rows])[:, None]
    own = scores.gather(1, target)
    rivals = scores.scatter(1, target, -torch.inf)
    right = (own > rivals.amax(1, keepdim=True))[:, 0].double()
    fold = torch.tensor([item.fold for item in rows])
    return {
        "zeroshot/pooled": 100 * right.mean().item(),
        "zeroshot/fold_mean": 100 * torch.stack([right[fold == f].mean() for f in fold.unique()]).mean().item(),
        "zeroshot/N": float(len(rows)),
        "zeroshot/classes": float(len(classes)),
    }


def class_vectors(cfg: Config, embed: Embed, classes: Sequence[str]) -> Float[Tensor, "c d"]:
    """One unit vector a class: the mean over the templates of the unit text embeddings."""
    prompts = []
    for index, name in enumerate(classes):
        phrase = cfg.names.get(name, name).replace("_", " ")
        texts = tuple(template.replace("{}", phrase) for template in cfg.template)
        # The id holds the texts, so that an embedding cache never answers with those of another template.
        prompts.append(Item(f"zeroshot:{index}:{'|'.join(texts)}", {"text": Captions(texts)}, group=name))
    table = embed(prompts, "text")
    number = {item.id: i for i, item in enumerate(prompts)}
    owner = torch.tensor([number[i] for i in table.ids])
    vectors = normalize(table.vectors, dim=1)
    # Rows of a class have the same count, so that the sum points where the mean does.
    return normalize(vectors.new_zeros(len(classes), vectors.shape[1]).index_add(0, owner, vectors), dim=1)


def _class(cfg: Config, item: Item) -> str:
    return item.topic if cfg.by == "topic" else next(iter(item.labels), "")
