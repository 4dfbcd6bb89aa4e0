"""The tests of epyrpc."""
