"""The tests; `tests.conftest` has what they share."""
