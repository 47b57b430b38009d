"""The two kinds of bad news: what the user must mend, and what one bad input costs only itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; the message names the file or key and the remedy.

    The command line prints it as one line and exits with status 2.
    """


class Quarantine(Exception):
    """One series or case can't be used; it goes to the quarantine table and the rest goes on.

    Attributes:
        code: short, stable reason such as ``localizer`` (the table's ``reason`` column).
        detail: what exactly was seen (the table's ``detail`` column).
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word, or the list of known words."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
