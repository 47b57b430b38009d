"""One command for each stage; what the user can mend is one line and a status."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ctfm.cli import COMMANDS, overview


def ctfm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ctfm", *arguments], capture_output=True, text=True, check=False)


def test_overview_lists_every_command():
    assert all(f"  {name} " in overview() for name in COMMANDS)
    assert ctfm("--help").stdout.strip() == overview()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    result = ctfm(name, "--help")
    assert result.returncode == 0 and COMMANDS[name][1].split(":")[0][:30] in result.stdout.replace("\n", " ")


def test_an_unknown_command_names_the_nearest():
    result = ctfm("pretrian")
    assert result.returncode == 2 and "did you mean 'pretrain'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["select", "--config", "none.yaml", "--corpus", "x", "--out", "o"], "none.yaml: no such file"),
        (["pretrain", "--volumes", "none.parquet", "--out", "o"], "--config"),
        (["select", "--spec", "{", "--out", "o"], "not valid JSON"),
    ],
)
def test_what_the_user_can_mend_is_one_line(tmp_path, arguments, words):
    result = subprocess.run(
        [sys.executable, "-m", "ctfm", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
