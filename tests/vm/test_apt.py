# SPDX-License-Identifier: MIT
"""apt source entries of all shapes, and a mirror that cannot be reached."""

import time

import pytest

from kfiber.vm.apt import Apt, Source, debian_sources, machine_sources, parse_deb822, parse_list
from kfiber.vm.errors import MISSING, VmError

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_entries():
    found = parse_list(
        "# deb http://a.example/debian bookworm main\n"
        "deb http://a.example/debian bookworm main contrib # mine\n"
        f"  deb [arch=amd64 signed-by={KEY} trusted=yes] http://b.example/debian bookworm main\n"
        "deb-src http://a.example/debian bookworm main\n"
        "nonsense\n"
    )
    assert found == [
        Source("http://a.example/debian", "bookworm", ("main", "contrib")),
        Source(
            "http://b.example/debian",
            "bookworm",
            ("main",),
            {"Signed-By": KEY, "Trusted": "yes"},
        ),
    ]


def test_deb822_entries_are_one_for_each_uri_and_suite():
    found = parse_deb822(
        "Types: deb deb-src\n"
        "# a comment between\n"
        "URIs: http://a.example/debian\n  http://b.example/debian\n"
        "Suites: bookworm bookworm-updates\n"
        "components: main\n"
        f"Signed-By: {KEY}\n"
        "\n\n"
        "Types: deb\nURIs: http://c.example/x\nSuites: y\nComponents: main\nEnabled: no\n"
        "\n"
        "Types: deb-src\nURIs: http://d.example/x\nSuites: y\nComponents: main\n"
    )
    assert [(each.uri[7], each.suite) for each in found] == [
        ("a", "bookworm"),
        ("a", "bookworm-updates"),
        ("b", "bookworm"),
        ("b", "bookworm-updates"),
    ]
    assert {each.options["Signed-By"] for each in found} == {KEY}


def test_a_key_inside_an_entry_survives():
    text = (
        "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n"
    )
    (source,) = parse_deb822(text)
    assert parse_deb822(source.deb822()) == [source]
    assert "\n .\n mQINBF\n" in source.deb822()


def test_all_files_of_a_machine_are_read(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.list").write_text("deb http://b.example/x y z\n")
    (parts / "c.sources").write_text(
        "Types: deb\nURIs: http://c.example/x\nSuites: y\nComponents: z\n"
    )
    (parts / "d.list.disabled").write_text("deb http://d.example/x y z\n")
    (parts / "e.sources").write_bytes(b"\xff\xfe")
    assert [each.uri[7] for each in machine_sources(tmp_path)] == ["a", "b", "c"]


MACHINE = [
    Source("https://node.example/node_20.x", "nodistro", ("main",)),
    Source("https://docker.example/linux/debian", "bookworm", ("stable",)),
    Source("https://sury.example/php", "bookworm", ("main",)),
    Source("https://postgres.example/apt", "bookworm-pgdg", ("main",)),
    Source("http://a.example/mirror", "bookworm", ("main", "contrib"), {"Signed-By": KEY}),
    Source("http://a.example/mirror", "bookworm-updates", ("main",), {"Signed-By": KEY}),
    Source("http://a.example/debian-security", "stable-security", ("main",)),
    Source("http://a.example/mirror", "bookworm-backports", ("main",), {"Signed-By": KEY}),
]


def test_only_debians_own_archive_is_taken():
    found = debian_sources(MACHINE, "bookworm", "bookworm")
    assert [(each.uri[17:], each.suite) for each in found] == [
        ("mirror", "bookworm"),
        ("mirror", "bookworm-updates"),
        ("debian-security", "bookworm-security"),
    ]
    assert {each.components for each in found} == {("main",)}


@pytest.mark.parametrize("suite", ["bookworm-backports", "trixie"])
def test_another_suite_is_on_the_same_mirror_with_the_same_key(suite):
    found = debian_sources(MACHINE, "bookworm", suite)
    expected = Source("http://a.example/mirror", suite, ("main",), {"Signed-By": KEY})
    assert found == [expected]


def test_a_machine_without_debian_is_told_so():
    with pytest.raises(VmError, match=r"no archive of Debian bookworm .*; hint: ") as caught:
        debian_sources(MACHINE[:4], "bookworm", "bookworm")
    assert caught.value.status == MISSING


def test_an_unreachable_mirror_is_one_line_soon(tmp_path):
    # The discard port: nothing listens there.
    apt = Apt(tmp_path, [Source("http://127.0.0.1:9/debian", "bookworm", ("main",))])
    start = time.monotonic()
    with pytest.raises(VmError) as caught:
        apt.update()
    assert time.monotonic() - start < 60
    assert caught.value.status == MISSING
    assert "\n" not in str(caught.value)
    assert "; hint: " in str(caught.value)


def test_apts_state_stays_in_its_directory(tmp_path):
    apt = Apt(tmp_path, [Source("http://127.0.0.1:9/debian", "bookworm", ("main",))])
    with pytest.raises(VmError, match=r"no package linux-image-amd64 in bookworm; hint: "):
        apt.show("linux-image-amd64")
