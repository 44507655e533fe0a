from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from potstill import methods
from potstill.cli import COMMANDS, run
from potstill.commands import browse, options
from potstill.commands.screen import SCREEN, columns, painted
from potstill.config import Config, dump, recipes, resolve

NETS = ["--teacher", "runs/teacher", "--student", "zoo:resnet8x4"]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def potstill(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "potstill.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_the_root_help_shows_examples_first_and_every_command(cli) -> None:
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 36
    assert out.index("potstill demo") < out.index("Commands:")
    assert re.findall(r"^  (\w+)  ", out.partition("Commands:")[2], re.MULTILINE) == [*COMMANDS, "cache"]
    assert cli() == (0, out, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_pages_are_short_and_begin_with_an_example(cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 40
    assert f"    potstill {command}" in out.partition("Options:")[0]
    assert cli(command, "-h")[1] == out


@pytest.mark.parametrize("command", ["train", "distill"])
def test_flags_name_settings_and_say_their_defaults(cli, command: str) -> None:
    """What the help says in brackets is the default of the setting that the flag sets."""
    fields = {key: default for key, default, _ in browse.setting_rows()}
    words = {"on": "true"}
    for flag, default in re.findall(r"--([\w-]+)[^\n]*\[([^<\]]+)\]$", cli(command, "--help")[1], re.MULTILINE):
        key = options.KEYS.get(flag, flag.replace("-", "_"))
        assert words.get(default, default) == fields[key], flag


def test_every_number_flag_sets_its_setting(cli) -> None:
    numbers = ["--epochs", "7", "--batch", "8", "--lr", "1e-3", "--seed", "2", "--seeds", "3", "--no-control"]
    code, out, _ = cli("distill", *NETS, *numbers, "--together", "2", "--print-config")
    assert code == 0
    for line in (
        "epochs: 7",
        "  batch: 8",
        "  lr: 0.001",
        "seed: 2",
        "seeds: 3",
        "together: 2",
        "control: false",
        "  model: runs/teacher",
    ):
        assert f"\n{line}\n" in out
    rest = ["--device", "cpu", "--precision", "16", "--time-limit", "2h", "--method", "at+kd", "--data", "folder:x y"]
    out = cli("distill", *NETS, *rest, "--print-config")[1]
    for line in ("device: cpu", "precision: '16'", "time_limit: 2h", "method: at+kd", "  source: folder:x y"):
        assert f"\n{line}\n" in out


@pytest.mark.parametrize(
    ("flags", "out", "name"),
    [
        ([], "runs", None),
        (["--out", "runs/teacher"], "runs", "teacher"),
        (["--out", "teacher/"], ".", "teacher"),
        (["--out", "/a/b/c"], "/a/b", "c"),
        (["--out", "/a"], "/", "a"),
        (["--name", "first"], "runs", "first"),
        (["--out", "a/b", "--name", "first"], "a/b", "first"),
    ],
)
def test_out_is_the_run_directory_or_with_name_the_folder_it_is_in(
    cli, flags: list[str], out: str, name: str | None
) -> None:
    config = json.loads(cli("train", "--model", "zoo:resnet8", *flags, "--print-config", "--json")[1])
    assert (config["out"], config["name"]) == (out, name)


def test_print_config_is_complete_and_runs_again(cli) -> None:
    _, out, _ = cli("distill", *NETS, "--method", "at+kd", "losses.kd.temperature=2", "--print-config")
    Path("again.yaml").write_text(out)
    assert dump(resolve(["again.yaml"]).config) == out
    assert "temperature: 2.0" in out
    _, why, _ = cli("distill", "again.yaml", "seed=3", "--print-config=why")
    assert re.search(r"^seed: 3 +# command line$", why, re.MULTILINE)
    assert re.search(r"^    temperature: 2.0 +# again.yaml:\d+:5$", why, re.MULTILINE)


def test_a_method_that_replaces_losses_is_announced_unless_quiet(cli) -> None:
    Path("c.yaml").write_text("method: kd\nlosses: {kd: {temperature: 2}}\n")
    _, out, err = cli("distill", "c.yaml", *NETS, "--method", "at", "--print-config")
    assert "note: method at (command line) replaces the losses of c.yaml:2:10 (kd)" in err
    assert "note" not in out
    assert cli("distill", "c.yaml", *NETS, "--method", "at", "--print-config", "-q")[2] == ""


def test_a_file_may_have_an_equals_sign_in_its_name(cli) -> None:
    Path("a=b.yaml").write_text("seed: 7\n")
    assert "\nseed: 7\n" in cli("distill", "./a=b.yaml", *NETS, "data=folder:x/y=z", "--print-config")[1]


def test_check_of_the_configuration_alone(cli) -> None:
    assert cli("check", "cifar100-kd", "--config-only") == (
        0,
        "ok: distill runs/teacher -> zoo:resnet8x4, kd on cifar100:data\n",
        "",
    )
    code, out, _ = cli("check", "digits", "epochs=3", "--config-only", "--json")
    assert (code, json.loads(out)["epochs"]) == (0, 3)
    code, _, err = cli("check", "--config-only")
    assert (code, "which configuration?" in err) == (2, True)
    assert not Path("runs").exists()


@pytest.mark.parametrize("what", ["methods", "models", "data", "recipes"])
def test_lists(cli, what: str) -> None:
    code, out, _ = cli("list", what)
    rows = json.loads(cli("list", what, "--json")[1])
    assert code == 0
    assert len(out.splitlines()) == len(rows) + 1
    first = next(iter(rows[0]))
    assert [line.split()[0] for line in out.splitlines()[1:]] == [row[first].split()[0] for row in rows]


def test_the_list_of_methods_says_what_presets_say(cli) -> None:
    rows = {row["name"]: row for row in json.loads(cli("list", "methods", "--json")[1])}
    assert {*rows} == {*methods.PRESETS}
    for name, preset in methods.PRESETS.items():
        assert (rows[name]["year"], rows[name]["use_when"]) == (preset.year, preset.use_when)
    assert (rows["kd"]["parameters"], rows["fitnet"]["parameters"]) == (0, 16768)
    line = next(line for line in cli("list", "methods")[1].splitlines() if line.startswith("fitnet"))
    assert re.search(r"2015 .* 16,768  +1\.\d\d  +yes ", line)


def test_the_list_of_data_is_that_of_the_sources(cli) -> None:
    from potstill.data.sources import SOURCES

    assert {row["source"]: row["what"] for row in json.loads(cli("list", "data", "--json")[1])} == SOURCES


def test_every_recipe_says_what_it_reproduces_and_resolves(cli) -> None:
    for row in json.loads(cli("list", "recipes", "--json")[1]):
        assert row["time"], row["name"]
        assert "%" in row["expected"], row["name"]
        assert cli("check", row["name"], "--config-only")[0] == 0
        assert cli("show", row["name"])[1] == recipes()[row["name"]].read_text()


@pytest.mark.parametrize("name", [*methods.PRESETS, "ce"])
def test_show_a_method(cli, name: str) -> None:
    code, out, _ = cli("show", name)
    assert code == 0
    facts = json.loads(cli("show", name, "--json")[1])
    for setting in facts["settings"]:
        assert f"losses.{name}.{setting['name']} " in out
    if name != "ce":
        preset = methods.PRESETS[name]
        weight = preset.weight
        weight = f"from {weight['from']:g} to {weight['to']:g}, end" if isinstance(weight, Mapping) else f"{weight:g};"
        assert f"weight      {weight}" in out
        assert f"; cross-entropy {preset.ce:g} alone" in out
        assert preset.weight_source in out
        assert f"potstill distill --method {name} " in out
        assert (facts["weight"], facts["published_settings"]) == (
            preset.weight,
            json.loads(json.dumps(dict(preset.settings))),
        )


def test_show_models_and_settings(cli) -> None:
    code, out, _ = cli("show", "zoo:resnet8x4")
    assert code == 0
    assert re.search(r"parameters +1.23 M", out)
    assert cli("show", "resnet8x4")[1] == out
    config = cli("show", "config")[1]
    for key in ("epochs", "data.augment.flip", "teacher.epochs", "losses.NAME.at", "optim.momentum"):
        assert re.search(rf"^{re.escape(key)} ", config, re.MULTILINE), key
    optim = cli("show", "optim")[1]
    assert [line.split()[0] for line in optim.splitlines()] == [
        "key",
        "optim",
        "optim.name",
        "optim.lr",
        "optim.weight_decay",
        "optim.momentum",
    ]
    assert {*json.loads(cli("show", "config", "--json")[1])["properties"]} == {*Config.model_fields}


def test_cp_never_overwrites(cli) -> None:
    source = recipes()["digits"].read_bytes()
    assert cli("cp", "digits", ".")[:2] == (0, "digits.yaml\n")
    assert Path("digits.yaml").read_bytes() == source
    Path("digits.yaml").write_text("mine")
    code, out, err = cli("cp", "digits")
    assert (code, out) == (2, "")
    assert "digits.yaml exists" in err
    assert Path("digits.yaml").read_text() == "mine"
    assert cli("cp", "digits", "other.yaml")[0] == 0
    assert cli("cp", "digits", "no/folder.yaml")[0] == 2
    assert resolve(["other.yaml"]).config.data.source == "digits"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["distil"], "No such command 'distil'. Did you mean 'distill'"),
        (["distill", "--ephocs", "3"], "No such option: --ephocs"),
        (["list", "method"], "Did you mean 'methods'?"),
        (["list"], "list one of methods, models, data, recipes"),
        (["show", "dkdd"], "nothing is called 'dkdd'. Did you mean 'dkd'?"),
        (["show"], "Missing argument 'NAME'"),
        (["cp", "digts"], "Did you mean 'digits'?"),
        (["resume", "nope"], "nope is not a run directory"),
        (["resume", "nope", "--epochs", "x"], "--epochs must be a whole number from 1, got 'x'"),
        (["eval", "x", "--split", "tst"], "--split must be train, val or test, got 'tst'"),
        (["inspect"], "give one MODEL, or --pair"),
        (["inspect", "a", "--input", "3x0x3"], "--input must be channels, height and width"),
        (["report", "nope"], "nope"),
        (["compare", "nope"], "nope"),
        (["demo", "--seeds", "0"], "--seeds must be a whole number from 1, got '0'"),
    ],
)
def test_wrong_usage(cli, arguments: list[str], says: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 6


def test_a_fault_of_ours_is_two_lines_and_a_file(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(browse.LISTS, "methods", lambda: browse.setting_rows("no section"))  # type: ignore[arg-type]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = cli("list", "methods")
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "AttributeError: 'str' object has no attribute 'model_fields'" in err
    assert "Traceback" not in err
    (log,) = tmp_path.glob("potstill-*.log")
    assert str(log) in err
    assert "in setting_rows" in log.read_text()
    assert "Traceback" in cli("list", "methods", "-v")[2]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(28, "No space left on device", "runs/x"), 6, "the disk is full: runs/x"),
        (PermissionError(13, "Permission denied", "runs"), 6, "permission denied: runs"),
        (MemoryError(), 6, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_machine_and_the_user(
    cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def raises() -> list[object]:
        raise error

    monkeypatch.setitem(browse.LISTS, "methods", raises)
    found, out, err = cli("list", "methods")
    assert (found, out) == (code, "")
    assert says in err
    assert len(err.splitlines()) <= 2


def test_verbose_shows_the_traceback_of_a_users_fault(cli) -> None:
    assert "Traceback" not in cli("show", "nope")[2]
    assert "Traceback" in cli("show", "nope", "-v")[2]
    assert not SCREEN.quiet


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert painted("x", "1", Terminal()) == "\x1b[1mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("x", "1", Terminal()) == "x"  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert painted("x", "1", Terminal()) == "x"  # type: ignore[arg-type]


def test_columns_line_up_and_wrap_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a", "word " * 20), ("long", "x")]
    assert columns(rows, ("k", "what")).splitlines()[1].startswith("a     word word")
    assert len(columns(rows).splitlines()) == 2
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = columns(rows).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("      word")


LIGHT = [
    ["--help"],
    ["--version"],
    *([command, "--help"] for command in COMMANDS),
    ["list", "methods"],
    ["list", "models"],
    ["list", "data"],
    ["list", "recipes"],
    ["show", "kd"],
    ["show", "resnet8x4"],
    ["show", "config"],
    ["show", "digits"],
    ["cp", "digits", "copied.yaml"],
    ["check", "digits", "--config-only"],
    ["check", "digits", "losses.kd.tempratur=2"],
    ["distill", "digits", "--method", "kdd"],
    ["distill", "nope.yaml"],
    ["distill", "digits", "optim=adamw", "schedule=StepLR", "schedule.step_size=3", "--print-config=why"],
    ["resume", "nope"],
    ["eval", "x", "--split", "y"],
    ["report", "nope"],
    ["compare", "nope"],
    ["lst"],
]


def test_none_of_this_imports_torch(tmp_path: Path) -> None:
    code = "import sys\nfrom potstill.cli import run\n"
    code += f"for arguments in {LIGHT!r}:\n    run(arguments)\n    assert 'torch' not in sys.modules, arguments"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the CPU time of a child process")
@pytest.mark.parametrize("arguments", [["--help"], ["list", "methods"], ["distill", "digits", "losses.kd.tempratur=2"]])
def test_answers_are_quick(arguments: list[str], tmp_path: Path) -> None:
    """CPU time, which the load of the machine does not stretch much; the best of three."""

    def once() -> float:
        command = [sys.executable, "-m", "potstill.cli", *arguments]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode in (0, 2)
        return usage.ru_utime + usage.ru_stime

    assert min(once() for _ in range(3)) < 0.7


def test_the_command_is_installed_and_its_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    assert potstill("--version", cwd=tmp_path).stdout.startswith("potstill ")
    done = potstill("distill", "digits", "epochs=ten", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: epochs: must be a whole number, got 'ten' (str).\n"


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m potstill.cli show config | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("key")


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_tells_a_fault_whole(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "0")
    assert run(["show", "kdd"]) == 2
    whole = capsys.readouterr().err
    assert len(whole.splitlines()) > 1
    monkeypatch.setenv(variable, "1")
    assert run(["show", "kdd"]) == 2
    first = whole.splitlines()[0].removeprefix("error: ")
    assert capsys.readouterr().err == f"error: of process 1: {first}\n"
