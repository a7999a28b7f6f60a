"""Where callbacks wait, durably, while a PostgreSQL store is away."""
