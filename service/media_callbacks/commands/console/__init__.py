"""What commands have in common: options, the way to the admin API, and what they print."""
