"""Progress is shown as lines when there is no terminal, and changes nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from ctfm import logs


def test_progress_yields_everything_and_says_how_many(caplog, monkeypatch):
    monkeypatch.setattr(logs, "LINE_EVERY_SECONDS", -1.0)
    with caplog.at_level(logging.INFO, logger="ctfm"):
        assert list(logs.progress(range(3), "crops")) == [0, 1, 2]
    assert "crops: 2 of 3" in caplog.text and "crops: 3 done" in caplog.text


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False), ("nonsense", False)])
def test_the_environment_says_how_much_is_told(level, shown):
    code = "import logging; from ctfm import logs; logs.setup(); logging.getLogger('ctfm.x').debug('hidden details')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={**os.environ, "CTFM_LOG": level}, capture_output=True, text=True, check=True)
    assert ("hidden details" in result.stderr) is shown
