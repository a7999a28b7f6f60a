"""
Sources turn requests into completions: pure functions over values, no clock, no network.

Transports say whether a request is genuine: ``http`` (VOD and IMS), ``mns_push``, ``token_url``.
Products say what it means: ``vod``, ``ims``, ``mts``, ``gif``.
"""
