"""Runs what a page of the documentation says: page.py PAGE REPOSITORY, in a folder of the page's own.

A fenced block's first word says what is done with it:

    sh              commands, which must succeed
    sh gpu          commands for machines that not everybody has: programs, options and make's targets must exist
    console         "$ command", and below it what it prints, where "..." is anything; it may fail if it says why
    text            nothing: formats, formulae
    LANGUAGE FILE   is written to that file, for the commands that follow

Prints a line for every block that fails, and at last "PAGE: N passed, N failed".
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

SECONDS = 120


def blocks(page: Path):
    """(line, words of the info string, text) of each fenced block; blocks in lists are indented."""
    opened = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.fullmatch(r"( *)```(.*)", line)
        if opened and fence and not fence[2].strip():
            start, indent, info, lines = opened
            yield start, info.split(), "".join(text.removeprefix(indent) + "\n" for text in lines)
            opened = None
        elif opened:
            opened[3].append(line)
        elif fence:
            opened = number, fence[1], fence[2], []
    if opened:
        yield opened[0], ["unended"], ""


def run(command: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            ["sh", "-e", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return 124, f"not done after {SECONDS} s"
    return done.returncode, done.stdout.decode(errors="replace")


def commands(text: str):
    """(command, expected output) of a console block; a command whose line ends in a backslash goes on."""
    command, expected, goes_on = None, [], False
    for line in text.splitlines():
        if goes_on:
            command += "\n" + line
        elif line.startswith("$ "):
            if command is not None:
                yield command, expected
            command, expected = line[2:], []
        elif command is None:
            raise ValueError("output without a command")
        else:
            expected.append(line.rstrip())
        goes_on = command is not None and not expected and (line if goes_on else command).endswith("\\")
    if command is None:
        raise ValueError("no command")
    yield command, expected


def pattern(expected: list[str]) -> str:
    parts = []
    for line in expected:
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(".*".join(re.escape(part) for part in line.split("...")) + r"[ \t]*\n")
    return "".join(parts)


def console(text: str) -> str | None:
    for command, expected in commands(text):
        status, output = run(command)
        if status != 0 and not expected:
            return f"$ {command}\nended with {status} and says:\n{output}"
        if output and not output.endswith("\n"):
            output += "\n"
        if not re.fullmatch(pattern(expected), output):
            return f"$ {command}\nsays:\n{output}and not:\n" + "\n".join(expected)
    return None


def shell(text: str) -> str | None:
    status, output = run(text)
    return None if status == 0 else f"{text}ended with {status} and says:\n{output}"


def exists(text: str) -> str | None:
    """Every command is a program of ours with its options, or a target of make's."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        at = next((i for i, word in enumerate(words) if re.match(r"cavmae-|make$", word)), None)
        if at is None:
            if words:
                return f"neither a program nor make: {line}"
            continue
        program, arguments = words[at], words[at + 1 :]
        status, said = run(f"make {shlex.join(arguments)}" if program == "make" else f"{program} --help")
        if status != 0:
            return f"{line}\n{said}"
        for word in arguments:
            if program != "make" and word.startswith("--") and not re.search(rf"{re.escape(word)}\b", said):
                return f"{program} has no {word}"
    return None


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def check(words: list[str], text: str) -> str | None:
    match words:
        case ["sh"]:
            return shell(text)
        case ["sh", "gpu"]:
            return exists(text)
        case ["console"]:
            return console(text)
        case ["text"]:
            return None
        case [_, name] if re.search(r"\w", name) and not name.startswith("/") and ".." not in name:
            return write(name, text)
    return f"a block must say sh, console, text, or language and file name, and not '{' '.join(words)}'"


def main() -> int:
    page = Path(sys.argv[1])
    passed = failed = 0
    for line, words, text in blocks(page):
        try:
            fault = check(words, text)
        except ValueError as error:
            fault = str(error)
        if fault is None:
            passed += 1
        else:
            failed += 1
            print(f"{page}:{line}: {fault}")
    print(f"{page.name}: {passed} passed, {failed} failed")
    return failed != 0


sys.exit(main())
