from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from potstill import methods
from potstill.config import Config, ConfigErrors, Resolved, recipes, resolve
from potstill.config.load import find
from potstill.config.sections import Section, seconds
from potstill.errors import ConfigError, RefusedError

NETS = {"teacher.model": "zoo:resnet32x4", "student.model": "zoo:resnet8x4"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "c.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def made(*overrides: str, files: tuple[str, ...] = (), **flags: Any) -> Resolved:
    return resolve(files, overrides, {**NETS, **flags}, "distill")


def errors(
    *overrides: str, files: tuple[str, ...] = (), kind: Any = "distill", nets: bool = True, **flags: Any
) -> list[str]:
    """One line a problem."""
    with pytest.raises(ConfigErrors) as caught:
        resolve(files, overrides, {**(NETS if nets else {}), **flags}, kind)
    text = str(caught.value)
    return text.split("\n  ")[1:] if "problems in the configuration" in text else [text]


def test_nothing_but_nets_gives_hintons_distillation_complete() -> None:
    config = made().config
    assert config.method == "kd"
    assert {name: (loss.use, loss.weight) for name, loss in config.losses.items()} == {
        "ce": ("ce", 0.1),
        "kd": ("kd", 0.9),
    }
    assert config.losses["kd"].settings == {"temperature": 4.0, "standardize": False}
    assert config.losses["kd"].at == "logits"
    assert config.student.model == "zoo:resnet8x4"
    optim = config.optim  # as in RepDistiller's tables
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay, config.data.batch) == ("sgd", 0.05, 0.9, 5e-4, 64)


@pytest.mark.parametrize("method", methods.PRESETS)
def test_every_method_resolves_with_what_is_published(method: str) -> None:
    preset = methods.PRESETS[method]
    loss = made(method=method).config.losses[method]
    weight = loss.weight if isinstance(loss.weight, float) else loss.weight.model_dump(by_alias=True)
    published = preset.main_weight(staged=True)
    if isinstance(published, Mapping):
        published = {"shape": "linear", "start": 0.0, "end": 1.0, **published}
    assert (weight, loss.at) == (published, preset.at)
    before = loss.before and loss.before.model_dump()
    assert before == (preset.before and preset.before.settings())
    for key, value in preset.settings.items():
        assert loss.settings[key] == (tuple(value) if isinstance(value, list) else value)


def test_the_later_wins_and_each_origin_is_kept() -> None:
    one = write("epochs: 5\nseed: 3\noptim: {lr: 0.1}\n", "one.yaml")
    two = write("epochs: 6\n", "two.yaml")
    resolved = made("optim.lr=0.2", files=(one, two), clip=1.0)
    config, origins = resolved.config, resolved.origins
    assert (config.epochs, config.seed, config.optim.lr, config.clip) == (6, 3, 0.2, 1.0)
    assert origins["epochs"] == "two.yaml:1:1"
    assert origins["seed"] == "one.yaml:2:1"
    assert origins["optim.lr"] == origins["clip"] == "command line"
    assert "momentum" not in origins
    assert resolved.user["optim"] == {"lr": 0.2}
    assert resolved.user["epochs"] == 6
    assert "losses" not in resolved.user
    why = resolved.why()
    assert "epochs: 6" in why
    line = next(line for line in why.splitlines() if line.startswith("epochs:"))
    assert line.endswith("# two.yaml:1:1")
    assert next(line for line in why.splitlines() if "temperature" in line).endswith("# default of kd")
    assert next(line for line in why.splitlines() if line.startswith("seeds")).endswith("# default")


def test_short_forms() -> None:
    file = write(
        "teacher: zoo:a\nstudent: {model: zoo:b}\ndata: folder:x\noptim: adamw\nschedule: linear\nlosses:\n  ce:\n  kd: 0.5\n"
    )
    config = resolve([file], ["teacher.weights=t.pt"]).config
    assert (config.teacher.model, config.teacher.weights) == ("zoo:a", "t.pt")
    assert (config.data.source, config.optim.name, config.schedule.name) == ("folder:x", "adamw", "linear")
    assert (config.losses["kd"].weight, config.losses["ce"].weight) == (0.5, 1.0)
    assert config.method is None
    assert config.label == "kd"


def test_an_empty_section_says_nothing() -> None:
    config = made(files=(write("data:\noptim:\nlosses:\n"),)).config
    assert config.optim.lr == 0.05


def test_a_method_replaces_the_losses_before_it_and_says_so() -> None:
    file = write("method: kd\nlosses: {kd: {temperature: 2}}\n")
    assert made(files=(file,)).config.losses["kd"].settings["temperature"] == 2.0
    resolved = made(files=(file,), method="at+kd")
    assert list(resolved.config.losses) == ["ce", "at", "kd"]
    assert resolved.config.losses["kd"].settings["temperature"] == 4.0
    assert resolved.config.method == "at+kd"
    assert "replaces the losses of c.yaml:2:10 (kd)" in resolved.notices[0]
    assert "losses" not in resolved.user
    assert made(files=(write("method: kd\n"),), method="at+kd").notices == ()


def test_a_published_schedule_is_refined_key_by_key_and_replaced_by_a_whole_one() -> None:
    def weight(*overrides: str) -> object:
        found = made(*overrides, method="dkd").config.losses["dkd"].weight
        return found if isinstance(found, float) else found.model_dump(by_alias=True, exclude_defaults=True)

    assert weight() == {"from": 0.0, "to": 1.0, "end": 20 / 240}
    assert weight("losses.dkd.weight.to=3") == {"from": 0.0, "to": 3.0, "end": 20 / 240}
    assert weight("losses.dkd.weight={from: 4, to: 1}") == {"from": 4.0, "to": 1.0}
    assert weight("losses.dkd.weight=2") == 2.0
    losses = made(files=(write("losses: {ce: 1, mine: {use: reviewkd}}\n"),)).config.losses
    assert losses["mine"].weight.last == 5.0


def test_overrides_refine_a_method_and_add_to_it() -> None:
    refined = made("losses.kd.temperature=2", "losses.kd.weight.from=1", "losses.kd.weight.to=0", method="at+kd").config
    assert refined.losses["kd"].settings["temperature"] == 2.0
    assert refined.losses["kd"].weight.model_dump(by_alias=True) == {
        "from": 1.0,
        "to": 0.0,
        "shape": "linear",
        "start": 0.0,
        "end": 1.0,
    }
    assert refined.method == "at+kd"
    added = made("losses.fitnet.weight=5").config
    assert list(added.losses) == ["ce", "kd", "fitnet"]
    assert added.losses["fitnet"].at == methods.PRESETS["fitnet"].at
    assert added.method is None
    assert added.label == "kd+fitnet"


def test_a_file_with_losses_alone_says_them_all() -> None:
    file = write(
        "losses:\n  ce: {weight: 0.5}\n  low: {use: fitnet, at: [[a, b], c]}\n  high: {use: fitnet, at: [d, e]}\n"
    )
    losses = made(files=(file,)).config.losses
    assert list(losses) == ["ce", "low", "high"]
    assert losses["low"].at == [("a", "b"), "c"]
    assert losses["high"].at == ("d", "e")
    assert losses["high"].weight == methods.PRESETS["fitnet"].weight


def test_another_optimizer_drops_the_settings_of_the_one_before() -> None:
    file = write(
        "optim: {name: sgd, lr: 0.3, nesterov: true}\nschedule: {name: multistep, milestones: [2, 4], warmup: 1}\n"
        "student: {model: a, weights: w}\n"
    )
    kept = resolve([file], ["teacher=t"]).config
    assert (kept.optim.lr, kept.optim.args, kept.schedule.args) == (0.3, {"nesterov": True}, {"milestones": (2.0, 4.0)})
    config = resolve([file], ["teacher=t", "optim=AdamW", "schedule=cosine", "student=b"]).config
    assert (config.optim.lr, config.optim.weight_decay, config.optim.momentum, config.optim.args) == (
        1e-3,
        1e-2,
        None,
        {},
    )
    assert (config.schedule.args, config.schedule.warmup) == ({}, 1.0)
    assert config.student.weights is None
    assert resolve([file], ["teacher=t", "optim=SGD"]).config.optim.lr == 0.3


def test_training_has_no_method_and_no_teacher() -> None:
    config = resolve([], [], {"student.model": "zoo:a"}, "train").config
    assert (config.kind, config.method, list(config.losses), config.losses["ce"].weight) == (
        "train",
        "none",
        ["ce"],
        1.0,
    )
    assert "labels" in errors(kind="train", nets=False, **{"student.model": "a", "method": "kd"})[0]
    assert "no teacher" in errors(kind="train", nets=False, **{"student.model": "a", "teacher.model": "b"})[0]
    file = write("kind: train\nstudent: a\n")
    assert resolve([file]).config.kind == "train"
    assert errors(files=(file,)) == [
        "c.yaml:1:1: kind: is 'train', the command is `potstill distill`.\n  try: potstill train"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "optim:\n  learning_rate: 0.1\n",
            "c.yaml:2:3: optim.learning_rate: no such key. Did you mean 'lr'? Known: name, lr,",
        ),
        (
            "losses:\n  kd: {tempratur: 2}\n",
            "c.yaml:2:8: losses.kd.tempratur: no such key. Did you mean 'temperature'? Known: use,",
        ),
        ("losses: {kd: {T: 2}}\n", "c.yaml:1:15: losses.kd.T: no such key. Did you mean 'temperature'?"),
        ("losses: {kd: {alpha: 2}}\n", "losses.kd.alpha: no such key. Did you mean 'weight'?"),
        ("losses: {kd: {s_shape: [1]}}\n", "losses.kd.s_shape: is found by looking at the nets and the data"),
        (
            "losses:\n  kdd: {}\n",
            "c.yaml:2:3: losses.kdd: no such method. Did you mean 'kd'? All: potstill list methods.",
        ),
        ("losses:\n  x: {use: kdd}\n", "c.yaml:2:7: losses.x.use: no such method. Did you mean 'kd'?"),
        ("losses: [kd]\n", "c.yaml:1:1: losses: must be a mapping by name, {kd: {temperature: 2}}, got ['kd'] (list)."),
        ("losses: {kd: {weight: x}}\n", "losses.kd.weight: must be a number or a mapping, got 'x' (str)."),
        ("losses: {kd: {weight: -1}}\n", "losses.kd.weight: must be at least 0, got -1."),
        (
            "losses: {kd: {weight: {from: 1, to: 2, strt: 0}}}\n",
            "losses.kd.weight.strt: no such key. Did you mean 'start'?",
        ),
        ("losses: {kd: {weight: {from: 1, to: 0, start: 1}}}\n", "losses.kd.weight: must start before it ends"),
        ("losses: {kd: {temperature: 0}}\n", "losses.kd.temperature: must be greater than 0, got 0."),
        ("losses: {kd: {temperature: .nan}}\n", "losses.kd.temperature: must be a finite number, got nan."),
        (
            "losses: {kd: {at: 3}}\n",
            "losses.kd.at: must be a spot, a pair [student's, teacher's] or a list of them, got 3.",
        ),
        ("losses: {ce: 0, kd: 0}\n", "losses: no loss has a weight above 0"),
        ("batch_size: 4\n", "c.yaml:1:1: batch_size: no such key. Did you mean 'data.batch'?"),
        ("lr: 4\n", "lr: no such key. Did you mean 'optim.lr'?"),
        ("epoch: 4\n", "epoch: no such key. Did you mean 'epochs'? All: potstill show config."),
        ("epochs: ten\n", "c.yaml:1:1: epochs: must be a whole number, got 'ten' (str)."),
        ("epochs: true\n", "epochs: must be a whole number, got True (bool)."),
        ("epochs: 1.5\n", "epochs: must be a whole number, got 1.5."),
        ("epochs: -3\n", "epochs: must be at least 1, got -3."),
        ("control: no\n", "control: must be true or false, got 'no' (str)."),
        ("precision: fp16\n", "precision: must be one of auto, 32, bf16, 16, got 'fp16' (str)."),
        ("time_limit: soon\n", "time_limit: must be a time such as 90s, 30m, 2h or 1h30m, got 'soon' (str)."),
        ("data: {channels: 2}\n", "data.channels: must be one of 1, 3, got 2."),
        ("data: {augment: {flipp: true}}\n", "c.yaml:1:18: data.augment.flipp: no such key. Did you mean 'flip'?"),
        ("data: {labels: 20, limit: 10}\n", "data.labels: must be at most data.limit, got 20 of 10"),
        ("optim: adm\n", "c.yaml:1:1: optim.name: no such name. Did you mean 'Adam'? Known:"),
        ("optim: {name: adam, momentun: 1}\n", "optim.momentun: no such key. Did you mean 'momentum'?"),
        (
            "schedule: {name: cosine, milestones: [1]}\n",
            "schedule.milestones: no such key. Known: name, warmup, eta_min.",
        ),
        (
            "schedule: {name: multistep, milestones: [1, x]}\n",
            "schedule.milestones.1: must be a number, got 'x' (str).",
        ),
        ("schedule: cosin\n", "schedule.name: no such name. Did you mean 'cosine'? Known: cosine,"),
        ("schedule: {warmup: 30}\n", "schedule.warmup: must be shorter than the training, got 30 of 30 epochs."),
        ("schedule: {name: StepLR, step_size: 3, warmup: 1}\n", "schedule.warmup: goes with cosine"),
        ("student: {mean: [0.5]}\n", "student.std: is needed: mean and std go together."),
        ("student: {mean: [0.5], std: [0]}\n", "student.std: must be greater than 0, got [0.0]."),
        ("method: 5\n", "c.yaml:1:1: method: must be text, got 5."),
        (
            "method: kdd+at\n",
            "c.yaml:1:1: method: no such method: 'kdd'. Did you mean 'kd'? All: potstill list methods.",
        ),
        ("method: kd+kd\n", "method must name one or more different methods"),
        (
            "kind: distil\n",
            "c.yaml:1:1: kind: must be one of distill, train, got 'distil' (str). Did you mean 'distill'?",
        ),
        ("<<: {epochs: 1}\n", "c.yaml:1:1: <<: no such key."),
    ],
)
def test_one_fault_one_line(text: str, expected: str) -> None:
    found = errors(files=(write(text),))
    assert len(found) == 1
    assert expected in found[0]
    assert len(found[0].splitlines()) <= 6


def test_all_faults_at_once_in_the_order_of_the_file() -> None:
    file = write(
        "optim: {learning_rate: 0.1}\nlosses:\n  kd: {tempratur: 2}\n  crdd: {}\nepochs: ten\ndata:\n  batch: 0\nstudent: x\n"
    )
    found = errors("seed=-1", files=(file,), nets=False)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "command line seed",
        "teacher is needed",
        "c.yaml:1:9 optim.learning_rate",
        "c.yaml:3:8 losses.kd.tempratur",
        "c.yaml:4:3 losses.crdd",
        "c.yaml:5:1 epochs",
        "c.yaml:7:3 data.batch",
    ]


def test_a_missing_student_is_said_with_a_missing_teacher() -> None:
    found = errors(nets=False)
    assert [line.split(":")[0] for line in found] == ["student", "teacher"]


def test_a_method_beside_other_losses_names_both_origins() -> None:
    (found,) = errors(files=(write("method: kd\nlosses: {fitnet: {weight: 3}}\n"),))
    assert found.startswith("c.yaml:2:10: losses.fitnet: is not a loss of method 'kd' (c.yaml:1:1).")
    assert "method: kd+fitnet" in found
    (found,) = errors("losses.fitnet.weight=3", method="kd")
    assert "losses.fitnet: is not a loss of method 'kd' (command line)" in found


def test_a_setting_given_twice_on_the_command_line() -> None:
    (found,) = errors("epochs=4", epochs=3)
    assert found == "command line: epochs: given twice: epochs=3 and epochs=4."
    assert made("epochs=4", epochs=4).config.epochs == 4


@pytest.mark.parametrize("item", ["epochs", "=3", "a..b=3", ".a=3", "1a=3"])
def test_what_is_not_key_value(item: str) -> None:
    with pytest.raises(ConfigError, match="must be key=value"):
        made(item)


def test_losses_of_ones_own() -> None:
    Path("mine.py").write_text(
        "class Mine(Loss):\n  def __init__(self, s_shape: Shape, margin: Positive = 0.1, *, k: int): ...\n"
    )
    config = made("losses.my.use=./mine.py:Mine", "losses.my.k=3").config
    assert config.losses["my"].settings == {"k": 3, "margin": 0.1}
    assert (config.losses["my"].weight, config.losses["my"].at) == (1.0, None)
    assert errors("losses.my.use=./mine.py:Mine") == ["command line: losses.my.k: is needed."]
    (found,) = errors("losses.my.use=./mine.py:Mine", "losses.my.k=1", "losses.my.margn=1")
    assert "losses.my.margn: no such key. Did you mean 'margin'?" in found
    (found,) = errors("losses.my.use=./min.py:Mine")
    assert "losses.my.use: no such file: ./min.py. Did you mean 'mine.py'?" in found


def test_files_and_recipes_are_found_by_their_names() -> None:
    write("epochs: 3\n", "flowers.yaml")
    assert find("flowers.yaml") == Path("flowers.yaml")
    assert {*recipes()} >= {"digits", "cifar100-kd"}
    assert find("digits").name == "digits.yaml"
    for name, near in (("flower.yaml", "flowers.yaml"), ("digit", "digits")):
        with pytest.raises(ConfigError, match=f"no such file or recipe: {name}. Did you mean '{near}'?"):
            find(name)
    Path("run").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        find("run")
    for text in ("- a\n", "5\n"):
        with pytest.raises(ConfigError, match="must be settings"):
            made(files=(write(text),))
    with pytest.raises(RefusedError):
        made(files=(write("a: !x 1\n"),))
    assert made(files=(write(""),)).config == made().config


def test_tensorboard_is_on_where_it_is_installed() -> None:
    import importlib.util

    assert made().config.track == (["tensorboard"] if importlib.util.find_spec("tensorboard") else [])
    assert made("track=[]").config.track == []
    assert made("track=tensorboard").config.track == ["tensorboard"]


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5d", 129600)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "2", "2x", "h2", "0s", "30m1h", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        seconds(text)


def test_every_setting_says_what_it_is() -> None:
    def sections(model: type[Section]) -> set[type[Section]]:
        return {model, *(s for sub in model.__subclasses__() for s in sections(sub))}

    for section in sections(Section) - {Section}:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_a_configuration_can_be_made_in_python() -> None:
    config = Config(teacher="zoo:a", student="zoo:b", data="folder:x", losses={"kd": {"use": "kd", "temperature": 2.0}})
    assert config.teacher.model == "zoo:a"
    assert config.losses["kd"].settings == {"temperature": 2.0}


def test_torch_is_not_needed() -> None:
    code = (
        "import sys\nfrom potstill.config import resolve\n"
        "resolve([], ['optim=adamw', 'optim.betas=[0.9, 0.95]', 'schedule=StepLR', 'schedule.step_size=3'],"
        " {'teacher': 'a', 'student': 'b', 'method': 'at+kd'})\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_record_of_a_run_that_was_cut_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    cut = write("kind: distill\nepochs: 3\n", str(tmp_path / "config.yaml"))
    with pytest.raises(ConfigErrors, match="student") as raised:
        resolve([cut])
    assert "was whole when the run wrote it" in str(raised.value.why)
    with pytest.raises(ConfigErrors) as raised:
        resolve([write("kind: distill\n")])
    assert raised.value.why is None
    with pytest.raises(ConfigErrors, match="must be a finite number, got 'nan'"):
        made("optim.lr=nan", **NETS)


def test_settings_of_ray_without_ray_are_told() -> None:
    def told(*overrides: str) -> bool:
        return any("launcher=ray" in notice for notice in made(*overrides, **NETS).notices)

    assert told("ray.failures=1")
    assert not told("ray.failures=1", "launcher=ray")
    assert not told()
