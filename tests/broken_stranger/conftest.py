"""Not collected with the tests of specinn: tests/test_stranger.py installs the package first."""

collect_ignore_glob = ["*"]
