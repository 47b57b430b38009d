"""What the contract tests of tasks share: a few labelled cases, and an encoder."""

from __future__ import annotations

import pytest

from tests.makers import random_encoder, stored_cases


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return stored_cases(tmp_path_factory.mktemp("cases"), 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("encoder"))
