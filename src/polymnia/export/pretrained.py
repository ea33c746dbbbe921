"""An exported encoder back from its folder, without the run, its data, or any of polymnia's training code.

    encoder = polymnia.export.pretrained.load("out")
    encoder.encode_text(["rain on a roof"]), encoder.encode_audio(["rain.wav"])

What is imported is what encodes: towers, heads, and of the methods the one that prompts the towers, if any does. The
code is polymnia's own and not a copy in the folder, so that there is one implementation of each front end and tower,
and a fault that is mended in it is mended for exports that exist.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from polymnia.config import Frozen, MethodPart, Part, TowerPart, explain
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.runs.encoding import MediaEncoder, sign
from polymnia.types import Batch, Modality, Outputs, Terms, UserError

FORMAT = 1  # of config.json; a later one is refused
SETTINGS, WEIGHTS = "config.json", "model.safetensors"
LARGEST = 1 << 20  # bytes of config.json
APART = ("encoder.", "classifier.")  # what a folder of transformers' own holds of a tower


class Settings(Frozen):
    """What config.json says: all that an encoder is made of beside its weights.

    ``signature`` is the encoder's, as vectors and indexes bear it. ``content`` is that of what lies in the folder, to
    tell whether a file was changed. ``folders``: subfolders in transformers' layout that hold towers, by modality.
    """

    model_type: Literal["polymnia"]
    format: PositiveInt
    polymnia: str
    run: str
    task: NonNegativeInt
    name: str
    signature: str = Field(pattern="^[0-9a-f]{24}$")
    content: str
    dim: PositiveInt
    tasks: PositiveInt
    seed: NonNegativeInt
    cross: bool
    channels_last: bool
    towers: dict[Modality, TowerPart]
    heads: dict[Modality, HeadConfig]
    method: tuple[MethodPart, ...]
    folders: dict[Modality, str] = {}


class Pretrained(MediaEncoder):
    """An encoder that stands alone. ``signature`` is that of the run's encoder, which gives the same vectors."""

    def __init__(self, model: Model, method: Chain, settings: Settings, device: str):
        super().__init__(model, method, settings.task, device)
        self.settings, self.signature = settings, settings.signature


def load(folder: str | Path, device: str = "cpu", modules: Collection[str] = ()) -> Pretrained:
    """The encoder that ``polymnia export hf`` wrote into ``folder``.

    ``modules``: dotted names of modules of your own that the encoder may import; an export that names another is
    refused, because importing runs code. Raises UserError for a folder that is no export, was written by a later
    version, or was damaged or changed since.
    """
    folder = Path(folder)
    settings = read_settings(folder, modules)
    model, method = build(folder, settings)
    if sign(model, method) != settings.content:
        raise UserError(f"{folder}: the weights are not those that were exported; get the folder again")
    try:
        return Pretrained(model.to(device), method.to(device), settings, device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error


def read_settings(folder: Path, modules: Collection[str] = ()) -> Settings:
    """config.json of an export. Raises UserError as ``load`` does."""
    path = folder / SETTINGS
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST} bytes, and so no config.json of an export")
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): is it a folder that `polymnia export hf` wrote?") from error
    if not isinstance(said, dict) or said.get("model_type") != "polymnia":
        raise UserError(f"{path} is of no export of polymnia: its model_type is not 'polymnia'")
    if isinstance(said.get("format"), int) and said["format"] > FORMAT:
        raise UserError(f"{path} has format {said['format']}, and this polymnia reads up to {FORMAT}: pip install -U")
    _refuse_strangers(said, modules, path)
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error


def _refuse_strangers(said: Any, modules: Collection[str], path: Path) -> None:
    """Parts by dotted names are imported as soon as they are read, wherever they are nested."""
    for key, value in said.items() if isinstance(said, dict) else enumerate(said if isinstance(said, list) else ()):
        if key == "use" and "." in str(value) and value not in modules:
            raise UserError(f"{path} needs the module '{value}': if you trust it, load(folder, modules=['{value}'])")
        _refuse_strangers(value, modules, path)


def build(folder: Path, settings: Settings) -> tuple[Model, Chain]:
    """Model and method with the weights of the folder, in eval mode on the CPU. Raises UserError where they lack."""
    with torch.random.fork_rng(devices=[]):
        towers = {m: _tower(m, part, folder, settings) for m, part in settings.towers.items()}
        learn = frozenset(m for m, part in settings.towers.items() if not part.config.frozen)
        model = Model(towers, settings.heads, settings.dim, learn, settings.tasks, settings.seed, cross=settings.cross)
        names = tuple(str(n) for n in range(1, settings.tasks + 1))
        method = Chain(settings.method, Setup(model, _no_objective, settings.tasks, settings.seed, names))
    if settings.channels_last:
        model.to(memory_format=torch.channels_last), method.to(memory_format=torch.channels_last)
    _take(model, method, settings, folder / WEIGHTS)
    return model.eval(), method.eval()


def told(part: Part) -> str:
    """What decides a tower's features beside its weights, as its signature takes it in."""
    return json.dumps(part.dump(), sort_keys=True)


def parts(model: Model, method: Chain) -> dict[str, Tensor]:
    """All weights that encode, by the names that the file has for them."""
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    prompter = method.prompter
    return state | ({} if prompter is None else {f"method.{k}": v for k, v in prompter.state_dict().items()})


def apart(folders: Collection[Modality]) -> tuple[str, ...]:
    """How the names of weights begin that lie in subfolders."""
    return tuple(f"model.towers.{m}.{name}" for m in folders for name in APART)


def _tower(modality: Modality, part: Part, folder: Path, settings: Settings) -> AbstractTower:
    config = part.config
    if modality in settings.folders:
        inside = (folder / settings.folders[modality]).resolve()
        if not inside.is_relative_to(folder.resolve()) or not (inside / WEIGHTS).is_file():
            raise UserError(f"{folder}: the {modality} tower is not in '{settings.folders[modality]}'")
        config = config.model_copy(update={"model": str(inside)})
    tower: AbstractTower = part.module.Tower(config)
    tower.settings = told(part)
    return tower


def _take(model: Model, method: Chain, settings: Settings, path: Path) -> None:
    """Load the file strictly."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not there, truncated, or no safetensors file ({error})") from error
    own = {k: v for k, v in parts(model, method).items() if not k.startswith(apart(settings.folders))}
    wrong = sorted(
        k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
    )
    if wrong:
        raise UserError(
            f"{path} does not fit its config.json: {len(wrong)} of {len(own)} tensors differ, as {wrong[0]}"
        )
    modules: dict[str, nn.Module | None] = {"model.": model, "method.": method.prompter}
    for prefix, module in modules.items():
        if module is not None:
            found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(found, strict=False)


def _no_objective(model: Model, batch: Batch, out: Outputs) -> Terms:
    raise AssertionError("an exported encoder does not train")
