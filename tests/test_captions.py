"""Clean-up of captions: expected texts are written by hand."""

from __future__ import annotations

import pytest

from polymnia.data.captions import clean, html_free


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Dog  barks , then\n howls .", "a dog barks, then howls."),
        ("A .22 rifle fires", "a .22 rifle fires"),
        ("Rain\u00a0falls !", "rain falls!"),
        ("  ", ""),
    ],
)
def test_a_clean_caption_is_in_lower_case_with_single_spaces_and_none_before_a_mark(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert clean(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Wind, rain; and "thunder".', "wind rain and thunder"),
        ("A man's high-pitched 'wow' - loud", "a man's high-pitched wow loud"),
        ("...", ""),
    ],
)
def test_without_punctuation_only_marks_inside_words_stay(text: str, expected: str) -> None:
    assert clean(text, punctuation=False) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Rain &amp; wind<br/>in <b>May</b></p>", "Rain & wind in May"),
        ('See <a href="https://x.org/a?b">here</a>, www.x.org or\r\nhttp://x.org/1.', "See here , or"),
        ("level < 3 dB and > 1 dB", "level < 3 dB and > 1 dB"),
        ("<!-- no\nsound -->birds", "birds"),
        ("5 < 6, <i>loud", "5 < 6, loud"),
    ],
)
def test_tags_addresses_and_line_breaks_leave_a_description(text: str, expected: str) -> None:
    assert html_free(text) == expected
