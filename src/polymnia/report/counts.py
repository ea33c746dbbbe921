"""How many of the items that a score is of were there: told beside every score of which some are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polymnia.report.collect import Method, Run

SEP = " of "


def incomplete(said: str) -> bool:
    """Whether "913 of 975" falls short."""
    parts = said.split(SEP)
    return len(parts) == 2 and parts[0].strip() != parts[1].strip()


def lacking(methods: Sequence[Method]) -> dict[str, str]:
    """What of the items was there ("913 of 975"), by the task or watched set of which some were missing in some run.

    Where runs had different items, what each had: "913 of 975, 975 of 975".
    """
    found: dict[str, list[str]] = {}
    for run in (r for m in methods for r in m.runs):
        for name, said in run.counts().items():
            found.setdefault(name, []).append(said)
    return {n: ", ".join(dict.fromkeys(said)) for n, said in found.items() if any(map(incomplete, said))}


def beside(name: str, lack: dict[str, str]) -> str:
    """A task's name for the head of a column: "AT (913 of 975)" where items are missing."""
    return f"{name} ({lack[name]})" if name in lack else name


def numbers(run: Run) -> Iterator[tuple[str, float]]:
    """The counts of a run as values of a table: "items/AT" and "items_official/AT"."""
    for name, said in run.counts().items():
        used, _, official = said.partition(SEP)
        if used.isdigit() and official.isdigit():
            yield f"items/{name}", float(used)
            yield f"items_official/{name}", float(official)
