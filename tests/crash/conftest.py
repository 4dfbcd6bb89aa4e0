"""Fixtures of the tests of crashes: those of the bodies."""

from __future__ import annotations

from tests.bodies.conftest import _no_server_outlives_the_tests, body, cleanup, process, worker

__all__ = ["_no_server_outlives_the_tests", "body", "cleanup", "process", "worker"]
