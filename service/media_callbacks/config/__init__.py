"""One TOML file and the environment, read and checked as a whole. Builds nothing."""
