"""What a scene of the procedural world is: its latent attributes, and the English that describes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from pydantic import Field

from polymnia.config import Frozen

FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {  # domain -> family -> the nouns that name it
    "nature": {
        "wind": ("wind", "breeze", "gust of air"),
        "rain": ("rain shower", "drizzle", "downpour"),
        "thunder": ("thunder rumble", "thunderclap", "thunderstorm"),
        "waves": ("sea wave", "breaking surf", "ocean swell"),
    },
    "animals": {
        "dog": ("dog bark", "barking dog", "hound"),
        "bird": ("bird call", "singing bird", "warbler"),
        "cat": ("cat cry", "meowing cat", "kitten"),
        "frog": ("frog call", "croaking frog", "toad"),
    },
    "machines": {
        "engine": ("engine", "motor", "truck motor"),
        "drill": ("drill", "power drill", "jackhammer"),
        "alarm": ("alarm", "siren", "alarm bell"),
        "clock": ("clock", "ticking clock", "timepiece"),
    },
    "music": {
        "piano": ("piano", "piano melody", "grand piano"),
        "flute": ("flute", "flute melody", "piccolo"),
        "drum": ("drum", "drum beat", "bongo"),
        "guitar": ("guitar", "strummed guitar", "banjo"),
    },
}
PITCH = {
    "low": ("low", "deep", "low-pitched"),
    "middle": ("mid-range", "medium-pitched", "middling"),
    "high": ("high", "shrill", "high-pitched"),
}
TEMPO = {"slow": ("slow", "unhurried", "leisurely"), "fast": ("fast", "rapid", "quick")}
ENVELOPE = {  # as a finite verb and as a participle: "that fades away", "fading away"
    "steady": (
        ("holds steady", "holding steady"),
        ("stays level", "staying level"),
        ("remains even", "remaining even"),
    ),
    "rising": (("grows louder", "growing louder"), ("swells", "swelling"), ("builds up", "building up")),
    "fading": (("fades away", "fading away"), ("dies down", "dying down"), ("trails off", "trailing off")),
}
BACKGROUND = {
    "clean": ("in silence", "with nothing behind it", "against a clean background"),
    "hum": ("over a hum", "with a drone behind it", "against a buzzing background"),
}
TEMPLATES = 6


class World(Frozen):
    """The settings that decide every byte of a world: the same settings are the same files.

    ``train``, ``valid``, ``test`` and ``base`` are instances per combination of attributes; ``combos`` keeps that
    many of the 144 combinations of each domain (all when None); ``seconds`` is the length of a sound, ``size`` the
    side of a picture in pixels, ``mention`` the chance that a caption mentions an attribute (the family always is).
    """

    seed: int = Field(0, ge=0)
    train: int = Field(4, ge=0)
    valid: int = Field(1, ge=0)
    test: int = Field(1, ge=0)
    base: int = Field(2, ge=0)
    seconds: float = Field(1.28, ge=0.5, le=30)
    size: int = Field(48, ge=16, le=1024)
    captions: int = Field(3, ge=1)
    mention: float = Field(0.85, ge=0, le=1)
    combos: int | None = Field(None, ge=1, le=144)


class Scene(NamedTuple):
    """The latent attributes that a sound, a picture and captions are made from."""

    domain: str
    family: str
    pitch: str
    tempo: str
    envelope: str
    background: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The attributes as tags, such as ``pitch:low``; the domain follows from the family and is none of them."""
        return tuple(f"{name}:{value}" for name, value in self._asdict().items() if name != "domain")


class Caption(NamedTuple):
    """A text, and the tags of the attributes that it mentions (a subset of ``Scene.labels``)."""

    text: str
    says: tuple[str, ...]


def combinations(domain: str) -> list[Scene]:
    """The 144 scenes of a domain, in a fixed order."""
    return [Scene(domain, *values) for values in product(FAMILIES[domain], PITCH, TEMPO, ENVELOPE, BACKGROUND)]


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _join(*parts: str, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def _sentence(template: int, noun: str, words: dict[str, str]) -> str:
    """One wording. ``words`` holds "" for what goes unmentioned, and the verb in both its forms."""
    pitch, tempo, background = words["pitch"], words["tempo"], words["background"]
    finite, participle = words["finite"], words["participle"]
    both = _join(pitch, tempo, by=" and ")
    match template:
        case 0:
            return _join(article(_join(tempo, pitch, noun)), finite and f"that {finite}", background)
        case 1:
            return _join(background, _join(article(_join(pitch, tempo, noun)), finite), by=", ")
        case 2:
            return _join(f"the sound of {article(noun)}", both, _join(participle, background), by=", ")
        case 3:
            pace = tempo and f"at {article(tempo)} pace"
            return _join(_join(article(_join(pitch, noun)), pace), _join(participle, background), by=", ")
        case 4:
            return _join("a recording of", article(_join(tempo, pitch, noun)), participle, background)
        case _:
            return _join(_join(participle, background), _join(article(noun), both and f"that is {both}"), by=", ")


def describe(scene: Scene, count: int, mention: float, rng: np.random.Generator) -> list[Caption]:
    """``count`` captions of a scene, in different templates as long as there are any left."""
    order = rng.permutation(TEMPLATES)
    return [_caption(scene, int(order[i % TEMPLATES]), mention, rng) for i in range(count)]


def _caption(scene: Scene, template: int, mention: float, rng: np.random.Generator) -> Caption:
    pick = rng.integers(3, size=5)
    said = rng.random(4) < mention
    verb = ENVELOPE[scene.envelope][pick[3]] if said[2] else ("", "")
    words = {
        "pitch": PITCH[scene.pitch][pick[1]] if said[0] else "",
        "tempo": TEMPO[scene.tempo][pick[2]] if said[1] else "",
        "finite": verb[0],
        "participle": verb[1],
        "background": BACKGROUND[scene.background][pick[4]] if said[3] else "",
    }
    family, *others = scene.labels
    says = (family, *(tag for tag, on in zip(others, said, strict=True) if on))
    return Caption(_sentence(template, FAMILIES[scene.domain][scene.family][pick[0]], words), says)


def vocabulary() -> list[str]:
    """Every word that a caption can hold (split at spaces, commas dropped), in alphabetical order."""
    nouns = [noun for families in FAMILIES.values() for synonyms in families.values() for noun in synonyms]
    verbs = [form for synonyms in ENVELOPE.values() for verb in synonyms for form in verb]
    plain: Sequence[dict[str, tuple[str, ...]]] = (PITCH, TEMPO, BACKGROUND)
    rest = [phrase for table in plain for synonyms in table.values() for phrase in synonyms]
    frames = "a an that the sound of and at pace recording is"
    return sorted(set(" ".join([*nouns, *verbs, *rest, frames]).split()))
