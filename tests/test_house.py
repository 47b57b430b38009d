"""The house keeps its own rules: sizes, mirrored tests, generated pages, pins, and what may not be in the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.conftest import ROOT

SOURCE = ROOT / "src/ctfm"
MODULES = sorted(p for p in SOURCE.rglob("*.py") if not p.name.startswith("__"))
PLUGINS = {"ssl", "encoders", "datasets", "tasks", "figures"}
LONGEST_MODULE, LONGEST_STAGE, LONGEST_FUNCTION = 300, 150, 40
LONGEST_SNAKEFILE, LONGEST_RULE_FILE, LONGEST_RULE = 60, 150, 34


def test_no_rule_marks_an_input_as_ancient():
    """Where such an input is renewed, Snakemake 9.27 leaves out what depends on it, and says that all is done."""
    assert not [path.name for path in (ROOT / "rules").glob("*.smk") if "ancient(" in path.read_text()]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_and_functions_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= (LONGEST_STAGE if path.parent.name == "stages" else LONGEST_MODULE)
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path.name}:{node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_has_a_test_of_its_name(path):
    folder = path.relative_to(SOURCE).parent
    if folder.parts and folder.parts[0] in PLUGINS:
        assert (ROOT / "tests/contracts" / f"test_{folder.parts[0]}.py").exists()
    else:
        assert (ROOT / "tests" / folder / f"test_{path.stem}.py").exists()


def test_workflow_files_are_short_and_hold_no_logic():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= LONGEST_SNAKEFILE
    for file in (ROOT / "rules").glob("*.smk"):
        text = file.read_text()
        assert len(text.splitlines()) <= LONGEST_RULE_FILE
        assert not re.search(r"^\s*(def |if |run:|script:)|lambda", text, re.M), file.name
        for rule in re.split(r"^rule ", text, flags=re.M)[1:]:
            name = rule.split(":")[0]
            assert len([line for line in rule.splitlines() if line.strip()]) <= LONGEST_RULE, name
            assert '"""' in rule and "log:" in rule and "resources:" in rule and "conda:" in rule, name


def test_every_rule_has_the_same_shape():
    parts = ["input", "output", "log", "benchmark", "wildcard_constraints", "priority", "retries", "conda", "threads"]
    parts += ["resources", "params", "shell"]
    for file in (ROOT / "rules").glob("*.smk"):
        for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", file.read_text(), re.M | re.S):
            found = re.findall(r"^    (\w+):", text, re.M)
            assert found == [part for part in parts if part in found], f"{name}: {found}"
            assert {"output", "log", "conda", "resources", "params", "shell"} <= set(found), name


def test_a_stage_has_one_name_in_rules_modules_and_tests():
    rules = {p.stem for p in (ROOT / "rules").glob("*.smk")}
    modules = {p.stem for p in (SOURCE / "stages").glob("*.py") if p.stem != "__init__"}
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests/stages").glob("test_*.py")}
    assert rules == modules == tests


def test_generated_files_are_up_to_date():
    subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], check=True)


def test_pins_agree_everywhere():
    lock = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().lower().splitlines() if "==" in line
    )
    assert lock["torch"] == "2.13.0"
    assert not {"torchvision", "torchaudio"} & set(lock)
    for file in (ROOT / "envs").glob("*.yaml"):
        (pip,) = [d["pip"] for d in yaml.safe_load(file.read_text())["dependencies"] if isinstance(d, dict)]
        assert all(lock[name] == version for name, version in (p.lower().split("==") for p in pip))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    assert {re.match(r"[A-Za-z0-9_-]+", name)[0].lower() for name in declared} <= set(lock)


def test_conda_image_and_virtual_environment_hold_the_same_pins():
    """Conda's files repeat the lock (see above); the image and the virtual environment install the lock itself."""
    image, makefile = (ROOT / "envs/ctfm.def").read_text(), (ROOT / "Makefile").read_text()
    (there,) = re.findall(r"^ +requirements\.lock (\S+)$", image, re.M)
    installs = [
        line.split("pip install")[1]
        for text in (image, makefile)
        for line in text.splitlines()
        if "pip install" in line
    ]
    assert [line.split()[-1] for line in installs if "--requirement" in line] == [there, "$(LOCK)"]
    assert "LOCK := requirements.lock" in makefile
    others = [line for line in installs if "--requirement" not in line]
    assert len(others) == 2 and all("--no-deps" in line for line in others)  # this package, and one that tests read
    (python,) = re.findall(r"^From: python:([\d.]+)-slim$", image, re.M)
    for file in (ROOT / "envs").glob("*.yaml"):
        assert f"python={python}" in yaml.safe_load(file.read_text())["dependencies"]
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lock)
    assert {"snakemake", "snakemake-executor-plugin-slurm"} <= {line.split("==")[0] for line in lock}


def test_no_unsafe_loads_or_private_paths():
    for path in [*MODULES, *(ROOT / "rules").glob("*.smk"), *(ROOT / "config").glob("*.yaml")]:
        text = path.read_text()
        assert not re.search(r"pickle\.|weights_only\s*=\s*False|/(?:home|mnt|root)/|except\s*:", text), path
