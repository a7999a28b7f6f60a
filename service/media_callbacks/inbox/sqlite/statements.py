"""
Statements about many rows at once, where each costs: releases of the interpreter lock, and processor time.

Who calls these has a connection: the detour over ``Database`` would cost a tenth of accepting.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

# More rows per statement cost the writer more processor time each (measured: 8 against 16 and 32). Fewer mean more
# releases of the interpreter lock; below 8 there is no clear measurement.
_ROWS_PER_INSERT = 8
VALUES_PER_STATEMENT = 64


def insert(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[object]]) -> None:
    """
    Insert rows many to a statement.

    ``head`` and ``row`` read no table and return nothing: with either, a row was measured to cost a fifth more.
    """
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        chunk = rows[start : start + _ROWS_PER_INSERT]
        connection.execute(_repeat(head, row, len(chunk)), list(chain.from_iterable(chunk)))


@cache
def _repeat(head: str, row: str, times: int) -> str:
    return f"{head} VALUES {','.join([row] * times)}"


def execute_in(
    connection: sqlite3.Connection, sql: str, values: Sequence[Any], *parameters: object
) -> list[tuple[Any, ...]]:
    """
    The rows of a statement about any number of values, which ``IN ({values})`` in it asks for; in no order.

    Args:
        parameters: Others, by their numbers.
    """
    rows: list[tuple[Any, ...]] = []
    first = len(parameters) + 1
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        chunk = values[start : start + VALUES_PER_STATEMENT]
        # By number, as the same values may be asked for in several places.
        marks = ",".join([f"?{number}" for number in range(first, first + len(chunk))])
        rows += connection.execute(sql.format(values=marks), (*parameters, *chunk)).fetchall()
    return rows
