"""Migrations: files ``NNN_name.<dialect>.sql`` beside the databases' modules, applied in order and never changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


def load_migrations(dialect: str) -> Sequence[Migration]:
    """All migrations of a dialect, in order."""
    found = []
    for file in resources.files("service.inbox").joinpath("sql").iterdir():
        if file.name.endswith(f".{dialect}.sql"):
            number, _, name = file.name.removesuffix(f".{dialect}.sql").partition("_")
            found.append(Migration(int(number), name, file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)
