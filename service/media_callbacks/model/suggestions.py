"""What somebody may have meant by a word that is not known."""

import difflib
import json
from collections.abc import Iterable

# What is called otherwise by everybody, the vendor's own action included (CreateGifTask).
_ALSO_CALLED = {"gif": "multimediaai"}


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Without regard to case, of which a vendor's names have much."""
    by_folded = {name.lower(): name for name in known}
    if _ALSO_CALLED.get(word.lower()) in by_folded:
        return _ALSO_CALLED[word.lower()]
    matches = difflib.get_close_matches(word.lower()[:100], by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a sentence that lists what is known: empty where nothing is close."""
    match = closest(word, known) if isinstance(word, str) else None
    return f'; did you mean "{match}"?' if match else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the one that was meant, or all there are."""
    known = [name if name.isprintable() else json.dumps(name) for name in known]
    match = closest(word, known)
    return f'did you mean "{match}"?' if match else f"known are: {', '.join(known) or 'none'}"
