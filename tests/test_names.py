"""Names that others may change without a word are used nowhere."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"uvicorn", "starlette", "pydantic", "prometheus_client"}


def private_names(text: str) -> list[str]:
    """
    Names with a leading underscore that are imported from these packages, or asked of what was imported from them, of
    variables that hold an instance, and by classes below theirs of themselves, as far as one file tells.
    """
    tree = ast.parse(text)
    theirs: set[tuple[str, ...]] = set()
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    found += [part for part in alias.name.split(".") if is_private(part)]
                    theirs.add(((alias.asname or alias.name).split(".")[0],))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [part for part in parts if is_private(part)]
            theirs |= {(alias.asname or alias.name,) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if is_theirs(node.value.func, theirs):
                theirs |= {path_of(target) for target in targets} - {()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and is_theirs(node.value, theirs):
            found.append(node.attr)
        elif isinstance(node, ast.ClassDef) and any(is_theirs(base, theirs) for base in node.bases):
            found += [name for name in asked_of_itself(node) if name not in made_by(node)]
    return found


def asked_of_itself(kind: ast.ClassDef) -> list[str]:
    return [
        node.attr
        for node in ast.walk(kind)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and path_of(node.value) in {("self",), ("cls",)}
    ]


def made_by(kind: ast.ClassDef) -> set[str]:
    stored = [node for node in ast.walk(kind) if isinstance(node, ast.Attribute | ast.Name)]
    return {
        *(one.name for one in kind.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)),
        *(path_of(node)[-1] for node in stored if isinstance(node.ctx, ast.Store)),
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def path_of(node: ast.expr) -> tuple[str, ...]:
    """``("a", "b")`` of ``a.b``, ``a.b()`` and ``a().b[0]``; empty where it begins with something else."""
    if isinstance(node, ast.Call | ast.Subscript):
        return path_of(node.func if isinstance(node, ast.Call) else node.value)
    if isinstance(node, ast.Attribute):
        above = path_of(node.value)
        return (*above, node.attr) if above else ()
    return (node.id,) if isinstance(node, ast.Name) else ()


def is_theirs(node: ast.expr, theirs: set[tuple[str, ...]]) -> bool:
    path = path_of(node)
    return any(path[:length] in theirs for length in range(1, len(path) + 1))


@pytest.mark.parametrize("folder", ["service", "tests"])
def test_no_private_name_of_a_library_is_used(folder: str) -> None:
    used = {
        str(path.relative_to(ROOT)): names
        for path in (ROOT / folder).rglob("*.py")
        if (names := private_names(path.read_text()))
    }
    assert used == {}


@pytest.mark.parametrize(
    "text",
    [
        "from uvicorn._types import Scope",
        "import starlette._utils",
        "from starlette.routing import _compile",
        "import uvicorn\nuvicorn.Server(config)._serve()",
        "import uvicorn\nserver = uvicorn.Server(config)\nserver._serve()",
        "from uvicorn import Server\nclass A:\n    def f(self):\n        self._a = Server()\n        self._a._serve()",
        "from uvicorn import Server\nclass A(Server):\n    def f(self): return self._captured_signals",
        "from prometheus_client import Counter\ncounter: Counter = Counter('a', 'b')\ncounter._value.get()",
        "from pydantic import BaseModel\nclass Model(BaseModel):\n    def f(self): return self._private",
    ],
)
def test_one_that_is_used_is_found(text: str) -> None:
    assert private_names(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "import uvicorn\nuvicorn.Server(config).serve()",
        "from pydantic import BaseModel\nclass Model(BaseModel):\n    _own: int = 0\n    def f(self): return self._own",
        "import ours\nours._private",
        "from uvicorn import Server\nclass A:\n    def f(self):\n        self._a = Server()\n        self._b = self._c()",
        "from pydantic import BaseModel\nBaseModel.__pydantic_serializer__",
    ],
)
def test_what_is_public_or_our_own_is_not(text: str) -> None:
    assert private_names(text) == []
