"""The one reader of XML: for the envelopes of MNS, the answers of its API, and errors of the job APIs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat  # DTDs, and with them entities, are refused below

# Documented replies have five levels (properties of a message); unknown elements may have some more.
_MAX_DEPTH = 10
_MAX_ELEMENTS = 5_000


@dataclass(slots=True)
class Element:
    """One element of a document: its local name, the text directly in it, its children in their order."""

    name: str
    text: str = ""
    children: "list[Element]" = field(default_factory=list)

    def find(self, name: str) -> "Element | None":
        return next(self._named(name), None)

    def text_of(self, name: str) -> str | None:
        """The text of the first child of that name, without blanks around it."""
        child = self.find(name)
        return None if child is None else child.text.strip()

    def _named(self, name: str) -> "Iterator[Element]":
        return (child for child in self.children if child.name == name)


class OtherRoot(Exception):
    """The document begins with another element than it was to begin with."""


def read_document(body: bytes, *, root: str | None = None) -> Element:
    """
    Read a small XML document by local names: the vendor's own clients do not agree about the namespace.

    Args:
        root: What it must begin with.

    Raises:
        OtherRoot: It begins with something else, whatever comes then.
        ValueError: Not well-formed, with a DOCTYPE, or of more levels or elements than any of theirs has.
    """
    reader = _Reader(root)
    # UTF-8 whatever the declaration says: pyexpat would ask Python for other codecs, and raise what those raise.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start_element
    parser.EndElementHandler = reader.end_element
    parser.CharacterDataHandler = reader.character_data
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        # Its text holds a reason and a position, nothing of the document.
        raise ValueError(f"it is not well-formed XML: {error}") from error
    return reader.root.children[0]


class _Reader:
    def __init__(self, expected: str | None) -> None:
        self._expected = expected
        self.root = Element("")
        self._open = [self.root]
        self._texts: list[list[str]] = [[]]
        self._elements = 0

    def start_element(self, name: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if len(self._open) > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise ValueError(f"it has more than {_MAX_DEPTH} levels or {_MAX_ELEMENTS} elements")
        element = Element(name.rpartition(":")[2])
        if self._elements == 1 and self._expected not in (None, element.name):
            raise OtherRoot
        self._open[-1].children.append(element)
        self._open.append(element)
        self._texts.append([])

    def end_element(self, name: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def character_data(self, text: str) -> None:
        self._texts[-1].append(text)

    def refuse_doctype(self, *_: object) -> None:
        raise ValueError("it has a DOCTYPE")
