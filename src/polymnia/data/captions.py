"""Text clean-up of captions that come from web pages and from people who type in a hurry."""

from __future__ import annotations

import html
import re

TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
BEFORE_MARK = re.compile(r"\s+([,.!?;:])(?=\s|$)")  # not the point of "a .22 rifle"
BARE = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~"), "-": " ", "/": " "})
MARKS = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)")


def clean(text: str, punctuation: bool = True) -> str:
    """A caption in lower case with single spaces, and none before a punctuation mark; without ``punctuation`` no marks
    but the hyphens and apostrophes inside words. May be empty.

    After WavCaps' clean-up (Mei et al., 2023), which drops the marks.
    """
    text = text.lower()
    return BEFORE_MARK.sub(r"\1", " ".join((text if punctuation else MARKS.sub(" ", text)).split()))


def bare(text: str) -> str:
    """A caption in lower case without the marks , . ' ! ? " ( ) * # : ; ~, its hyphens and slashes as spaces. May be
    empty.

    As ALBEF, BLIP and LPI clean COCO's captions: "a man's dog" becomes "a mans dog", where ``clean`` keeps it.
    """
    return " ".join(text.lower().translate(BARE).split())


def html_free(text: str) -> str:
    """A description without tags, web addresses and line breaks; entities (``&amp;``) become characters.

    A bare ``<`` or ``>`` ("level < 3 dB") is no tag and stays.
    """
    return " ".join(ADDRESS.sub(" ", html.unescape(TAG.sub(" ", text))).split())
