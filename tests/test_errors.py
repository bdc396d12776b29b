"""Messages are one printable line of bounded length, whatever a stranger wrote into it."""

import pickle

import pytest

from exml.core.errors import ExmlError, StrategyError, printable, shortened


@pytest.mark.parametrize("part", ["expected", "got", "remedy"])
@pytest.mark.parametrize(
    "text",
    ["a\nb\r\tc", "\x1b[31mred\x07", "\u202eevil", "\ud800\udce9", "\0", "long " * 5000, "a\u2028b"],
    ids=ascii,
)
def test_a_message_is_one_printable_line(part, text):
    parts = {"expected": "three", "got": "two", "remedy": "add one"}
    error = ExmlError(**{**parts, part: text[:20_000]})
    assert str(error).isprintable()
    assert len(str(error)) <= 1000
    assert all(getattr(error, name) == value for name, value in parts.items() if name != part)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_parts_share_the_room_and_short_ones_keep_theirs():
    error = ExmlError(expected="e" * 900, got="short", remedy="r" * 900)
    assert error.got == "short"
    assert 480 < len(error.expected) <= len(error.remedy) < 500
    assert len(str(error)) <= 1000


def test_a_backtrace_of_cpp_is_cut_off():
    assert printable("sizes differ\nException raised from f at x.cpp:3 (most recent call first):\nframe #0: x") == (
        "sizes differ"
    )
    assert shortened("abc", 3) == "abc"
    assert len(shortened("a" * 100, 20)) <= 20


def test_problems_of_a_strategy_stay_a_list():
    error = StrategyError(["first\x1b" + "x" * 5000, "second"])
    assert [line[:9] for line in str(error).splitlines()[1:]] == ["  - first", "  - secon"]
    assert len(str(error)) < 700
    assert error.problems[1] == "second"
