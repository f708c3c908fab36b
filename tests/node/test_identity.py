"""Whose a data directory is."""

from __future__ import annotations

import json
import random

import pytest

from raftcore.errors import ConfigError, CorruptData, IdentityError, StorageInUse
from raftcore.node.identity import DataDirectory


@pytest.fixture
def opened(tmp_path):
    """Open the directory as some node of some cluster, and close it in the end."""
    directories = []

    def open_as(cluster="test", node="n1", path=tmp_path / "data"):
        directory = DataDirectory(path)
        directories.append(directory)
        return directory, directory.open(cluster, node, random.Random(len(directories)))

    yield open_as
    for directory in directories:
        directory.close()


def test_a_new_directory_gets_an_identity_that_stays(opened, tmp_path):
    """The incarnation is drawn once."""
    directory, first = opened()
    directory.close()
    _, second = opened()

    assert first == second
    assert {"cluster": "test", "node": "n1", "incarnation": first.incarnation, "format": 1} == json.loads(
        (tmp_path / "data" / "identity.json").read_bytes()
    )
    assert ["identity.json", "lock"] == sorted(file.name for file in (tmp_path / "data").iterdir())


def test_a_directory_in_use_is_refused(opened):
    """Until it is closed; the refused one leaves the lock to its owner."""
    directory, _ = opened()
    for _ in range(2):
        with pytest.raises(StorageInUse, match=r"data directory .* is in use by another process; stop it"):
            opened()
    directory.close()

    assert opened()


def test_a_directory_of_another_cluster_or_node_is_refused(opened):
    """And may be opened by the right one afterwards."""
    directory, _ = opened()
    directory.close()
    with pytest.raises(
        IdentityError, match=r"belongs to cluster 'test', not to 'other'; correct cluster.name or node.data_dir"
    ):
        opened(cluster="other")
    with pytest.raises(IdentityError, match=r"belongs to node 'n1', not to 'n2'; correct node.id or node.data_dir"):
        opened(node="n2")

    assert opened()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"cluster": "test"}', b'{"cluster": "test", "node": "n1", "incarnation": 7}']
)
def test_a_damaged_identity_is_refused(opened, tmp_path, content):
    """It is not replaced by a new one, which would be another disk."""
    directory, _ = opened()
    directory.close()
    file = tmp_path / "data" / "identity.json"
    file.write_bytes(content)
    with pytest.raises(CorruptData, match=r"identity.json: .*; restore this file from a copy, or remove this member"):
        opened()

    assert content == file.read_bytes()


def test_a_directory_that_can_not_be_made_is_a_configuration_error(opened, tmp_path):
    """A file stands where it should be."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"node.data_dir: .*file/data can't be written: .*; choose another directory"):
        opened(path=tmp_path / "file" / "data")


def test_a_node_refuses_the_directory_of_another(run, cluster):
    """And opens nothing else."""

    async def main():
        async with cluster(1) as c:
            with pytest.raises(StorageInUse):
                await _second(c)

            assert [] == [call for call in c["n2"].machine.calls if call == "open"]

    async def _second(c):
        c.node("n2")
        c["n2"].node._directory.path = c["n1"].path
        await c["n2"].node.start()

    run(main)


def test_a_node_without_a_directory_is_a_new_member_each_time(run, cluster):
    """Everything is in memory, so it has no disk to be known by."""

    async def main():
        seen = []
        for seed in (1, 2):
            async with cluster(0) as c:
                node = c.node("n1", rng=random.Random(seed), members={"n1": "address-1"})
                node._directory = None
                await node.start()
                await node.propose(b"x")
                seen.append(node.member.hello.incarnation)

        assert 2 == len(set(seen))

    run(main)
