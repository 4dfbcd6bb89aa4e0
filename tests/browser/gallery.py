"""The views on a bare page, with states that are put before them: every look without a kernel.

Each piece of a page is a view's own module and style sheet, and a stand-in for its model that answers from what the
scene says. The colours are those of JupyterLab's own themes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

THEMES = {
    "light": "theme-light-extension",
    "dark": "theme-dark-extension",
    "contrast": "theme-dark-high-contrast-extension",
}
PAGE = """<!doctype html><meta charset="utf-8"><style>THEME</style><style>
body { margin: 0; padding: 8px; background: var(--jp-layout-color0); }
.piece { margin-bottom: 8px; }
</style><div id="pieces"></div>"""
# A model as anywidget gives it: traits, listeners, messages. `say` is what the kernel does.
STAND_IN = """async ([source, css, traits, replies, messages, opened]) => {
  const style = document.createElement("style"); style.textContent = css; document.head.append(style);
  const place = document.createElement("div"); place.className = "piece";
  document.getElementById("pieces").append(place);
  const heard = [], on = {};
  const tell = (name, ...args) => (on[name] || []).forEach(listener => listener(...args));
  const decoded = numbers => numbers ? [new DataView(new Float64Array(numbers).buffer)] : [];
  const say = ([content, numbers]) => tell("msg:custom", content, decoded(numbers));
  const model = {
    get: name => traits[name], set: (name, value) => { traits[name] = value; tell("change:" + name); },
    on: (name, listener) => (on[name] = on[name] || []).push(listener),
    off: (name, listener) => { on[name] = (on[name] || []).filter(one => one !== listener); },
    send: content => { heard.push(content); (replies[content.kind] || []).forEach(say); },
  };
  const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  module.default.render({ model, el: place });
  messages.forEach(say);
  if (opened) place.querySelector(opened).click();
  (window.pieces = window.pieces || []).push({ model, place, heard, say, tell });
}"""
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))"
# What sticks out of its view, and which texts lie on one another in a line.
STICKING_OUT = """() => [...document.querySelectorAll(".epy")].flatMap(root => {
  const edge = root.getBoundingClientRect();
  return [...root.querySelectorAll("button, b, code, .epy-number, .epy-state, svg")].filter(node => {
    const box = node.getBoundingClientRect();
    if (!box.width || node.closest(".epy-cut, .epy-hidden, pre, .epy-source, .epy-html, .epy-linevalue")) return false;
    return box.right > edge.right + 0.5 || box.left < edge.left - 0.5;
  }).map(node => root.className + ": " + (node.textContent || node.outerHTML).slice(0, 60));
})"""


@dataclass
class Piece:
    """One view and what it is told."""

    module: str
    css: str
    traits: dict[str, Any] = field(default_factory=dict)
    replies: dict[str, list[Any]] = field(default_factory=dict)  # {kind of a page's message: [(content, numbers)]}
    messages: list[Any] = field(default_factory=list)
    opened: str = ""  # what is clicked at once


def theme_sheet(theme: str) -> str:
    """Return the style sheet of one of JupyterLab's themes."""
    folder = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab" / THEMES[theme]
    return (folder / "index.css").read_text(encoding="utf-8")


def show(page: Any, theme: str, pieces: list[Piece]) -> None:
    """Put views on an empty page."""
    page.set_content(PAGE.replace("THEME", theme_sheet(theme)))
    page.evaluate("name => { document.body.dataset.jpThemeName = name; }", f"JupyterLab {theme}")
    page.evaluate("() => { window.pieces = []; }")
    for piece in pieces:
        given = [piece.module, piece.css, piece.traits, piece.replies, piece.messages, piece.opened]
        page.evaluate(STAND_IN, json.loads(json.dumps(given)))
    page.evaluate(SETTLED)
