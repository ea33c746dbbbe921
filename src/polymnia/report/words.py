"""Numbers and keys as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable

from polymnia.report.collect import Estimate

DASH = "\N{EN DASH}"  # not defined, or not measured
MINUS = "\N{MINUS SIGN}"
ROUTING = "routing/"
INPUTS = {"audio": "sounds", "image": "pictures", "text": "captions"}
CALLED = {
    "zeroshot/pooled": "zero-shot accuracy",
    "zeroshot/fold_mean": "zero-shot accuracy, mean over folds",
    "labels/accuracy": "accuracy of the tower's own classifier",
    "probe/accuracy": "accuracy of a probe on the features",
    "probe/mAP": "mAP of a probe on the features",
    "probe/std": "deviation of a probe over folds",
}


def digits(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """A number as it is printed: one decimal, whole seconds, and never "-0.0"."""
    if value is None:
        return DASH
    text = f"{value:.0f}" if unit == " s" and abs(value) >= 10 else f"{value:.1f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    sign = "+" if signed and float(text) > 0 else ""
    return sign + text.replace("-", MINUS) + unit


def has_spread(value: Estimate) -> bool:
    """Whether the spread is worth printing: not for one seed, nor for a number that is the same for every seed."""
    return value.sd is not None and value.sd > 1e-9


def certain(value: Estimate) -> bool:
    """Whether an interval of a difference excludes 0."""
    return value.low is not None and value.high is not None and (value.low > 0 or value.high < 0)


def text(value: Estimate | None, unit: str = "", *, spread: bool = True) -> str:
    """Mean ± sd [interval], or the bare value of one seed, or a dash."""
    if value is None:
        return DASH
    out = digits(value.mean, unit)
    if not spread or not has_spread(value):
        return out
    return f"{out} ± {digits(value.sd)} [{digits(value.low)}, {digits(value.high)}]"


def difference(value: Estimate | None) -> str:
    """A signed difference with its interval if it has one; ▲ or ▼ where that excludes 0."""
    if value is None:
        return DASH
    out = digits(value.mean, signed=True)
    out += f" [{digits(value.low, signed=True)}, {digits(value.high, signed=True)}]" if value.low is not None else ""
    return out + (" " + arrow(value) if certain(value) else "")


def correlation(value: Estimate | None) -> str:
    """Between -1 and 1, with two decimals and the deviation over seeds."""
    if value is None:
        return DASH
    spread = f" ± {value.sd:.2f}" if value.sd is not None and has_spread(value) else ""
    return f"{value.mean:+.2f}".replace("-", MINUS) + spread


def arrow(value: Estimate) -> str:
    return "\N{BLACK UP-POINTING TRIANGLE}" if value.mean > 0 else "\N{BLACK DOWN-POINTING TRIANGLE}"


def share(value: float) -> str:
    """A share that is in percent already; with two decimals where it is small."""
    if 0 < value < 0.005:
        return "< 0.01 %"
    return f"{value:.{2 if value < 10 else 1}f} %"


def percent(value: float) -> str:
    """A small share in percent, with a decimal where it needs one."""
    return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def seeds(numbers: tuple[int, ...]) -> str:
    return "one seed" if len(numbers) == 1 else f"{len(numbers)} seeds"


def count(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def listed(words: Iterable[str]) -> str:
    """a, b and c"""
    *rest, last = list(words) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def metric(key: str) -> str:
    """A metric's key in words: "union/audio>text/R@1" is "R@1, audio → text, among all tasks seen"."""
    if key in CALLED:
        return CALLED[key]
    if key.startswith(ROUTING):
        what = INPUTS.get(key.removeprefix(ROUTING), "inputs")
        return f"{what} sent to the prompts of their own task"
    union = key.startswith("union/")
    where, _, name = key.removeprefix("union/").rpartition("/")
    name = "mAP by class" if name == "class_mAP" else "median rank" if name == "MedR" else name
    where = where.replace(">", " → ")
    return ", ".join(x for x in (name, where, "among all tasks seen" if union else "") if x)


def score(said: str) -> str:
    """What a run says of a task's score, its keys in words: "mean of a>b/class_mAP, b>a/class_mAP"."""
    keys = said.removeprefix("mean of ").split(", ")
    if not all("/" in key and " " not in key for key in keys):
        return said.removeprefix("the ")
    places: dict[str, list[str]] = {}
    for key in keys:
        name, _, where = metric(key).partition(", ")
        places.setdefault(name, []).append(where)
    parts = [name + (f" ({listed(where)})" if any(where) else "") for name, where in places.items()]
    return ("mean " if len(keys) > 1 else "") + listed(parts)
