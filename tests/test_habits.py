"""What others rely on around the code: versions, changelog, citation, hooks, templates, releases."""

from __future__ import annotations

import importlib.util
import re
import tomllib

import pytest
import yaml

from ctfm import __version__
from tests.conftest import ROOT

GITHUB = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "docs/release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/ctfm/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_a_tag_is_released_only_if_all_agree(release):
    assert "### Added" in release.news(f"v{__version__}")
    with pytest.raises(ValueError, match=r"src/ctfm/__init__\.py has version .* the tag is v9\.9\.9"):
        release.news("v9.9.9")


def test_a_version_without_news_is_not_released(release, monkeypatch, tmp_path):
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [0.0.1] - 2020-01-01\n\n- Old.\n")
    (tmp_path / "CITATION.cff").write_text(f"version: {__version__}\n")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"CHANGELOG\.md has no section"):
        release.news(f"v{__version__}")


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.M)
    assert all(
        re.fullmatch(r"\[(Unreleased|\d+\.\d+\.\d+)\]( - (\d{4}-\d\d-\d\d|unreleased))?", head) for head in heads
    )
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds


def test_the_citation_has_what_its_schema_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cited)
    (paper,) = cited["references"]
    assert len(paper["authors"]) == 8 and re.fullmatch(r"10\.\d{4,}/\S+", paper["doi"])


@pytest.mark.parametrize("file", GITHUB, ids=lambda p: p.name)
def test_workflows_call_what_exists_and_templates_ask(file):
    content = yaml.safe_load(file.read_text())
    if file.parent.name == "workflows":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
        steps = [step for job in content["jobs"].values() for step in job["steps"]]
        called = [step["run"].split() for step in steps if "run" in step]
        assert all(set(words[1:]) <= targets for words in called if words[0] == "make")
        own = [word for words in called for word in words if re.match(r"(docs|\.ci)/", word)]
        assert all((ROOT / word).is_file() for word in own)
    elif file.name != "config.yml":
        assert content["name"] and content["description"]
        assert all(part["attributes"]["label"] for part in content["body"])


def test_hooks_use_the_tools_of_the_environment():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lock = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system" and hook["entry"].split()[0] in lock | {"python"}


def test_the_catalogue_is_told_what_is_so():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    deployment = usage["software-stack-deployment"]
    assert deployment["conda"] == any((ROOT / "envs").glob("*.yaml"))
    assert deployment["apptainer"] == (ROOT / "envs/ctfm.def").is_file()
    config = usage["mandatory-flags"]["flags"].split()[1]
    assert (ROOT / config).is_file() and (ROOT / "config/README.md").is_file()
