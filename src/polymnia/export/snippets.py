"""How to use a single tower with transformers alone: Python for the card of an export."""

from __future__ import annotations

from typing import Any

from polymnia.export.automodel import Written
from polymnia.models.heads import HeadConfig
from polymnia.models.towers import ast, clap_audio, clap_text, clip_image, clip_text, sentence
from polymnia.runs.encoder import Encoder
from polymnia.types import Modality

READ = """\
```python
import torch, transformers
from safetensors.torch import load_file

model = transformers.{opens}.from_pretrained("{folder}").eval()
head = load_file("{folder}/head-{modality}.safetensors")
{lines}
vectors = torch.nn.functional.normalize({head}, dim=-1)
```"""
TOKENS = """\
tokenizer = transformers.AutoTokenizer.from_pretrained("{folder}")
x = tokenizer(["rain on a roof"], padding=True, truncation=True, max_length={most}, return_tensors="pt")
"""
HEADS = {
    "identity": "features",
    "linear": 'features @ head["0.weight"].T + head["0.bias"]',
    "mlp": 'torch.relu(features @ head["0.weight"].T + head["0.bias"]) @ head["3.weight"].T + head["3.bias"]',
}


def of_tower(encoder: Encoder, modality: Modality, written: Written) -> str:
    """The code, or which of polymnia's functions it takes."""
    tower: Any = encoder.model.tower(modality)
    kind = encoder.recipe.heads.get(modality, HeadConfig()).kind
    lines = _features(tower, written)
    head = HEADS.get(kind, f"polymnia_head(features)  # head of kind {kind}: see polymnia.models.heads")
    return READ.format(opens=written.opens, folder=written.folder, modality=modality, lines=lines, head=head)


def _features(tower: Any, written: Written) -> str:
    if isinstance(tower, (sentence.Tower, clip_text.Tower, clap_text.Tower)):
        tokens = TOKENS.format(folder=written.folder, most=tower.spec.max_tokens)
        return tokens + _words(tower)
    if isinstance(tower, clip_image.Tower):
        return (
            "# x: pictures as CLIPImageProcessor makes them, (n, 3, size, size)\n"
            'features = model(pixel_values=x).pooler_output @ head["projection.weight"].T'
        )
    window = tower.window / tower.spec.sample_rate
    if isinstance(tower, clap_audio.Tower):
        return (
            f"# x: log-mel of at most {window:g} s, (n, 1, frames, bands), as ClapFeatureExtractor makes it\n"
            "features = model.audio_projection(model.audio_model(input_features=x).pooler_output)"
        )
    assert isinstance(tower, ast.Tower)
    return (
        f"# x: filter banks of at most {window:g} s, (n, frames, bands), as ASTFeatureExtractor makes them\n"
        "features = model(input_values=x).pooler_output"
    )


def _words(tower: Any) -> str:
    if isinstance(tower, clip_text.Tower):
        return 'features = model(**x).pooler_output @ head["projection.weight"].T'
    if isinstance(tower, clap_text.Tower):
        return "features = model.text_projection(model.text_model(**x).pooler_output)"
    if tower.pooling == "cls":
        return "features = model(**x).last_hidden_state[:, 0]"
    return (
        'mask = x["attention_mask"][:, :, None]\nfeatures = (model(**x).last_hidden_state * mask).sum(1) / mask.sum(1)'
    )
