"""Lines and tables on stdout, coloured on a terminal (NO_COLOR, FORCE_COLOR and TERM=dumb are respected).

A line is made of texts, plain or with a colour. What is shown of paths goes through `render.printable` first. rich does
more than this, and takes longer to import than most commands run: only `verify`, which has a progress bar, uses it.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

_CODES: Final = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}


class Styled(NamedTuple):
    text: str
    style: str


Piece = str | Styled


def say(*pieces: Piece) -> None:
    """One line."""
    colours = _colours()
    print("".join(_shown(piece, colours) for piece in pieces))


def table(columns: Sequence[str], rows: Sequence[Sequence[Piece]]) -> None:
    """Columns side by side under their names, each as wide as its widest cell."""
    lines: list[Sequence[Piece]] = [[Styled(column, "bold") for column in columns], *rows]
    widths = [max(_width(_text(line[at])) for line in lines) for at in range(len(columns))]
    for line in lines:
        cells: list[Piece] = []
        for piece, width in zip(line, widths, strict=True):
            cells += [piece, " " * (width - _width(_text(piece)) + 2)]
        say(*cells[:-1])


def _text(piece: Piece) -> str:
    return piece if isinstance(piece, str) else piece.text


def _shown(piece: Piece, colours: bool) -> str:
    if isinstance(piece, str):
        return piece
    code = _CODES.get(piece.style) if colours else None
    return f"\x1b[{code}m{piece.text}\x1b[0m" if code else piece.text


def _width(text: str) -> int:
    """Cells on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _colours() -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
