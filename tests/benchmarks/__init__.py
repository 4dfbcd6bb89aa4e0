"""Programs that measure; they are no tests, and `make bench` runs them."""
