import hashlib
import html
import itertools
import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from potstill.report import report
from tests.report.checker import Page

SECTIONS = ["table", "seeds", "curves", "calibration", "classes", "pictures", "losses", "data", "again", "doubts"]
ALERT = "<script>alert(1)</script>"
HOSTILE = [
    ALERT,
    '"><img src=x onerror=alert(1)>',
    "$x^2$",
    "</title></style><b>",
    "{{ 7 * 7 }}",
    "#010203",
    "a\x00\u202eb",
    "",
]
HOSTILE += ["ü" * 900, "half \ud800 pair"]


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(finished, tmp_path_factory.mktemp("out"))


def read(run: Path, out: Path) -> Page:
    page = Page(report(run, out / "page.html").read_text(encoding="utf-8"))
    assert page.faults == []
    return page


def test_every_section_is_there_and_listed(page: Page) -> None:
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a")][1:] == [f"#{s}" for s in SECTIONS]


def test_the_numbers_of_the_run_are_on_the_page(page: Page, finished: Path) -> None:
    results = json.loads((finished / "run.json").read_text())["results"]
    for role in ("student", "control"):
        top1 = results[role]["last"]["top1"]
        assert f"{100 * top1['mean']:.2f}\u00a0±\u00a0{100 * top1['std']:.2f}" in page.html
        assert all(f"{100 * x:.2f}" in page.html for x in top1["values"])
    assert f"{100 * results['difference']['mean']:+.1f} points" in page.text
    assert f"{100 * results['teacher']['test']['top1']:.2f}" in page.text
    assert "potstill distill digits method=kd student=mlp-8" in page.text
    assert "teacher: mlp-64" in page.text
    assert "5f" * 32 in page.text
    assert hashlib.sha256((finished / "student.safetensors").read_bytes()).hexdigest() in page.text
    assert "kd kd (temperature 4.0) start 0.0, end 1.0 hidden ← fc1 (8 ← 64) 512" in page.text
    assert "ce ce 1 logits (10) 0" in page.text
    assert "has not finished" not in page.text


def test_it_is_self_contained_small_and_forbids_the_rest(page: Page) -> None:
    assert len(page.html.encode()) < 300_000
    assert "http" not in page.html.replace("http-equiv", "")
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page.html)
    assert {"script", "link", "iframe", "object", "base", "form", "foreignobject"}.isdisjoint(
        t for t, _ in page.elements
    )
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert page.elements.index(("meta", {"http-equiv": "Content-Security-Policy", "content": policy})) < 5
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))


def test_screen_readers_and_keyboards_find_their_way(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("svg")) == 5
    assert all(a["role"] == "img" and len(a["aria-labelledby"].split()) == 2 for a in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a["alt"] for a in page.all("img"))
    assert all(a.get("tabindex") == "0" and a["aria-label"] for a in page.all("div") if a.get("class") == "wide")
    assert all(len(w) > 20 for w in re.findall(r"<desc[^>]*>(.*?)</desc>", page.html))


def test_svg_follows_the_colours_of_the_page(page: Page) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", page.html, re.S))
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    names = {"currentColor", "none", *(f"var(--{n})" for n in ("quiet", "faint", "teacher", "student", "control"))}
    assert colours == names


def test_the_pictures_are_the_pictures(page: Page, finished: Path) -> None:
    import base64
    import io

    from PIL import Image

    images = load_file(finished / "examples.safetensors")["images"]
    shown = [base64.b64decode(a["src"].partition(",")[2]) for a in page.all("img")]
    assert len(shown) == len(images)
    for png, image in zip(shown, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), image[0])


def every_string(tree: Any, names: Any) -> Any:
    """The same tree with hostile strings, but for the few words that steer the reader."""
    if isinstance(tree, dict):
        return {k: x if k in ("kind",) else every_string(x, names) for k, x in tree.items()}
    if isinstance(tree, list):
        return [every_string(x, names) for x in tree]
    return next(names) if isinstance(tree, str) else tree


@pytest.mark.parametrize(("kind", "strings", "least"), [("distill", [ALERT], 40), ("train", HOSTILE, 5)])
def test_no_string_of_a_run_becomes_markup(
    run: Path, tmp_path: Path, kind: str, strings: list[str], least: int
) -> None:
    names = itertools.cycle(strings)
    facts = every_string(json.loads((run / "run.json").read_text()), names)
    facts["environment"]["packages"] = {n: n for n in HOSTILE}
    (run / "run.json").write_text(json.dumps({**facts, "kind": kind}))
    (run / "config.yaml").write_bytes("\n".join(HOSTILE).encode("utf-8", "surrogatepass"))
    for file in run.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["train"]["links"] = dict.fromkeys(HOSTILE, 1.0 / line["epoch"])
            line["stage"] = HOSTILE[line["epoch"] % 4]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = read(run, tmp_path)
    assert "script" not in {t for t, _ in page.elements}
    assert not [a for _, attrs in page.elements for a in attrs if a.startswith("on")]
    assert all(a["src"].startswith("data:") for a in page.all("img"))
    assert len(page.all("style")) == len(page.all("body")) == 1
    assert page.text.count(ALERT) >= least  # shown as words
    assert "{{ 7 * 7 }}" in page.text
    assert "#010203" in page.text
    assert "\x00" not in page.html
    assert "\u202e" not in page.html
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", page.html)
    assert all(
        html.escape(n, quote=False) in drawn
        for n in strings
        if "\x00" not in n and "\ud800" not in n and 0 < len(n) < 22
    )


def test_a_huge_run_stays_under_a_megabyte(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    classes = [f"a class with a rather long name, number {i}" for i in range(1000)]
    edit(lambda f: f["data"].update(classes=classes, notices=["n" * 500] * 5000))
    edit(lambda f: f.update(preflight=["p" * 500] * 5000, command=["c" * 1000] * 100))
    (run / "config.yaml").write_text("key: value\n" * 100_000)
    for role, seed in itertools.product(("student", "control"), range(5)):
        folder = run / f"{role}-s{seed}"
        folder.mkdir(exist_ok=True)
        losses = rng.lognormal(0, 1, (250, 13)).cumsum(0)
        lines = [
            {"epoch": e + 1, "stage": f"{e % 7}", "train": {"links": {f"link {j}": x for j, x in enumerate(row)}}}
            | {"val": {"top1": float(rng.uniform()), "agreement": float(rng.uniform())}}
            for e, row in enumerate(losses.tolist())
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "result.json").write_text(json.dumps({"seconds": 1, "last": {"test": {"top1": 0.5}}}))
        logits = {"logits": rng.normal(size=(2000, 1000)).astype(np.float16), "y": np.arange(2000) % 1000}
        save_file(logits, folder / "test.logits.safetensors")
    noise = {"images": rng.integers(0, 256, (100, 3, 224, 224), dtype=np.uint8)}
    save_file(
        {**noise, **{k: np.arange(100) for k in ("ids", "y", "student", "teacher")}}, run / "examples.safetensors"
    )
    page = read(run, tmp_path)
    assert len(page.html.encode()) < 1_000_000
    assert 5 < len(page.all("img")) < 100
    assert max(len(svg) for svg in re.findall(r"<svg.*?</svg>", page.html, re.S)) < 300_000
    assert "20 of 1000 classes at the two ends" in page.text


def test_a_running_run_says_so_and_what_is_missing(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    for name in ("student-s2", "control-s2"):
        (run / name / "result.json").unlink()
    file = run / "control-s2" / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3])[:-9])
    edit(lambda f: f.update(results=None, status="running", finished=None, exit_code=None))
    (run / "examples.safetensors").unlink()
    page = read(run, tmp_path)
    assert "has not finished (status: running)" in page.text
    assert "control-s2 has not finished: no result.json after 2 epochs" in page.text
    assert "over 2 seeds" in page.text
    assert "pictures" not in [a["id"] for a in page.all("section")]


def test_a_run_that_failed_at_once(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    for trial in run.glob("*-s?"):
        shutil.rmtree(trial)
    for name in ("examples.safetensors", "teacher.logits.safetensors", "config.yaml"):
        (run / name).unlink()
    (run / "run.json").write_text('{"format": 1, "kind": "distill", "status": "failed", "exit_code": 5}')
    page = read(run, tmp_path)
    assert "No result yet for the student" in page.text
    assert "status: failed, exit code 5" in page.text
    assert [a["id"] for a in page.all("section")] == ["again", "doubts"]


@pytest.mark.parametrize("nonsense", [None, [1, {}], {"seeds": {}, "at": 1, "classes": 3}])
def test_a_page_is_made_of_whatever_run_json_holds(run: Path, tmp_path: Path, nonsense: object) -> None:
    facts = dict.fromkeys(json.loads((run / "run.json").read_text()), nonsense)
    (run / "run.json").write_text(json.dumps({**facts, "format": 1}))
    (run / "student-s0" / "metrics.jsonl").write_text(
        '{"epoch": 1, "train": {"links": [1]}, "val": 3}\n{"epoch": "x"}\n7\n'
    )
    (run / "student-s1" / "result.json").write_text("[]")
    page = read(run, tmp_path)
    assert [a["id"] for a in page.all("section")][:4] == ["table", "seeds", "curves", "calibration"]
    assert "2 of 3 lines cut off" in page.text


def test_a_train_run_has_the_sections_that_apply(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    for trial in run.glob("control-s?"):
        shutil.rmtree(trial)
    for name in ("examples.safetensors", "teacher.logits.safetensors"):
        (run / name).unlink()
    edit(lambda f: f.update(kind="train", teacher=None, method="none"))
    edit(lambda f: f["results"].update(control=None, teacher=None, difference=None))
    page = read(run, tmp_path)
    assert [a["id"] for a in page.all("section")] == [s for s in SECTIONS if s != "pictures"]
    assert "missing" not in page.text
    assert "alone" not in page.text
    assert "mlp-8 reaches" in page.text


def test_without_control_the_page_says_what_is_not_known(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    for trial in run.glob("control-s?"):
        shutil.rmtree(trial)
    edit(lambda f: f["results"].update(control=None, difference=None))
    page = read(run, tmp_path)
    assert "this run cannot say what the teacher added" in page.text
    assert "whether the teacher helped is not known" in page.text
    assert "missing" not in page.text


def test_not_significant_is_printed(run: Path, tmp_path: Path, edit: Callable[..., Path]) -> None:
    edit(lambda f: f["results"]["difference"].update(mean=0.01, low=-0.02, high=0.04))
    page = read(run, tmp_path)
    assert "makes no significant difference" in page.text
    assert "not significant, the interval covers 0" in page.text


def test_a_differing_recount_leads_the_doubts(run: Path, tmp_path: Path) -> None:
    file = run / "student-s1" / "result.json"
    file.write_text(file.read_text().replace('"top1": 0.9', '"top1": 0.8'))
    page = read(run, tmp_path)
    assert "The recorded top-1 of student-s1 does not follow from the saved logits" in page.text
    assert "DIFFERS" in page.text


def palettes() -> list[dict[str, tuple[float, ...]]]:
    css = (files("potstill.report") / "templates" / "style.css").read_text()
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", b)) for b in re.findall(r":root \{(.*?)\}", css, re.S)]
    return [{k: tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for k, c in p.items()} for p in found[:2]]


def linear(c: tuple[float, ...]) -> np.ndarray:
    a = np.array(c)
    return np.where(a <= 0.04045, a / 12.92, ((a + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("mode", [0, 1])
def test_contrast_is_enough_to_read(mode: int) -> None:
    """WCAG 2.2 level AA: 4.5 to 1 for text, on either ground."""
    colours = {k: float(linear(c) @ [0.2126, 0.7152, 0.0722]) for k, c in palettes()[mode].items()}
    for ground, name in itertools.product(("paper", "wash"), ("ink", "quiet", "teacher", "student", "control", "warn")):
        low, high = sorted((colours[ground], colours[name]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


# Machado, Oliveira, Fernandes 2009, severity 1, in linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("eyes", BLINDNESS)
def test_roles_differ_to_all_eyes(mode: int, eyes: str) -> None:
    """At least 20 in CIELAB between any two roles; marks differ in shape as well."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(c: tuple[float, ...]) -> np.ndarray:
        xyz = to_xyz @ np.clip(np.array(BLINDNESS[eyes]) @ linear(c), 0, 1) / [0.9505, 1, 1.089]
        f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    roles = [lab(palettes()[mode][r]) for r in ("teacher", "student", "control")]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(roles, 2)) > 20
