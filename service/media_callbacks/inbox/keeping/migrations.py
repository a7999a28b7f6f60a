"""
Migrations: files ``NNN_name.<dialect>.sql`` beside the databases' modules, applied in order and never changed.

Each works with the code of the release before it, and no release brings more than one. So while a new release is
rolled out instance by instance, the old instances find exactly one migration that they don't know, and may go on.

What is applied is in the table ``migrations`` by number and name. Behind the name is a digest of what the file says, so
that a database is known whose migration of that number was another one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources

from media_callbacks.model.errors import Unusable

# Earlier ones were entered by their names alone.
_FIRST_WITH_DIGEST = 4
# Those that say how a step is run are none of these.
_COMMENTS = re.compile(r"^ *--(?! step: ).*\n|\n(?=\n)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """
    Attributes:
        digest: Of what the file says, comments aside; empty where none is entered.
    """

    number: int
    name: str
    sql: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.number:03d}_{self.name}"

    @property
    def entry(self) -> str:
        """What is in the table beside the number."""
        return f"{self.name} {self.digest}".rstrip()


def load_migrations(dialect: str) -> Sequence[Migration]:
    """All migrations of a dialect, in order."""
    found = []
    for file in resources.files("media_callbacks.inbox").joinpath("sql").iterdir():
        if file.name.endswith(f".{dialect}.sql"):
            number, _, name = file.name.removesuffix(f".{dialect}.sql").partition("_")
            sql = file.read_text("utf-8")
            digest = _digest(sql) if int(number) >= _FIRST_WITH_DIGEST else ""
            found.append(Migration(int(number), name, sql, digest))
    return sorted(found, key=lambda migration: migration.number)


def _digest(sql: str) -> str:
    return blake2b(_COMMENTS.sub("", sql).strip().encode(), digest_size=4).hexdigest()


def missing_migrations(
    known: Sequence[Migration], applied: Mapping[int, str], *, apply: bool = True
) -> Sequence[Migration]:
    """
    What is to be applied to a database to which some migrations were applied, by number with what was entered.

    Raises:
        Unusable: The database is newer by more than one migration; or one of ours was applied as another one; or
            migrations are missing and ``apply`` is false.
    """
    unknown = unknown_migrations(known, applied)
    if len(unknown) > 1:
        raise Unusable(
            [
                f"store.url: the database is newer than this program by {len(unknown)} migrations"  # noqa: ISC004 - one sentence
                f" ({', '.join(unknown)}), which may be one at most beyond {known[-1]}; install the version that"
                " migrated it, or a later one"
            ]
        )
    for migration in known:
        check_entry(migration, applied.get(migration.number, migration.entry))
    missing = [migration for migration in known if migration.number not in applied]
    if missing and not apply:
        names = ", ".join(migration.name for migration in missing)
        raise Unusable([f"store.auto_migrate: migrations are missing ({names}); run `media-callbacks migrate`"])
    return missing


def unknown_migrations(known: Sequence[Migration], applied: Mapping[int, str]) -> Sequence[str]:
    """Those of a later version that were applied."""
    numbers = {migration.number for migration in known}
    return [f"{number:03d}_{entry}" for number, entry in sorted(applied.items()) if number not in numbers]


def check_entry(migration: Migration, came: str) -> None:
    """
    Args:
        came: What was entered when this migration was applied, or begun.

    Raises:
        Unusable: It was another one.
    """
    if came != migration.entry:
        raise Unusable(
            [
                f"store.url: expected migration {migration.number:03d} to be `{migration.entry}`, as this program has"  # noqa: ISC004 - one sentence
                f" it, came `{came}`, and one of the two is of a version that was not released; go on with the version"
                " that applied it, or restore a backup from before it"
            ]
        )
