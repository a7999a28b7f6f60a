"""What everyone may speak of: words, identity, events, jobs, errors, schemas. Pure; imports nothing of ours."""
