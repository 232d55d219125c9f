"""The ranks that all tests of this folder share, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.ranks.pool import Pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    ranks = Pool(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` one worker of pytest-xdist runs them: it has the processes."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if "tests/distributed" in item.path.as_posix():
            item.add_marker(pytest.mark.xdist_group("distributed"))
