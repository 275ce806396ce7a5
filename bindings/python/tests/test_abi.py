"""_abi.py and _records.py against include/cavmae.h: names, arity, types, fields, sizes, numbers."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import pytest
from conftest import REPOSITORY

from cavmae import _abi, _library, _records
from cavmae.config import keys

HEADER = REPOSITORY / "include" / "cavmae.h"


def plain_header() -> str:
    """Without comments and continued lines."""
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)
    return text.replace("\\\n", " ")


def split_arguments(text: str) -> list[str]:
    """At the commas outside of parentheses."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [one.strip() for one in [*parts, part] if one.strip() not in ("", "void")]


def c_type(declaration: str) -> str:
    """A parameter, field or result as a type: without its name, const and struct; functions as "function"."""
    text = re.sub(r"\s+", " ", declaration).strip()
    if re.search(r"\(\*\w+\)\s*\(", text) or re.match(r"cavmae_\w+_sink \*", text):
        return "function"
    array = re.match(r"const (\w+) \(\*\w+\)\[(\d+)\]$", text)
    if array:
        return f"{array.group(1)}[{array.group(2)}]*"
    text = re.sub(r"\b(const|struct)\b", "", text)
    match = re.match(r"\s*(\w+)([\s*]*)(\w+)?\s*$", text)
    assert match, f"not understood: {declaration!r}"
    return match.group(1) + re.sub(r"\s", "", match.group(2))


def header_functions() -> dict[str, tuple[str, list[str]]]:
    found = {}
    text = re.sub(r"^\s*#.*$", "", plain_header(), flags=re.M)
    for declaration in re.findall(r"CAVMAE_API\s+([^;]*?);", text, flags=re.S):
        match = re.match(r"(.*?)\b(cavmae_\w+)\s*\((.*)\)\s*(?:CAVMAE_CHECKED)?\s*$", declaration, flags=re.S)
        assert match, f"not understood: {declaration!r}"
        result, name, arguments = match.groups()
        found[name] = (c_type(result), [c_type(one) for one in split_arguments(arguments)])
    return found


def header_records() -> dict[str, list[tuple[str, str]]]:
    """Names and types of the fields of each record."""
    found = {}
    for name, body in re.findall(r"typedef struct (cavmae_\w+) \{(.*?)\n\} \1;", plain_header(), flags=re.S):
        fields = []
        for line in body.split(";"):
            line = re.sub(r"\s+", " ", line).strip()
            if not line:
                continue
            if "(" in line:
                fields.append((re.search(r"\(\*(\w+)\)", line).group(1), "function"))
                continue
            first, *others = (part.strip() for part in line.split(","))
            kind = re.sub(r"\w+$", "", first)
            for one in [re.search(r"\w+$", first).group(), *others]:
                fields.append((one.lstrip("*"), c_type(kind + " x")))
        found[name] = fields
    return found


SIMPLE = {
    ctypes.c_int16: "int16_t",
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
    ctypes.c_uint8: "uint8_t",
    ctypes.c_uint32: "uint32_t",
    ctypes.c_size_t: "size_t",
    ctypes.c_float: "float",
    ctypes.c_double: "double",
    ctypes.c_char_p: "char*",
    ctypes.c_void_p: "void*",
    _records.status: "cavmae_status",
    None: "void",
}


def spelled(kind: object) -> str:
    """A ctypes type as the header spells it."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    if isinstance(kind, type) and issubclass(kind, ctypes._CFuncPtr):
        return "function"
    if isinstance(kind, type) and issubclass(kind, ctypes.Array):
        return f"{spelled(kind._type_)}[{kind._length_}]"
    if isinstance(kind, type) and issubclass(kind, ctypes.Structure):
        return kind.__name__
    return spelled(kind._type_) + "*"


def test_every_function_is_in_the_table_and_no_other():
    assert sorted(_abi.FUNCTIONS) == sorted(header_functions())
    assert len(_abi.FUNCTIONS) > 100


@pytest.mark.parametrize("name", sorted(_abi.FUNCTIONS))
def test_function(name):
    result, arguments = _abi.FUNCTIONS[name]
    wanted_result, wanted_arguments = header_functions()[name]
    assert spelled(result) == wanted_result
    assert [spelled(one) for one in arguments] == wanted_arguments


def test_every_function_is_in_the_library():
    for name in _abi.FUNCTIONS:
        getattr(_library.library(), name)


def test_every_record_is_there_with_its_fields():
    wanted = header_records()
    assert sorted(_records.RECORDS) == sorted(wanted)
    for name, record in _records.RECORDS.items():
        got = [(field[0], spelled(field[1])) for field in record._fields_]
        assert got == wanted[name], name


def test_constants():
    text = plain_header()
    wanted = dict(re.findall(r"#define CAVMAE_(\w+)\s+\(?(?:\(cavmae_status\))?(-?\d+)\)?", text))
    wanted = {name: int(value) for name, value in wanted.items() if not name.startswith("P_")}
    assert _records.CONSTANTS == wanted


def test_keys_are_those_of_the_header():
    header = re.sub(r"\\\n", " ", HEADER.read_text())
    numbers = {int(number) for number in re.findall(r"#define CAVMAE_P_\w+\s+(\d+)", header)}
    names = dict(re.findall(r"#define CAVMAE_P_(\w+)\s+\d+\s*/\*\s*(\w+)[:.]", header))
    assert {info.number for info in keys().values()} == numbers
    assert set(keys()) == set(names.values())


def test_sizes_and_offsets(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("no C compiler")
    lines = ["#include <stdio.h>", f'#include "{HEADER}"', "int main(void) {"]
    expected = []
    for name, record in _records.RECORDS.items():
        lines.append(f'    printf("%zu\\n", sizeof({name}));')
        expected.append((name, ctypes.sizeof(record)))
        for field, *_ in record._fields_:
            place = getattr(record, field)
            lines.append(f'    printf("%zu\\n%zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
            expected += [(f"offset of {name}.{field}", place.offset), (f"size of {name}.{field}", place.size)]
    source = tmp_path / "sizes.c"
    source.write_text("\n".join([*lines, "    return 0;", "}"]))
    subprocess.run([compiler, "-o", tmp_path / "sizes", source], check=True)
    printed = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout.split()
    assert [(what, int(number)) for (what, _), number in zip(expected, printed)] == expected
    assert len(printed) == len(expected)


def callback_types(arguments: str) -> list[str]:
    """Results are written to char *error, for which ctypes needs an address, and a status is given as an integer."""
    names = {"char*": "void*"}
    types = [c_type(one) for one in split_arguments(arguments)]
    return [names.get(kind, kind) if "error" in arguments else kind for kind in types]


def test_callbacks():
    text = plain_header()
    count = 0
    for name, record in _records.RECORDS.items():
        body = re.search(rf"typedef struct {name} \{{(.*?)\n\}}", text, flags=re.S).group(1)
        fields = {field[0]: field[1] for field in record._fields_}
        pattern = r"([\w*]+) ?\*?\(\*(\w+)\)\s*\(([^;]*?)\);"
        for result, field, arguments in re.findall(pattern, body, flags=re.S):
            assert [spelled(one) for one in fields[field]._argtypes_] == callback_types(arguments), (name, field)
            pointer = re.search(rf"(\w+ ?\*?)\(\*{field}\)", body).group(1).replace(" ", "")
            wanted = {"cavmae_status": "int32_t", "void*": "void*", "void": "void"}.get(pointer, pointer)
            assert spelled(fields[field]._restype_) == wanted, (name, field)
            count += 1
    assert count == 15
    for name in ("cavmae_window_sink", "cavmae_audio_sink", "cavmae_frame_sink"):
        arguments = re.search(rf"typedef cavmae_status {name}\((.*?)\);", text, flags=re.S).group(1)
        kind = getattr(_records, name)
        assert [spelled(one) for one in kind._argtypes_] == callback_types(arguments)
        assert kind._restype_ is ctypes.c_int32
