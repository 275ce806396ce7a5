"""The programs, by what they say with --help."""

import re
import subprocess
from dataclasses import dataclass, field


@dataclass
class Program:
    name: str
    what: str
    options: list  # ('--out FILE', 'where to write')
    does: str = ''  # of examples/README.md's table
    examples: list = field(default_factory=list)


def read_keys(path):
    """What `cavmae-info --keys` says of each: "default 224; whole number 1 to 16384"."""
    lines = subprocess.run([path, '--keys'], check=True, capture_output=True, text=True).stdout.rstrip('\n').split('\n')
    keys = {}
    for line in lines:
        name, default, values = re.match(r'(\w+) +(.*?) +((?:whole )?number .*|text|\S*\|\S*)$', line).groups()
        values = re.sub(r'\S+e[-+]\d+', lambda m: repr(float(m[0])), values).replace('|', ' | ')
        keys[name] = default, f'default {default or "none"}; {values}'
    return keys


def read_program(path, guides):
    """guides: the texts of pages with a table of programs and command lines."""
    words = subprocess.run([path, '--help'], check=True, capture_output=True, text=True).stdout.rstrip('\n').split('\n')
    name, what = words[0].split(': ', 1)
    options = []
    for line in words[1:]:
        # As print_help in examples/lib/program.c writes it.
        left, right = re.match(r'  (.{24}\S*) (.*)$', line).groups()
        options.append((left.strip(), right))
    program = Program(name, what, options)
    for text in guides:
        row = re.search(r'^\| \[%s\.c\][^|]*\| ([^|]*) \|' % name.replace('cavmae-', '', 1), text, re.M)
        if row:
            program.does = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', row[1]).replace('`', '')
        for block in re.findall(r'^```[^\n]*\n(.*?)^```', text, re.S | re.M):
            for line in re.findall(r'^(?:\$ )?(%s [^\\\n]*)$' % name, block, re.M):
                line = re.sub(r'\s+#.*', '', re.sub(r'\s+', ' ', line)).strip()
                if line not in program.examples and not re.search(r'--(help|version)\b', line):
                    program.examples.append(line)
    return program
