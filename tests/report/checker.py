"""Reads a page as a browser's parser would and collects what the tests judge."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, its text, and faults: tags that do not close, ids given twice, references to nothing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.faults: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{t}> never closed" for t in self.open]
        ids = [a["id"] for _, a in self.elements if "id" in a]
        self.faults += [f"id {i} twice" for i in set(ids) if ids.count(i) > 1]
        for _, a in self.elements:
            targets = [a["href"]] if "href" in a else []
            targets += [f"#{i}" for i in a.get("aria-labelledby", "").split()]
            self.faults += [f"{t} leads nowhere" for t in targets if not t.startswith("#") or t[1:] not in ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
