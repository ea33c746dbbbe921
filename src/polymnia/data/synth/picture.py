"""A scene as picture. The family is the shape, pitch its colour, tempo how many there are, the envelope a ramp of
size and brightness from left to right, the background grain."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageChops

from polymnia.data.synth.scene import Scene

COLOURS = {"low": (0.95, 0.25, 0.2), "middle": (0.3, 0.9, 0.3), "high": (0.3, 0.45, 1.0)}
PLACES = {"slow": ((0.26, 0.5), (0.74, 0.5)), "fast": ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74))}
RAMPS = {"steady": (0.0, 0.0), "rising": (-1.0, 1.0), "fading": (1.0, -1.0)}  # left and right end
GRAIN = {"clean": 0.01, "hum": 0.09}  # standard deviation, of the full range
GLYPH = 64  # pixels of the master drawing of a shape

Plane = Float[np.ndarray, "h w"]
Shape = Bool[np.ndarray, "h w"]
Length = float | int  # in units of the shape's half width


def _disc(x: Plane, y: Plane, cx: Length, cy: Length, r: Length) -> Shape:
    return (x - cx) ** 2 + (y - cy) ** 2 < r**2


def _box(x: Plane, y: Plane, cx: Length, cy: Length, w: Length, h: Length) -> Shape:
    return (abs(x - cx) < w) & (abs(y - cy) < h)


def wind(x: Plane, y: Plane) -> Shape:
    turn = np.hypot(x, y) * 2.1 - np.arctan2(y, x) / (2 * np.pi)
    return (np.hypot(x, y) < 0.95) & (turn % 1 < 0.45)


def rain(x: Plane, y: Plane) -> Shape:
    slant = x + 0.35 * y
    return (abs(y) < 0.85) & (((slant + 0.15) % 0.6) < 0.28) & (abs(slant) < 0.78)


def thunder(x: Plane, y: Plane) -> Shape:
    upper = (y < 0.1) & (y > -0.95) & (abs(x + 0.45 * y - 0.1) < 0.3)
    return upper | (
        (y > -0.12) & (y < 0.95) & (abs(x + 0.45 * y + 0.02) < 0.34 * (0.95 - y)) | _box(x, y, 0.1, 0, 0.5, 0.1)
    )


def waves(x: Plane, y: Plane) -> Shape:
    return (abs(x) < 0.95) & (abs((y - 0.25 * np.sin(x * 6.5) + 0.35) % 0.7 - 0.35) < 0.17) & (abs(y) < 0.8)


def dog(x: Plane, y: Plane) -> Shape:  # a bone
    ends = [_disc(x, y, cx, cy, 0.3) for cx in (-0.62, 0.62) for cy in (-0.27, 0.27)]
    return np.any(ends, axis=0) | _box(x, y, 0, 0, 0.6, 0.2)


def bird(x: Plane, y: Plane) -> Shape:
    return (abs(y + 0.35 - 0.9 * abs(x)) < 0.3) & (abs(x) < 0.95)


def cat(x: Plane, y: Plane) -> Shape:  # a head with two ears
    ears = (y > -0.95) & (y < 0) & (abs(abs(x) - 0.5) < 0.38 * (y + 0.95))
    return ears | _disc(x, y, 0, 0.25, 0.65)


def frog(x: Plane, y: Plane) -> Shape:  # three toes
    toes = [_disc(x, y, cx, cy, 0.33) for cx, cy in ((-0.55, -0.45), (0.55, -0.45), (0, 0.6))]
    return np.any(toes, axis=0)


def engine(x: Plane, y: Plane) -> Shape:  # a cog
    teeth = 0.7 + 0.22 * np.sign(np.cos(8 * np.arctan2(y, x)))
    return (np.hypot(x, y) < teeth) & ~_disc(x, y, 0, 0, 0.3)


def drill(x: Plane, y: Plane) -> Shape:  # a wedge
    return (abs(y) < 0.95) & (abs(x) < 0.42 * (0.95 - y))


def alarm(x: Plane, y: Plane) -> Shape:  # a bell
    return (_disc(x, y, 0, 0.1, 0.85) & (y < 0.1)) | _box(x, y, 0, 0.3, 0.95, 0.15) | _disc(x, y, 0, 0.68, 0.22)


def clock(x: Plane, y: Plane) -> Shape:
    ring = _disc(x, y, 0, 0, 0.95) & ~_disc(x, y, 0, 0, 0.68)
    return ring | _box(x, y, 0, -0.25, 0.12, 0.35) | _box(x, y, 0.2, 0, 0.3, 0.12)


def piano(x: Plane, y: Plane) -> Shape:  # keys
    return (abs(x) < 0.9) & (abs(y) < 0.9) & ((abs(abs(x) - 0.3) > 0.14) | (y > 0.25))


def flute(x: Plane, y: Plane) -> Shape:
    return (abs(x - y) < 0.34) & (abs(x + y) < 1.5)


def drum(x: Plane, y: Plane) -> Shape:  # a crossed square
    inside = _box(x, y, 0, 0, 0.85, 0.85)
    return inside & (~_box(x, y, 0, 0, 0.62, 0.62) | (abs(abs(x) - abs(y)) < 0.16))


def guitar(x: Plane, y: Plane) -> Shape:
    body = _disc(x, y, 0, 0.45, 0.5) | _disc(x, y, 0, -0.05, 0.35)
    return (body & ~_disc(x, y, 0, 0.4, 0.2)) | _box(x, y, 0, -0.55, 0.12, 0.4)


SHAPES: dict[str, Callable[[Plane, Plane], Shape]] = {
    shape.__name__: shape
    for shape in (wind, rain, thunder, waves, dog, bird, cat, frog)
    + (engine, drill, alarm, clock, piano, flute, drum, guitar)
}


@cache
def glyph(family: str) -> Image.Image:
    """The master drawing of a family's shape: white on black, 64 x 64, with a margin that leaves room to turn it."""
    y, x = np.mgrid[-1.25 : 1.25 : GLYPH * 1j, -1.25 : 1.25 : GLYPH * 1j]
    return Image.fromarray(SHAPES[family](x, y).astype(np.uint8) * 255)


def _stencil(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    canvas = Image.new("L", (size, size))
    left, right = RAMPS[scene.envelope]
    for px, py in PLACES[scene.tempo]:
        ramp = left + (right - left) * px
        side = round(size * 0.56 * 1.2**ramp * rng.uniform(0.92, 1.08))
        turned = glyph(scene.family).rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        small = turned.resize((side, side), Image.Resampling.BOX)
        x, y = (round(size * (p + rng.uniform(-0.04, 0.04)) - side / 2) for p in (px, py))
        layer = Image.new("L", (size, size))
        layer.paste(small, (x, y))
        canvas = ImageChops.lighter(canvas, layer)
    return canvas


def render(scene: Scene, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """The scene as RGB; places, angles, sizes, tint, brightness and grain are drawn from ``rng``."""
    mask = np.asarray(_stencil(scene, size, rng), np.float32)[..., None] / 255
    left, right = RAMPS[scene.envelope]
    light = 0.75 * 2.0 ** np.linspace(left, right, size, dtype=np.float32)[None, :, None] * rng.uniform(0.85, 1.1)
    colour = np.float32(COLOURS[scene.pitch]) + rng.uniform(-0.06, 0.06, 3).astype(np.float32)
    paper = np.float32(rng.uniform(0.1, 0.2))
    grain = GRAIN[scene.background] * rng.standard_normal((size, size, 1), np.float32)
    picture = paper + mask * (colour * light - paper) + grain
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)
