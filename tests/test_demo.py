"""``make demo`` does what it says, every line of it."""

from __future__ import annotations

import subprocess
import sys


def test_demo_shows_the_whole_job() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "epyrpc.demo"], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for number in range(1, 8):
        assert f"\n{number}. " in done.stdout
    for line in (
        "median 299,850 km/s, 95 % between 299,840 and 299,870",
        "series 5: 299,831.5 km/s",
        "the trimmed mean is 299,852.2 km/s",
        "and told of step 3 on the way: 299,852.2 km/s",
        "was killed by SIGKILL while running light.bootstrap",
        "light.bootstrap answers again",
    ):
        assert line in done.stdout, done.stdout
