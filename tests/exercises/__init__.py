"""Long forms, run by `make`: benchmarks, chaos, hostile requests, the promise. Each has a short form in the tests."""
