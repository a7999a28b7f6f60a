"""A store copied to another database: what there is to copy, and how it is compared."""
