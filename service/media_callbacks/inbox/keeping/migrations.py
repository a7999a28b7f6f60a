"""
Migrations: files ``NNN_name.<dialect>.sql`` beside the databases' modules, applied in order and never changed.

Each works with the code of the release before it, and no release brings more than one. So while a new release is
rolled out instance by instance, the old instances find exactly one migration that they don't know, and may go on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources

from media_callbacks.model.errors import Unusable


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    def __str__(self) -> str:
        return f"{self.number:03d}_{self.name}"


def load_migrations(dialect: str) -> Sequence[Migration]:
    """All migrations of a dialect, in order."""
    found = []
    for file in resources.files("media_callbacks.inbox").joinpath("sql").iterdir():
        if file.name.endswith(f".{dialect}.sql"):
            number, _, name = file.name.removesuffix(f".{dialect}.sql").partition("_")
            found.append(Migration(int(number), name, file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def missing_migrations(
    known: Sequence[Migration], applied: Collection[int], *, apply: bool = True
) -> Sequence[Migration]:
    """
    What is to be applied to a database to which some migrations, by number, were applied.

    Raises:
        Unusable: The database is newer by more than one migration; or migrations are missing and ``apply`` is false.
    """
    unknown = set(applied) - {migration.number for migration in known}
    if len(unknown) > 1:
        problem = (
            f"store.url: the database is newer than this program by {len(unknown)} migrations (up to"
            f" {max(unknown):03d}), which may be one at most; install the version that migrated it, or a later one"
        )
        raise Unusable([problem])
    missing = [migration for migration in known if migration.number not in applied]
    if missing and not apply:
        names = ", ".join(migration.name for migration in missing)
        raise Unusable([f"store.auto_migrate: migrations are missing ({names}); run `media-callbacks migrate`"])
    return missing
