# SPDX-License-Identifier: MIT
"""fiber.txt, the description for syzkaller, says of the device what uapi/fiber.h says."""

import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HEADER = (ROOT / "uapi" / "fiber.h").read_text()
DESCRIPTION = (HERE / "fiber.txt").read_text()
CONSTANTS = (HERE / "fiber.txt.const").read_text()

# Those of requests; the table's are memory, which syzkaller fills with anything.
STRUCTURES = ["fiber_convert", "fiber_create", "fiber_name", "fiber_fls", "fiber_snapshot"]


def comment_free(text):
    return re.sub(r"(?m)#.*$", "", text)


def header_requests():
    return re.findall(r"(?m)^#define (FIBER_IOC_(?!MAGIC)\w+)", HEADER)


def described_fields(name):
    """Field, type and direction of a structure in the description."""
    body = re.search(rf"(?m)^{name} \{{\n(.*?)^\}}", DESCRIPTION, re.DOTALL)[1]
    fields = []
    for line in body.splitlines():
        field, type_, *direction = line.strip().split("\t")
        fields.append((field, type_, *direction))
    return fields


def header_fields(name):
    """Field and its size in bytes; of an array, what C says for its length."""
    body = re.search(rf"(?m)^struct {name} \{{\n(.*?)^\}};", HEADER, re.DOTALL)[1]
    sizes = {"__u32": 4, "__u64": 8}
    return [
        (field, 64 if length else sizes[type_])
        for type_, field, length in re.findall(r"(\w+) (\w+)(\[FIBER_NAME_SIZE\])?;", body)
    ]


def size_of(type_):
    if type_ == "fiber_name_text":
        return 64
    if type_ in ("fiber_id", "fiber_index", "vma64") or re.match(r"int64\b", type_):
        return 8
    return 4 if "int32" in type_ else None


def used_constants():
    text = re.sub(r'"[^"]*"', "", comment_free(DESCRIPTION))
    text = re.sub(r"(?m)^include .*$", "", text)
    text = re.sub(r"ioctl\$\w+", "", text)
    return set(re.findall(r"\b(?:FIBER|MAP|AT)_\w+", text))


def listed_constants():
    return {
        name: int(value, 0)
        for name, value in re.findall(r"(?m)^(\w+) = (\w+)$", CONSTANTS)
        if name != "arches"
    }


def test_every_request_is_described():
    described = re.findall(r"(?m)^ioctl\$(\w+)\(fd fd_fiber, cmd const\[(\w+)\]", DESCRIPTION)
    assert [name for name, _ in described] == [constant for _, constant in described]
    assert [name for name, _ in described] == header_requests()


def test_the_device_is_the_headers():
    (device,) = re.findall(r'#define FIBER_DEVICE\s+("[^"]+")', HEADER)
    assert f"string[{device}]" in DESCRIPTION


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_the_headers_fields(name):
    described = [(field, size_of(type_)) for field, type_, *_ in described_fields(name)]
    assert described == header_fields(name)


def test_every_structure_of_a_request_is_described():
    named = set(re.findall(r"\[struct (\w+)\]", HEADER))
    assert named == set(STRUCTURES)


def test_structures_begin_with_their_size():
    for name in STRUCTURES:
        assert described_fields(name)[0] == ("size", "bytesize[parent, int32]")


def test_constants_are_listed():
    assert used_constants() == set(listed_constants())


def test_constants_have_the_headers_values(tmp_path):
    names = sorted(listed_constants())
    program = tmp_path / "constants.c"
    lines = "".join(f'\tprintf("{name} %lu\\n", (unsigned long){name});\n' for name in names)
    program.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <sys/mman.h>\n"
        f'#include "uapi/fiber.h"\n\nint main(void)\n{{\n{lines}\treturn 0;\n}}\n'
    )
    command = ["cc", "-D_GNU_SOURCE", f"-I{ROOT}", "-o", tmp_path / "constants", program]
    subprocess.run(command, check=True)
    said = subprocess.run([tmp_path / "constants"], check=True, capture_output=True, text=True)
    values = {name: int(value) for name, value in re.findall(r"(\w+) (\d+)", said.stdout)}
    assert values == listed_constants()
