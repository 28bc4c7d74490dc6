"""What to say of an unknown name: the nearest known one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    choices = list(known)
    near = difflib.get_close_matches(str(name), choices, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(choices)}."
