"""
Tables against each other.

A table with a mistake still takes part with the values that are right, so that one start tells all there is to mend.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from media_callbacks.config.problems import KeyPath, Problems
from media_callbacks.model.kinds import (
    KINDS,
    NO_PRODUCT,
    OPERATIONAL,
    OUTCOMES,
    PHASES,
    PRODUCTS,
    TROUBLES,
    Kind,
    Product,
)
from media_callbacks.model.naming import NameTemplate, Origin
from media_callbacks.model.suggestions import suggest

# What can come of each product's messages.
PRODUCT_KINDS: Mapping[Product, frozenset[Kind]] = {
    "vod": frozenset(KINDS) - {"analysis"},
    "ims": frozenset(KINDS) - {"analysis"},
    "mts": frozenset(KINDS) - {"animated_image", "transcode_task", "upload", "asset"},
    "multimediaai": frozenset({"animated_image", "notice"}),  # CreateGifTask makes images and nothing else
}


@dataclass(frozen=True, slots=True)
class Entrance:
    """
    What is known of a source, right or not; None where it is not known.

    Attributes:
        account: As in events, "default" where none is configured.
        path: None where it has none, too.
        covers_below: It serves every path below its own, too.
        queue: Endpoint and name of the queue that it reads.
    """

    name: str
    product: Product | None
    account: str | None
    path: str | None
    covers_below: bool
    queue: tuple[str, str] | None = None

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], *, is_checked: bool) -> "Entrance":
        """``is_checked``: ``given`` holds only what is right. Else it is as written; path and queue are left alone."""
        product, account = given.get("product"), given.get("account", None if is_checked else "default")
        if is_checked and "account" in given and account is None:
            account = "default"
        return cls(
            name=name,
            product=product if isinstance(product, str) and product in PRODUCTS else None,
            account=account if isinstance(account, str) else None,
            path=given.get("path") if is_checked else None,
            covers_below=given.get("transport") == "token-url",
            # Host names are the same in any case.
            queue=(given["endpoint"].lower(), given["queue"])
            if is_checked and {"endpoint", "queue"} <= given.keys()
            else None,
        )


def check_entrances(entrances: Sequence[Entrance], problems: Problems) -> None:
    """
    No request and no queue may belong to two sources. The paths are not shown: they may be what keeps strangers out.
    """
    for index, entrance in enumerate(entrances):
        for other in entrances[:index]:
            if entrance.queue is not None and entrance.queue == other.queue:
                problems.add(
                    ("sources", entrance.name, "queue"),
                    f"the same as sources.{other.name}.queue, so that each would get a part of the messages; give each"
                    " source a queue of its own, or raise pollers to read one queue faster",
                )
            if entrance.path is None or other.path is None:
                continue
            at = ("sources", entrance.name, "path")
            if entrance.path == other.path:
                problems.add(at, f"the same as sources.{other.name}.path; give each source a path of its own")
            elif other.covers_below and entrance.path.startswith(other.path + "/"):
                problems.add(at, f"lies below sources.{other.name}.path, which takes all paths below it; move one")
            elif entrance.covers_below and other.path.startswith(entrance.path + "/"):
                problems.add(at, f"takes all paths below it, and sources.{other.name}.path is one; move one of them")


def choose_vendor(named: str | None, vendors: Collection[str]) -> str | None:
    """The table with the credentials of who names this one or none: then it is the only one there is."""
    if named is not None or len(vendors) != 1:
        return named
    return next(iter(vendors))


def check_vendor(path: KeyPath, given: Mapping[str, Any], vendors: Collection[str], problems: Problems) -> None:
    """
    A source that asks the vendor needs credentials, and a sink of the vendor's.

    Args:
        path: Of the source or sink.
        given: What is right of it, defaults included.
        vendors: The names of all tables with credentials, right or not.
    """
    named = given.get("vendor")
    if named is not None and named not in vendors:
        came = problems.describe((*path, "vendor"), named, secret=False)
        known = suggest(named, dict.fromkeys(vendors)) if vendors else "there is none: add a table [vendor.<name>]"
        problems.add((*path, "vendor"), f"expected the name of a table [vendor.<name>], came {came}; {known}")
    if "vendor" not in given or choose_vendor(named, vendors) is not None:
        return
    remedy = (
        f'say whose with vendor = "<name>" ({suggest("", vendors)})'
        if vendors
        else "add a table [vendor.<name>] with a region and, unless the environment has them, access_key_id and"
        " access_key_secret"
    )
    if given.get("transport") == "mns-queue":
        problems.add((*path, "vendor"), f"missing; a queue is read with credentials: {remedy}")
    elif path[0] == "sinks":
        problems.add((*path, "vendor"), f"missing; events are sent there with credentials: {remedy}")
    for key in ("confirm", "enrich"):
        if given.get(key) not in (None, "never", False):
            problems.add((*path, key), f"needs credentials to ask the vendor's job API: {remedy}, or remove this key")


def check_circle(path: KeyPath, given: Mapping[str, Any], entrances: Sequence[Entrance], problems: Problems) -> None:
    """
    A sink must not send to a queue that a source reads.

    Args:
        path: Of the sink.
        given: What is right of it.
    """
    if not {"endpoint", "queue"} <= given.keys():
        return
    for entrance in entrances:
        if entrance.queue == (given["endpoint"].lower(), given["queue"]):
            problems.add(
                (*path, "queue"),
                f"the same as sources.{entrance.name}.queue, so that events would come back as callbacks; take another"
                " queue",
            )


def check_addresses(server: Mapping[str, Any], admin: Mapping[str, Any], problems: Problems) -> None:
    if not {"host", "port"} <= server.keys() & admin.keys() or server["port"] == 0 or server["port"] != admin["port"]:
        return
    first, second = server["host"], admin["host"]
    is_one_family = (":" in first) == (":" in second)
    if first == second or (is_one_family and {first, second} & {"0.0.0.0", "::"}):  # noqa: S104 - only compared
        problems.add(("admin", "port"), "the same as server.port on the same address; give admin a port of its own")


def check_journal(server: Any, store: Mapping[str, Any], problems: Problems) -> None:
    """
    Args:
        server: The table as written.
        store: What is right of the other one, defaults included.
    """
    if not isinstance(server, dict) or "url" not in store:
        return
    for key in ("journal_path", "journal_max_bytes"):
        if key in server and store["url"].startswith("sqlite:"):
            problems.add(
                ("server", key),
                "needs a PostgreSQL store, because SQLite is on this machine's disk itself and can't be away; remove"
                " this key",
            )
        elif key in server and "journal_path" not in server:
            problems.add(("server", key), "has no meaning without journal_path; set that, too, or remove this key")


def check_match(path: KeyPath, given: Mapping[str, Any], entrances: Sequence[Entrance], problems: Problems) -> None:
    """Refuse a match that no event can fulfil."""
    wanted = {key: words for key, words in given.items() if words is not None}
    if "trouble" in wanted and OPERATIONAL not in wanted.get("kind", ()):
        problems.add((*path, "trouble"), f'has a meaning beside kind = "{OPERATIONAL}" alone; add it to kind')
    if wanted.get("kind") == {OPERATIONAL}:
        if idle := sorted(wanted.keys() - {"kind", "trouble", "exclude"}):
            problems.add(
                (*path, idle[0]),
                f'has no meaning beside kind = "{OPERATIONAL}", whose events are of no job; remove this key',
            )
        return
    entrances = entrances if not entrances else list(_select(path, wanted, entrances, problems))
    if "kind" not in given or "outcome" not in given:
        return
    kinds, outcomes = frozenset(wanted.get("kind", KINDS)) - {OPERATIONAL}, frozenset(wanted.get("outcome", OUTCOMES))
    if not _can_meet(kinds, outcomes):
        problems.add(
            (*path, "outcome"),
            'can never be true with this kind: "received" is the outcome of "notice" alone, and its only one;'
            " change one of the two",
        )
        return
    products = sorted({entrance.product for entrance in entrances if entrance.product is not None})
    if not entrances or any(entrance.product is None for entrance in entrances):
        return
    made = frozenset[str]().union(*(PRODUCT_KINDS[product] for product in products))
    if not _can_meet(kinds & made, outcomes):
        problems.add(
            (*path, "kind" if "kind" in wanted else "outcome"),
            f"can never be true: the sources that this match leaves are of product {', '.join(products)}, which gives"
            f" only {', '.join(kind for kind in KINDS if kind in made)} (received); add one of these or widen the"
            " match",
        )


def check_exclusion(
    path: KeyPath,
    wanted: Mapping[str, Any],
    excluded: Mapping[str, Any],
    entrances: Sequence[Entrance],
    problems: Problems,
) -> None:
    """
    Refuse an exclusion that leaves nothing.

    Args:
        path: Of the exclusion.
        wanted, excluded: The keys of the match and of the exclusion, right by themselves.
    """
    if all(words is None for words in excluded.values()):
        problems.add(path, "expected at least one key, came none, which would exclude everything; remove the table")
    elif any(entrance.product is None for entrance in entrances):
        return
    elif any(list_origins(wanted, None, entrances)) and not any(list_origins(wanted, excluded, entrances)):
        problems.add(path, "leaves nothing of what the match lets through; narrow it, or remove the sink")


def list_origins(
    wanted: Mapping[str, Any], excluded: Mapping[str, Any] | None, entrances: Iterable[Entrance]
) -> Iterator[Origin]:
    """
    Everything that events of these sources can say of themselves, as far as it is bounded, and as a match has it.

    Args:
        wanted, excluded: The keys of the match and of its exclusion; a key that is None asks for nothing.
    """
    for entrance in entrances:
        if entrance.product is None:
            continue
        for kind in KINDS:
            for outcome in OUTCOMES:
                if kind not in PRODUCT_KINDS[entrance.product] or (kind == "notice") != (outcome == "received"):
                    continue
                origin = Origin(product=entrance.product, kind=kind, outcome=outcome, source=entrance.name)
                if _fits(wanted, origin, entrance.account) and not (
                    excluded is not None and _fits(excluded, origin, entrance.account) and _covers(excluded, wanted)
                ):
                    yield origin
    for trouble in TROUBLES:
        if names_trouble(wanted, trouble) and not (excluded is not None and names_trouble(excluded, trouble)):
            for phase in PHASES:
                yield Origin(NO_PRODUCT, OPERATIONAL, phase, NO_PRODUCT, trouble)


def names_trouble(wanted: Mapping[str, Any], trouble: str) -> bool:
    """Whether operational events about this are meant."""
    kinds, troubles = wanted.get("kind"), wanted.get("trouble")
    return kinds is not None and OPERATIONAL in kinds and (troubles is None or trouble in troubles)


def _fits(wanted: Mapping[str, Any], origin: Origin, account: str | None) -> bool:
    """As far as it can be told from what is bounded."""
    said = {"product": origin.product, "kind": origin.kind, "outcome": origin.outcome, "source": origin.source}
    return all(wanted.get(key) is None or value in wanted[key] for key, value in (said | {"account": account}).items())


def _covers(excluded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an exclusion asks for nothing of what is not bounded that the match does not ask for itself."""
    names, prefixes = excluded.get("vendor_event"), excluded.get("user_data_prefix")
    return (names is None or (wanted.get("vendor_event") is not None and wanted["vendor_event"] <= names)) and (
        prefixes is None
        or (
            wanted.get("user_data_prefix") is not None
            and all(prefix.startswith(tuple(prefixes)) for prefix in wanted["user_data_prefix"])
        )
    )


def check_names(
    path: KeyPath, template: NameTemplate, max_characters: int, origins: Iterable[Origin], problems: Problems
) -> None:
    """Refuse a template that makes a name which is longer than the bus takes."""
    longest = max((len(template.render(origin)) for origin in origins), default=0)
    if longest > max_characters:
        problems.add(path, f"makes names of up to {longest} characters, expected at most {max_characters}; shorten it")


def _can_meet(kinds: frozenset[str], outcomes: frozenset[str]) -> bool:
    return any((kind == "notice") == (outcome == "received") for kind in kinds for outcome in outcomes)


def _select(
    path: KeyPath, wanted: Mapping[str, frozenset[str]], entrances: Sequence[Entrance], problems: Problems
) -> Iterator[Entrance]:
    """The sources whose events the match may let through."""
    is_known = True
    for key, attribute in (("source", "name"), ("account", "account")):
        known = [getattr(entrance, attribute) for entrance in entrances]
        for word in sorted(wanted.get(key, ())):
            if None not in known and word not in known:
                is_known = False
                came = problems.describe((*path, key), word, secret=False)
                what = "the name of a source" if key == "source" else "the account of a source"
                problems.add((*path, key), f"expected {what}, came {came}; {suggest(word, dict.fromkeys(known))}")
    left = [
        entrance
        for entrance in entrances
        if all(
            value is None or value in wanted.get(key, (value,))
            for key, value in (("source", entrance.name), ("account", entrance.account), ("product", entrance.product))
        )
    ]
    if not left and is_known:
        keys = [key for key in ("product", "account", "source") if key in wanted]
        problems.add(
            (*path, keys[0]),
            f"can never be true: no configured source has this {' with this '.join(keys)}; change the match or add the"
            " source",
        )
    yield from left
