"""What the section `embed` plans; nothing is run."""

from __future__ import annotations

import pytest

from tests.workflow.conftest import DEMO

pytestmark = pytest.mark.workflow


def test_each_encoder_of_an_entry_gets_one_job(fresh):
    (fresh.folder / "embed.yaml").write_text("embed: {totalsegmentator_phantom: {encoders: [random], organs: true}}\n")
    configs = (*DEMO, "embed.yaml")
    jobs = fresh.planned("embed", configs=configs)
    assert jobs == {"embed_dataset": 1, "import_encoder": 1, "prepare_dataset": 1, "write_phantoms": 1}
    (fresh.folder / "embed.yaml").write_text("embed: {totalsegmentator_phantom: {}}\n")
    assert fresh.planned("embed", configs=configs)["embed_dataset"] == 2
