import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.errors import ConfigError, MachineError
from potstill.runs import Journal, RunFolder, auto_name, environment


def test_a_journal_forgets_what_came_after_a_checkpoint(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m.jsonl")
    assert journal.rows() == []
    journal.write({"epoch": 1, "name": "é"})
    offset = journal.offset()
    journal.write({"epoch": 2})
    journal.truncate(offset)
    assert journal.rows() == [{"epoch": 1, "name": "é"}]
    journal.truncate(10_000)
    assert len(journal.rows()) == 1


def test_a_taken_name_gets_a_number_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert RunFolder.new(tmp_path / "a", {}).path.name == "a"
    assert RunFolder.new(tmp_path / "a", {}).path.name == "a-2"
    assert RunFolder.new(tmp_path / "a", {}).path.name == "a-3"
    (tmp_path / "empty").mkdir()
    assert RunFolder.new(tmp_path / "empty", {}).path.name == "empty"


def test_facts_are_kept(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path / "a", {"kind": "train"})
    run.update(status="done")
    again = RunFolder.open(tmp_path / "a")
    assert (again.facts["kind"], again.facts["status"], again.facts["pid"]) == ("train", "done", os.getpid())
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        RunFolder.open(tmp_path / "a")
    with pytest.raises(ConfigError, match="not a run directory"):
        RunFolder.open(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(MachineError, match="cannot make the run directory"):
        RunFolder.new(tmp_path / "f" / "run", {})


def test_one_writer_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path / "a", {})
    code = (
        "import sys, os\nfrom potstill.runs import RunFolder\n"
        "with RunFolder.open(sys.argv[1]).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="being written by process"), run.lock():
        pass
    child.kill()
    child.wait()
    with run.lock():
        pass


def test_names_and_environment() -> None:
    assert auto_name("at+kd", None, "my photos/ü?*").endswith("-at+kd-my_photos_ü")
    said = environment("cpu")
    assert json.dumps(said)
    assert said["packages"]["torch"]
