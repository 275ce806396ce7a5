"""Reads include/cavmae.h.

How the header is written, and how it is read here:

* The first comment is the overview.
* "/* ---- Title ---- */" begins a section; what is before the first one is for the compiler.
* An empty line ends a block: what belongs together, and is one page of the manual.
* In a block a comment on lines of its own is about all that follows, up to the next such comment: a group. A group may
  be without a comment.
* A comment behind a declaration, on its line, is about that alone; so is, of a "_free", what the overview says of them.
* The same holds of fields in a record; there a comment on its own lines is about the fields that follow and have none
  of their own. Fields that are called reserved are no part of what is before them.
* A key's comment begins with its name: "lr. 5e-5" or "epochs: how long ...".
"""

import re
from dataclasses import dataclass, field


@dataclass
class Row:
    """A constant, or the fields of one declaration in a record."""
    names: list
    code: str
    comment: str = ''
    lead: str = None  # a comment before it


@dataclass
class Item:
    """A declaration."""
    kind: str  # function, handle, record, type, constant
    name: str
    code: str  # in one line, without what is for the compiler
    comment: str = ''
    rows: list = field(default_factory=list)  # a record's fields
    key: str = None  # what a constant CAVMAE_P_ is called by name


@dataclass
class Group:
    comment: str
    items: list = field(default_factory=list)

    def shared(self):
        """The declarations that the comment is about."""
        return [i for i in self.items if not i.comment and not i.name.endswith('_free') and i.kind != 'constant']

    def others(self):
        return [i for i in self.items if i not in self.shared() and i.kind != 'constant']

    def constants(self):
        return [i for i in self.items if i.kind == 'constant']


@dataclass
class Block:
    section: object
    groups: list = field(default_factory=list)

    def items(self, *kinds):
        return [i for g in self.groups for i in g.items if not kinds or i.kind in kinds]


@dataclass
class Section:
    title: str
    blocks: list = field(default_factory=list)

    def items(self, *kinds):
        return [i for b in self.blocks for i in b.items(*kinds)]


@dataclass
class Header:
    overview: str
    version: str
    sections: list

    def items(self, *kinds):
        return [i for s in self.sections for i in s.items(*kinds)]


TOKEN = re.compile(r'(?P<blank>\s*\n[ \t]*\n\s*)|(?P<space>\s+)|(?P<comment>/\*.*?\*/)'
                   r'|#define (?P<define>\w+)[ \t]+(?:\\\n\s*)?(?P<value>(?:(?!/\*).)+?)(?=[ \t]*(?:/\*|\n))'
                   r'|(?P<other>#[^\n]*)|(?P<code>[^\s#])', re.S)


def comment_text(comment):
    """What a comment says, its lines without the stars before them; indented lines stay so."""
    lines = comment[2:-2].split('\n')
    return '\n'.join([lines[0].strip()] + [re.sub(r'^\s*\* ?', '', line).rstrip() for line in lines[1:]]).strip()


def one_line(code):
    code = re.sub(r'\bCAVMAE_(API|CHECKED)\b', '', code)
    code = re.sub(r'\s+', ' ', code).strip()
    return re.sub(r' ([;,)])', r'\1', re.sub(r'([(*]) ', r'\1', code))


def end_of_declaration(text, start):
    """The place behind its semicolon."""
    depth, at = 0, start
    while depth or text[at] != ';':
        if text.startswith('/*', at):
            at = text.index('*/', at) + 1
        depth += (text[at] in '({') - (text[at] in ')}')
        at += 1
    return at + 1


def parts(text):
    """(kind, match or code): 'blank', 'before' and 'behind' for comments, 'define', 'code' for declarations."""
    at = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        kind, at = match.lastgroup, match.end()
        if kind == 'comment':
            on_line = text[text.rfind('\n', 0, match.start()) + 1:match.start()]
            yield 'behind' if on_line.strip() else 'before', comment_text(match['comment'])
        elif kind == 'value':
            yield 'define', (match['define'], match['value'].strip())
        elif kind == 'code':
            at = end_of_declaration(text, match.start())
            yield 'code', text[match.start():at]
        elif kind == 'blank':
            yield 'blank', None


def field_names(code):
    """Of "double min, max;" or "void (*free)(void *user, void *memory);"."""
    pointer = re.search(r'\(\*(\w+)\)', code)
    return [pointer[1]] if pointer else re.findall(r'(\w+)(?:\[[^]]*\])?\s*[,;]', code)


def read_fields(body):
    rows, lead = [], None
    for kind, what in parts(body):
        if kind == 'before':
            lead = what
        elif kind == 'behind':
            rows[-1].comment = what
        elif kind == 'code':
            code = one_line(what)
            rows.append(Row(field_names(code), code, '', lead))
            lead = None
    return rows


def read_declaration(code):
    record = re.match(r'typedef struct (\w+)\s*\{(.*)\}\s*\w+;$', code, re.S)
    if record:
        name, fields = record.groups()
        return Item('record', name, f'typedef struct {name} {{ ... }} {name};', rows=read_fields(fields))
    line = one_line(code)
    handle = re.match(r'typedef struct (\w+) \1;', line)
    if handle:
        return Item('handle', handle[1], line)
    function = re.search(r'(\w+)\(', line)
    if function:
        return Item('type' if line.startswith('typedef') else 'function', function[1], line)
    plain = re.match(r'typedef .*?(\w+);$', line)
    return Item('type', plain[1], line) if plain else None  # else one of another library: struct DLManagedTensor


def read_section(title, text):
    section = Section(title)
    block = group = None
    for kind, what in parts(text):
        if kind == 'blank':
            block = group = None
            continue
        if kind == 'behind':
            group.items[-1].comment = what
            continue
        if block is None:
            block = Block(section)
            section.blocks.append(block)
        if kind == 'before' or group is None:
            group = Group(what if kind == 'before' else '')
            block.groups.append(group)
        if kind == 'define':
            group.items.append(Item('constant', what[0], what[1]))
        elif kind == 'code':
            item = read_declaration(what)
            if item:
                group.items.append(item)
    for item in section.items('constant'):
        number = re.match(r'\(\(\w+\)(-?\d+)\)$', item.code)
        item.code = number[1] if number else item.code
        if item.name.startswith('CAVMAE_P_'):
            item.key = re.match(r'(\w+)[:.]', item.comment)[1]
    section.blocks = [b for b in section.blocks if b.items()]
    return section


def read_header(path):
    with open(path, encoding='utf-8') as file:
        text = file.read()
    text = text[:text.rindex('#ifdef __cplusplus')]
    overview = comment_text(text[:text.index('*/') + 2])
    pieces = re.split(r'^/\* ---- (.*?) -+ \*/$', text, flags=re.M)
    sections = [read_section(title, body) for title, body in zip(pieces[1::2], pieces[2::2])]
    version = re.search(r'CAVMAE_VERSION_STRING "(.*)"', text)[1]
    return Header(overview, version, sections)
