"""JSON and YAML of unknown origin: one error for everything that is not plain, bounded data."""

import json
import time

import pytest

from exml.core.errors import ConfigError
from exml.core.plain import parse_json, parse_yaml

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]\n" for last, name in zip("abcdefg", "bcdefgh", strict=True)
)


def test_plain_data_comes_back():
    plain = {"a": [1, -2.5, None, True, "größer"], "b": {"c": [], "d": 2**63}}
    assert parse_json(json.dumps(plain)) == plain
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(plain, ensure_ascii=False).encode()) == plain
    assert parse_yaml(json.dumps(plain)) == plain
    assert parse_yaml(b"\xef\xbb\xbfa: &x [1, 2]\nb: *x\nc: {<<: {d: 1, e: 2}, e: 3}\n") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": 1, "e": 3},
    }
    assert parse_json('"\\udce9"', file_names=True) == "\udce9"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "valid JSON"),
        ("[", "valid JSON"),
        (b"\xff", "can't decode byte"),
        ("[" * 100_000, "too many nested levels"),
        ("[" * 60 + "]" * 60, "at most 50 nested levels"),
        ("[1e999]", "finite numbers, got inf"),
        ("[NaN]", "finite numbers, got nan"),
        ("9" * 400, "64 bits"),
        ("9" * 5000, "valid JSON"),
        ('"\\ud800"', "valid Unicode"),
        ('{"\\udce9": 1}', "valid Unicode"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' 2 times"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_sound_json(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse_json(text)
    with pytest.raises(ConfigError):
        parse_json('"\\ud800"', file_names=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "valid YAML"),
        (b"\xff\xfe", "can't decode byte"),
        ("\0", "control characters"),
        ("\ta: 1", "valid YAML"),
        ("--- 1\n--- 2", "single document"),
        ("[" * 100_000, "nest"),
        ("- " * 60 + "1", "at most 50 nested levels"),
        (BOMB, "at most 100000 values"),
        ("a: &a [*a]", r"complete value, got '\*a'"),
        ("a: *b", "complete value"),
        ("a: 1\nb: &b 2\na: *b", "'a' twice"),
        ("? [1]\n: 2", "unhashable"),
        ("? &k {a: 1}\n: 2\n*k : 3", "valid YAML"),
        ("a: 2001-13-45", "month must be in"),
        ("a: 2001-01-01", "numbers, strings"),
        ("!!python/object/apply:os.system [true]", "constructor"),
        ("!!int ''", "valid YAML"),
        ("!!bool x", "valid YAML"),
        ("!!timestamp x", "valid YAML"),
        ("a: !!binary aGVs", "numbers, strings"),
        ("a: .inf", "finite numbers"),
        ("1: 2", "keys that are strings"),
        ("a: " + "9" * 5000, "at most 4096 characters"),
        ("a: 0x" + "f" * 400, "64 bits, got one of 1600 bits"),
        ("1:" * 1000 + "1", "64 bits"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_sound_yaml(text, complaint):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=complaint) as raised:
        parse_yaml(text)
    assert time.monotonic() < began + 5
    assert len(str(raised.value)) <= 1000
