"""An edit to a module is seen by the stages that use it, and by no other."""

from __future__ import annotations

import json

import pytest

from ctfm import provenance
from ctfm.files import write_json


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Return a tiny package: stage a uses shared x, stage b does not."""
    for name, text in {
        "stages/a.py": "from ctfm.shared import x\nfrom ctfm import config\n",
        "stages/b.py": "import os\n",
        "shared/x.py": "from ctfm.shared.y import f\n",
        "shared/y.py": "def f(): ...\n",
        "config.py": "VERSIONS = {}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    provenance._imports.cache_clear()
    return tmp_path


def test_code_follows_imports_of_imports_but_not_settings(source):
    assert set(provenance.code("a")) == {"ctfm.stages.a", "ctfm.shared.x", "ctfm.shared.y"}
    assert set(provenance.code("b", "shared.x")) == {"ctfm.stages.b", "ctfm.shared.x", "ctfm.shared.y"}


def test_an_edit_changes_the_digest_of_its_users_only(source):
    a, b = provenance.code_digest("a"), provenance.code_digest("b")
    (source / "shared/y.py").write_text("def f(): return 1\n")
    assert provenance.code_digest("a") != a
    assert provenance.code_digest("b") == b


def test_stale_outputs_are_named_with_the_module_and_the_remedy(source, tmp_path):
    record = {"spec": {"stage": "a"}, "code": provenance.code("a")}
    write_json(record, tmp_path / "out/encoders/x/run.json")
    assert list(provenance.stale(tmp_path / "out")) == []
    (source / "shared/y.py").write_text("changed = 1\n")
    (sentence,) = provenance.stale(tmp_path / "out")
    assert "ctfm.shared.y" in sentence and "VERSIONS['a']" in sentence


def test_a_stale_table_of_embeddings_is_named_by_its_encoder(source, tmp_path):
    write_json({"spec": {"stage": "a"}, "code": {"ctfm.gone": "0"}}, tmp_path / "out/embed/data/mine.run.json")
    (sentence,) = provenance.stale(tmp_path / "out")
    assert sentence.startswith(f"{tmp_path}/out/embed/data/mine: ctfm.gone changed")


def test_a_stamp_is_json_and_names_versions():
    stamp = json.loads(json.dumps(provenance.stamp({"stage": "select"})))
    assert stamp["packages"]["numpy"] != "absent" and "ctfm.stages.select" in stamp["code"]
