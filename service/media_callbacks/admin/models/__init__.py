"""
What operators ask and order, and what they are answered: requests are checked by these models, answers written by them,
and the OpenAPI document made from them.

Members are named like those of the records in ``inbox.records``. Times are RFC 3339 in UTC.
"""
