"""The page that a benchmark leaves: one HTML file without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any, Final

_FACTS: Final = (("Machine", "machine"), ("Command", "command"), ("Code", "commit"), ("Date", "date"))


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above.

    Attributes:
        title: of the window.
        verb: the command that made it.
        words: the headline.
    """

    title: str
    verb: str
    words: str


def bench_page(heading: Heading, report: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The whole file.

    Args:
        heading: what stands above.
        report: whose machine, command, commit and date are told.
        sections: as HTML.
    """
    style = (resources.files("recsys.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    facts = "".join(
        f'<div class="wide"><dt>{name}</dt><dd>{escape(str(report[key]))}</dd></div>' for name, key in _FACTS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{heading.title}</title>'
        f'<style>{style}</style></head><body><header class="top"><div><p class="eyebrow">{heading.verb}</p>'
        f'<h1>{heading.words}</h1><dl class="facts">{facts}</dl></div></header>'
        f"<main>{''.join(sections)}</main></body></html>\n"
    )
