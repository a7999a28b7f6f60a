"""
What everyone may speak of: words, identity, outputs, events, receipts, jobs, errors, schemas. Pure; imports nothing of
ours.
"""
