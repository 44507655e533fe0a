from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from potstill import methods
from potstill.config import Config, dump, json_schema, resolve, to_yaml
from potstill.config.check import keys
from potstill.config.yaml import parse
from potstill.errors import PotstillError

NETS = {"teacher.model": "zoo:a", "student.model": "zoo:b"}


def again(config: Config, path: Path) -> Config:
    path.write_text(dump(config), encoding="utf-8")
    return resolve([str(path)]).config


@pytest.mark.parametrize("method", [*methods.PRESETS, "at+kd", "none"])
def test_what_is_written_reads_back_equal(method: str, tmp_path: Path) -> None:
    config = resolve([], [], {**NETS, "method": method}).config
    assert again(config, tmp_path / "c.yaml") == config


def test_unusual_settings_read_back_equal(tmp_path: Path) -> None:
    config = resolve(
        [],
        [
            "losses.fitnet.at=[[a, b], c]",
            "losses.fitnet.weight={from: 1, to: 0, shape: cosine, end: 0.5}",
            "name='1e-3'",
            "device='on'",
            "out= ü: #1 ",
            "student.kwargs={a: '5', b: [1, 'null', ~], 1: {x: {}}}",
            "student.mean=[0.1, 0.2]",
            "student.std=[1, 1e-05]",
            "precision=16",
            "time_limit=1h30m",
            "schedule=multistep",
            "schedule.milestones=[1, 2]",
            "optim=adamw",
            "optim.betas=[0.9, 0.95]",
            "track=[]",
        ],
        NETS,
    ).config
    assert config.student.kwargs == {"a": "5", "b": [1, "null", None], "1": {"x": {}}}
    assert config.name == "1e-3"
    assert again(config, tmp_path / "c.yaml") == config


def test_random_values_survive_writing_and_reading() -> None:
    rng = random.Random(0)
    words = [
        "no",
        "1e-3",
        "0x1",
        ".5",
        "null",
        "~",
        "#",
        "-",
        "'",
        '"',
        "ü",
        "*a",
        "!t",
        "012",
        "=",
        "<<",
        "1:30",
        ".inf",
        "[",
        "%",
    ]
    words += ["2026-01-01", "@", "|", "%"]
    words += ["", "a: b", "# x", "- y", "\t", "x\ny", " x ", "\u2028", "\x85", "\n", "x\n", "a #b"]

    def tree(depth: int) -> object:
        kind = rng.randrange(7 if depth else 5)
        if kind == 5:
            return [tree(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 6:
            return {rng.choice(words) or "k": tree(depth - 1) for _ in range(rng.randrange(4))}
        return [
            rng.choice(words),
            rng.uniform(-1e9, 1e9),
            10.0 ** rng.randint(-300, 300),
            rng.randint(-(10**20), 10**20),
            rng.choice([None, True, False]),
        ][kind]

    for _ in range(400):
        values = {"k": tree(3), rng.choice(words) + "x": tree(3)}
        assert parse(to_yaml(values), "f").value == values


def test_noise_gives_a_configuration_or_a_clear_error() -> None:
    """Broken configurations end in an error made for the user, never in one of ours."""
    rng = random.Random(1)
    names = sorted(
        {key for section in keys().values() for key in section} | {"kd", "at", "ce", "from", "x", "temperature"}
    )
    values = [
        "1",
        "-1",
        "x",
        "[]",
        "[1, x]",
        "{}",
        "{a: 1}",
        "{model: a}",
        "null",
        "true",
        ".nan",
        "1e400",
        "kd",
        "adamw",
        "'",
        "[",
    ]
    values += ["[", "zoo:a", "{use: kd}", "{use: 3}", "[[a, b]]"]
    seen, said = set(), []
    for _ in range(1500):
        overrides = [
            f"{'.'.join(rng.choices(names, k=rng.randint(1, 3)))}={rng.choice(values)}"
            for _ in range(rng.randint(0, 4))
        ]
        overrides += rng.sample(["teacher=a", "student=b", "losses.kd.temperature=2", "method=at+kd", "losses=x"], 3)
        try:
            resolve([], overrides)
            seen.add("good")
        except PotstillError as error:
            seen.add(type(error).__name__)
            said.append(str(error))
    assert not [text for text in said if re.search("Traceback|pydantic|Input should|constrained", text)]
    assert seen >= {"good", "ConfigErrors", "ConfigError"}


def test_the_json_schema_knows_every_key() -> None:
    schema = json_schema()
    assert {*schema["properties"]} == {*Config.model_fields}
    assert schema["properties"]["epochs"]["description"]
    assert schema["additionalProperties"] is False
    assert {"type": "string"}.items() <= schema["$defs"]["ModelConfig"]["anyOf"][0].items()
