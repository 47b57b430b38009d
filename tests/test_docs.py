"""The documentation is true: it builds without a warning, its pictures are up to date, its commands exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
import typer.main
import yaml

from ctfm import spec
from ctfm.cli import COMMANDS, application
from tests import commands
from tests.conftest import ROOT

KEY = re.compile(r"`([a-z]+(?:\.\w+)+): ([^`]+)`")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    """Links to pages, to headings and to files of the repository are checked by Sphinx."""
    build = ["-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees"), "-c", "docs", "."]
    result = run(*build, str(tmp_path / "site"))
    assert result.returncode == 0, result.stderr
    home = (tmp_path / "site/index.html").read_text()
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "config/README.md", ROOT / "CHANGELOG.md"]:
        name = str(page.relative_to(ROOT).with_suffix(".html"))
        assert f'href="{name}"' in home, f"{name} is not in the navigation"
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//', page.read_text()), page


def test_the_list_of_pages_names_all():
    text = (ROOT / "docs/README.md").read_text()
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md") if p.name != "README.md"]
    assert not [str(page) for page in pages if f"({page})" not in text and f"({page.parent}/)" not in text]


def test_the_picture_of_the_rules_is_up_to_date():
    result = run("docs/rulegraph.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("command", commands.of("ctfm"), ids=str)
def test_commands_of_ctfm_exist_with_their_options(command):
    name, *arguments = command.words[1:]
    if name in ("--help", "--version", "COMMAND"):
        return
    assert name in COMMANDS
    known = typer.main.get_command(application(name))
    if command.whole:
        known.make_context(name, arguments)  # raises where an option is unknown or one is missing
    else:
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= options | {"--help"}


@pytest.mark.parametrize("command", commands.of("make"), ids=str)
def test_targets_of_make_exist(command):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {word for word in command.words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("command", [c for p in ("python", "pytest", "pip") for c in commands.of(p)], ids=str)
def test_scripts_and_modules_exist(command):
    program, *words = command.words
    if program == "python" and words[0] == "-m":
        assert importlib.util.find_spec(words[1])
    elif program == "pip":
        assert words[0] == "install"
    for word in words:
        assert not re.search(r"\.(py|lock)$|^tests/|^bench/", word) or (ROOT / word.split("::")[0]).exists()


@pytest.mark.parametrize(("path", "value"), KEY.findall((ROOT / "docs/corrections.md").read_text()), ids=str)
def test_keys_of_the_corrections_exist(path, value, tmp_path):
    """Each is laid over the paper's run, which refuses keys and values that it does not know."""
    content = yaml.safe_load(value)
    for key in reversed(path.split(".")):
        content = {key: content}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    before, after = (
        spec.load(ROOT / "config/config.yaml"),
        spec.load(ROOT / "config/config.yaml", tmp_path / "mine.yaml"),
    )
    section, name, *_ = path.split(".")
    entries = getattr(before, section)
    assert not isinstance(entries, dict) or name in entries, f"{section}.{name} is no entry of config/config.yaml"
    assert after
