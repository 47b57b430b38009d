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


# What may come of one scan that can't be used, and costs only itself.
SCAN_FAULTS = (Quarantine, RuntimeError, ValueError, OSError, MemoryError)


def told(fault: BaseException) -> dict[str, str]:
    """Return ``reason`` and ``detail`` of what made a scan unusable, for a table of failures."""
    if isinstance(fault, Quarantine):
        return {"reason": fault.code, "detail": fault.detail}
    return {"reason": "error", "detail": f"{type(fault).__name__}: {fault}"}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word, or the list of known words."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
