from __future__ import annotations

import math
import time

import pytest

from potstill.config.yaml import MAX_BYTES, parse, read, scalar, value
from potstill.errors import ConfigError, RefusedError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("~", None),
        ("", None),
        ("null", None),
        ("1e-3", 1e-3),
        ("5.", 5.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("-1.5E+3", -1500.0),
        ("012", 12),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("-.Inf", -math.inf),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
    ],
)
def test_a_scalar_is_read_by_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    found = scalar(text)
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_scalars_are_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  no\n", "f").value == {"a": "1", "b": "true", "c": "no\n"}


def test_keys_are_text_and_every_value_has_its_place() -> None:
    document = parse("on: 1\n1:\n  - x\n  - {y: 2}\n", "f.yaml")
    assert document.value == {"on": 1, "1": ["x", {"y": 2}]}
    assert document.places == {
        ("on",): "f.yaml:1:1",
        ("1",): "f.yaml:2:1",
        ("1", 0): "f.yaml:3:5",
        ("1", 1): "f.yaml:4:5",
        ("1", 1, "y"): "f.yaml:4:6",
    }


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: [1, 2\nb: 3", "f:2:2", "expected ',' or ']'"),
        ("a:\n\tb: 3", "f:2:1", "a tab"),
        ("a: 1\n b: 2", "f:2:3", "mapping values are not allowed"),
        ("a: \x00", "f:1:4", "U+0000"),
        ("x: *nope", "f:1:4", "undefined alias"),
        ("a: 'b", "f:1:6", "end of stream"),
        ("--- a\n--- b", "f:2:1", "another document"),
        ("? [a]\n: b", "f:1:3", "a key must be plain text"),
    ],
)
def test_a_syntax_error_says_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert caught.value.where == place
    assert says in caught.value.what
    assert len(str(caught.value).splitlines()) <= 4


def test_the_caret_stands_below_the_column_even_in_a_long_line() -> None:
    for text in ("abc: [1, 2", "x: " + "[" * 5 + " " * 300 + "}"):
        with pytest.raises(ConfigError) as caught:
            parse(text, "f")
        _, excerpt, caret = str(caught.value).splitlines()
        column = int(str(caught.value.where).split(":")[-1])
        shown = excerpt[caret.index("^") :][:1]
        assert shown == text[column - 1 : column]
        assert len(excerpt) < 120


def test_a_key_given_twice_names_both_lines() -> None:
    with pytest.raises(ConfigError, match=r"f:3:3: the key 'b' is given twice; first at f:2:3"):
        parse("a:\n  b: 1\n  b: 2\n", "f")


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system [x]", "a: !import_call {}", "a: !!str 5", "! a", "%TAG ! tag:x\n--- !y 1"],
)
def test_a_tag_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="carries no code"):
        parse(text, "f")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]", "a: &a {b: *a}", "[" * 5000, "- " * 3000, "[" + "1," * 20_000 + "]", "x" * (MAX_BYTES + 1)],
)
def test_unbounded_input_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(RefusedError):
        parse(text, "f")
    assert time.process_time() - began < 5


def test_an_alias_stands_for_its_value() -> None:
    document = parse("a: &x {lr: 1}\nb: *x", "f")
    assert document.value == {"a": {"lr": 1}, "b": {"lr": 1}}
    assert document.value["a"] is not document.value["b"]


def test_files(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("\ufeffa: ü\n".encode())
    assert read(path).value == {"a": "ü"}
    assert read(path).places == {("a",): f"{path}:1:1"}
    path.write_bytes(b"a: 1\nb: \xfc\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2:4: not UTF-8: byte 0xFC"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2),
        ("1e-3", 1e-3),
        ("", None),
        ("[1, a]", [1, "a"]),
        ("{from: 4}", {"from": 4}),
        ("'5'", "5"),
        ("folder:my #1", "folder:my #1"),
        ("a: b", "a: b"),
        ("@x", "@x"),
    ],
)
def test_a_value_of_the_command_line(text: str, expected: object) -> None:
    assert value(text) == expected


def test_a_value_of_the_command_line_is_no_code() -> None:
    with pytest.raises(RefusedError):
        value("!!python/name:os.system x")
