"""
What the messages of each product mean. Pure. Spellings of the vendor are known here and to what asks about jobs
(``healing.queries``). Files of ``vod`` are about IMS as well, which sends the same bodies in an envelope.
"""
