"""The command: what it chooses, where it listens, what it says; started as people start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from ctfm.app import demo, serve, sources
from ctfm.errors import UserError
from tests.app.conftest import nifti
from tests.app.test_sources import dataset


def test_folders_that_are_named_are_taken_and_the_random_encoder_for_want_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nifti(tmp_path / "a.nii")
    offered, told = serve.choose_scans([tmp_path, tmp_path], tmp_path / "work")
    assert [source.name for source in offered] == ["a", "a-2"] and told == ""
    chosen = serve.choose_encoder(None, [tmp_path], tmp_path / "work")
    assert chosen.loaded.facts["random"]


def test_the_demo_run_is_taken_with_its_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "results/demo/datasets/organs")
    demo.encoder(tmp_path / "results/demo/encoders/ctfm")
    offered, told = serve.choose_scans(None, tmp_path / "work")
    assert [source.name for source in offered] == ["a"] and "results/demo/datasets/organs" in told
    assert serve.choose_encoder(None, None, tmp_path / "work").folder.name == "ctfm"
    with pytest.raises(UserError, match="name its folder"):
        serve.choose_encoder("none", None, tmp_path / "work")


def test_with_nothing_at_hand_phantoms_are_made_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "scans", lambda folder: [sources.Source("p", folder)])
    assert "synthetic" in serve.choose_scans(None, tmp_path)[1]


def test_the_patch_is_the_published_one_unless_the_encoders_own_is_smaller(encoder):
    assert serve.patch_of(None, encoder) == (16, 16, 16)
    assert serve.patch_of("16,32,32", encoder) == (16, 32, 32)
    for text in ("16", "a,b,c", "0,1,1", "1,2,3,4"):
        with pytest.raises(UserError, match="--patch"):
            serve.patch_of(text, encoder)


def test_a_port_in_use_and_an_unknown_host_are_told(tmp_path):
    taken = serve.listen("127.0.0.1", 0)
    assert not serve.open_to_others(taken)
    with pytest.raises(UserError, match="choose another --port"):
        serve.listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    with pytest.raises(UserError, match="choose another --port or --host"):
        serve.listen("no.such.host.invalid", 0)
    assert serve.address_of("::1", 5) == "http://[::1]:5/"


def test_one_command_serves_the_page_warns_and_cleans_up(tmp_path):
    nifti(tmp_path / "scans/a.nii")
    demo.encoder(tmp_path / "encoder")
    command = [sys.executable, "-m", "ctfm", "app", "--scans", "scans", "--encoder", "encoder", "--port", "0"]
    command += ["--host", "0.0.0.0"]  # open to others
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        port = int(re.search(r":(\d+)/", line)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state", timeout=20) as answer:
            assert b'"a"' in answer.read()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=20)
        assert list((tmp_path / "tmp").glob("ctfm-app-*"))
    finally:
        process.send_signal(signal.SIGHUP)  # becomes SIGTERM
        _, errors = process.communicate(timeout=30)
    assert "no login" in errors
    assert not list((tmp_path / "tmp").glob("ctfm-app-*"))
    assert "Traceback" not in errors and process.returncode == 0
