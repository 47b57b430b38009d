"""A plug-in is a file; its settings are read without importing it."""

from __future__ import annotations

import sys

import pytest

from ctfm import plugins
from ctfm.errors import UserError


@pytest.fixture
def methods(tmp_path, monkeypatch):
    """Return a folder of plug-ins of kind ssl."""
    (tmp_path / "ssl").mkdir()
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    plugins.settings.cache_clear()
    yield tmp_path / "ssl"
    plugins.settings.cache_clear()


def test_a_file_is_a_plugin(methods):
    (methods / "fake.py").write_text("")
    (methods / "__init__.py").write_text("")
    assert plugins.names("ssl") == ["fake"]
    with pytest.raises(UserError, match="did you mean 'fake'"):
        plugins.path("ssl", "fakee")


def test_settings_are_read_without_running_the_rest(methods):
    (methods / "fake.py").write_text(
        "from __future__ import annotations\n"
        "raise RuntimeError('imported')\n"
        "class Settings(Strict):\n"
        "    size: int = Field(3, description='voxels')\n"
        "    mode: Literal['a', 'b'] = 'a'\n"
    )
    model = plugins.settings("ssl", "fake")
    assert model().model_dump() == {"size": 3, "mode": "a"}
    with pytest.raises(ValueError, match="mode"):
        model(mode="c")


def test_a_plugin_without_settings_takes_none(methods):
    (methods / "fake.py").write_text("")
    with pytest.raises(ValueError, match="extra"):
        plugins.settings("ssl", "fake")(x=1)


def test_reading_the_settings_of_every_plugin_imports_no_torch():
    import subprocess

    code = (
        "import sys; from ctfm import plugins; "
        "[plugins.settings(k, n) for k in ('ssl', 'encoders', 'datasets', 'tasks') for n in plugins.names(k)]; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_constant_is_read_without_running_the_rest(methods):
    (methods / "fake.py").write_text("OTHER = 1\nSUMMARY = 'mine'  # why\nraise RuntimeError('imported')\n")
    assert plugins.constant("ssl", "fake", "SUMMARY", "ours") == "mine"
    (methods / "fake.py").write_text("x = 'SUMMARY'\n")
    assert plugins.constant("ssl", "fake", "SUMMARY", "ours") == "ours"
