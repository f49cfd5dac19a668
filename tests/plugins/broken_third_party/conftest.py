"""Not collected with the tests of specinn: tests/plugins/test_third_party.py installs the package first."""

collect_ignore_glob = ["*"]
