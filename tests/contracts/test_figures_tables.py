"""Figures need tables alone: every one of them, in seconds, and the same bytes from another process."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ctfm import plugins
from ctfm.config import Figures
from tests import synthetic

TABLES = {".parquet", ".csv"}


@pytest.fixture(scope="module")
def only_tables(tmp_path_factory):
    """Return a folder that holds the tables of a run and nothing else."""
    root = synthetic.everything(tmp_path_factory.mktemp("whole"))
    for make in (synthetic.tumours, synthetic.triage, synthetic.frozen):
        make(root)
    bare = tmp_path_factory.mktemp("tables")
    for path in root.rglob("*.*"):
        if path.suffix in TABLES:
            target = bare / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    assert {path.suffix for path in bare.rglob("*") if path.is_file()} == TABLES
    return bare


def drawn(results, out):
    """Draw all figures in a process of their own and return {name: bytes}."""
    spec = {"stage": "figures", "version": 1, "figures": {"dpi": 60, "ids": plugins.names("figures")}}
    command = [sys.executable, "-m", "ctfm", "figures", "--spec", json.dumps(spec), "--results", results, "--out", out]
    subprocess.run(command, check=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_all_are_drawn_from_tables_alone_and_repeat_in_another_process(only_tables, tmp_path):
    first, second = drawn(only_tables, tmp_path / "a"), drawn(only_tables, tmp_path / "b")
    suffixes = (".png", ".svg", ".csv")
    assert set(first) == {f"{name}{suffix}" for name in plugins.names("figures") for suffix in suffixes}
    assert first == second
    for name, content in first.items():
        assert str(only_tables).encode() not in content, name
        if name.endswith(".png"):
            grey = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
            edges = (grey[:, 0], grey[:, -1], grey[0], grey[-1])
            assert all((edge == 255).all() for edge in edges), f"{name}: something is cut off"
        if name.endswith(".svg"):
            assert b"<dc:date>" not in content, name
    for name in ("fig2", "fig3", "fig4", "fig5", "ed1", "ed2", "ed3", "ed4", "ed6", "s2"):
        assert first[f"{name}.csv"].count(b"\n") > 1, f"{name} found no numbers in the tables"


def test_pictures_have_300_dots_an_inch_by_default(tmp_path):
    spec = json.dumps({"stage": "figures", "version": 1, "figures": {}})
    command = [sys.executable, "-m", "ctfm", "figures", "--spec", spec, "--id", "s2", "--out", tmp_path, "--results"]
    subprocess.run([*command, tmp_path], check=True)
    with Image.open(tmp_path / "s2.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert picture.width == pytest.approx(Figures().width_mm / 25.4 * 300, abs=1)


def test_no_figure_imports_what_reads_weights():
    names = ", ".join(f"ctfm.figures.{name}" for name in plugins.names("figures"))
    heavy = "{'torch', 'monai', 'lightning', 'safetensors'}"
    code = f"import sys, ctfm.stages.report, {names}; print(*{heavy} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == ""
