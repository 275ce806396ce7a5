"""The pages for man: one for each block of the header, links to it for the other names in it, one for each program."""

import os
import re

from comment import error_text, paragraphs, without_errors
from entries import key_text, runs_of_rows
from signature import PARAMETER, wrapped

STATUS_RETURN = '''A function that returns a
.B cavmae_status
gives
.B CAVMAE_OK
or a negative number, for which
.BR cavmae_last_error (3)
has a sentence.'''


def escape(text, code=False):
    """A "-" between letters is a hyphen in words, and a "-" in code and in options."""
    text = text.replace('\\', '\\e')
    text = re.sub(r'-' if code else r'(?<![A-Za-z])-|-(?![A-Za-z])|(?<=--)[a-z-]+|\b(lib)?cavmae-[a-z-]+',
                  lambda m: m[0].replace('-', r'\-'), text)
    for letter, name in ("'", r'\(aq'), ('`', r'\(ga'), ('^', r'\(ha'), ('~', r'\(ti'):
        text = text.replace(letter, name)
    text = re.sub(r'[^\x00-\x7f]', lambda m: f'\\[u{ord(m[0]):04X}]', text)
    return re.sub(r'^\.', r'\\&.', text)


def bold(text):
    return f'\\fB{escape(text, True)}\\fP'


def code_lines(text):
    return ['.PP', '.RS 4', '.nf'] + [escape(line, True) for line in text.split('\n')] + ['.fi', '.RE']


def signature(code, width=71):
    """Of a declaration: bold, its parameters in italics."""
    lines = []
    for line in wrapped(code, width):
        # Bold and italics come after the escapes, which know no letters.
        line = escape(PARAMETER.sub('\x01\\1\x02', line), True).replace('\x01', '\\fI').replace('\x02', '\\fB')
        lines.append(f'\\fB{line}\\fP')
    return lines


def first_name(block):
    """What its page is called, or None: constants alone have none of their own."""
    return next((i.name for i in block.items() if i.kind != 'constant'), None)


def pages_of(section):
    """Lists of blocks, each a page. Constants alone go with the handle before them, else with what follows them."""
    pages, waiting = [], []
    for block in section.blocks:
        if block.items() != block.items('constant'):
            pages.append(waiting + [block])
            waiting = []
        elif pages and not waiting and not pages[-1][0].items('function', 'record', 'type'):
            pages[-1].append(block)
        else:
            waiting.append(block)
    return pages


def page_name(page):
    return next(name for name in map(first_name, page) if name)


class ManPages:
    def __init__(self, header, entries, directory):
        self.header, self.entries, self.directory = header, entries, directory
        self.page_of = {}
        for section in header.sections:
            for page in pages_of(section):
                for item in (i for block in page for i in block.items()):
                    self.page_of[item.name] = page_name(page)

    def write(self, name, lines, section='3'):
        path = os.path.join(self.directory, f'man{section}')
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, f'{name}.{section}'), 'w', encoding='ascii') as file:
            file.write('\n'.join(line for line in lines if line is not None) + '\n')

    def head(self, name, section='3'):
        return [f'.TH {name} {section} "" "libcavmae {self.header.version}" "libcavmae manual"', '.nh', '.ad l']

    def text(self, words, block=None):
        """Words in lines, the names in them bold, functions with their section of the manual."""
        out = ''
        for piece, name in self.entries.pieces(words, block):
            out += escape(piece) if not name or piece.isupper() and '_' not in piece else bold(piece)
            if name and piece == name and name in self.entries.since:
                out += '(3)'
        out = re.sub(r'\\\(ga(.*?)\\\(ga', r'\\fI\1\\fP', out)
        return re.sub(r'\(3\)\(', '(', re.sub(r'^\.', r'\\&.', out))

    def paragraph(self, kind, what, block=None):
        return code_lines(what) if kind == 'code' else ['.PP', self.text(what, block)]

    def description(self, page):
        lines, several = [], sum(1 for b in page for g in b.groups if g.comment or g.others()) > 1
        for block in page:
            for group in block.groups:
                rest, _ = without_errors(group.comment)
                names = [i.name for i in group.shared()]
                if rest and several and names and group.shared()[0].kind != 'record':
                    lines.append('.SS ' + ', '.join(bold(n) for n in names))
                for kind, what in rest:
                    lines += self.paragraph(kind, what, block)
                for item in group.others():
                    text = item.comment or 'Frees it. NULL is taken.'
                    lines += ['.TP', bold(item.name), self.text(text.replace('\n', ' '), block)]
                if group.constants():
                    lines += self.constants(group, block)
        return lines

    def constants(self, group, block):
        lines = []
        for item in group.constants():
            key, text = '', item.comment.replace('\n', ' ')
            if item.key:
                text, values = key_text(item, self.entries.about_keys)
                key, text = f', key {bold(item.key)}', f'{text} ({values})'.strip()
            lines += ['.TP', f'{bold(item.name)} = {escape(item.code)}{key}', self.text(text, block) if text else '\\&']
        return lines

    def fields(self, record, block):
        lines = []
        for kind, what, comment in runs_of_rows(record.rows):
            if kind == 'note':
                lines += ['.PP', self.text(what.replace('\n', ' '), block)]
                continue
            for row in what:
                code = signature(row.code, 1000)[0] if '(' in row.code else bold(row.code)
                lines += ['.TP' if row is what[0] else '.TQ', code]
            if what[0].names == ['struct_size']:
                comment = f'sizeof ({record.name}), set by the caller'
            lines.append(self.text(comment.replace('\n', ' '), block) if comment else '\\&')
        return lines

    def errors(self, page):
        lines = []
        told = [(g, b, without_errors(g.comment)[1]) for b in page for g in b.groups]
        for group, block, sentences in told:
            if not sentences:
                continue
            if sum(1 for t in told if t[2]) > 1 or len(told) > 1:
                lines += ['.TP', ', '.join(bold(i.name) for i in group.shared())]
            else:
                lines.append('.PP')
            lines.append(self.text(' '.join(map(error_text, sentences)), block))
        if any(i.code.startswith('cavmae_status ') for b in page for i in b.items('function')):
            if lines:
                lines += ['.PP', 'Any other that', '.BR cavmae_status (3)',
                          'lists may come from what is called on the way.']
            else:
                lines += ['.PP', 'Those that', '.BR cavmae_status (3)', 'lists.']
        return lines

    def see_also(self, page, section):
        """First what is in the same declarations, then the rest of the section."""
        own = page_name(page)
        names = []
        for item in (i for b in page for i in b.items() if i.name != 'cavmae_status'):
            names += re.findall(r'\bcavmae_\w+', item.code + ' '.join(r.code for r in item.rows))
            names += [u.name for u in self.entries.users.get(item.name, []) if item.kind in ('record', 'type')]
        near = [page_name(p) for p in pages_of(section)]
        ordered = dict.fromkeys(self.page_of[n] for n in names + near if self.page_of.get(n, own) != own)
        listed = sorted(n for n in ordered)
        return ['.BR cavmae (3),'] + [f'.BR {n} (3)' + (',' if n != listed[-1] else '') for n in listed]

    def page(self, page, section):
        name = page_name(page)
        items = [i for b in page for i in b.items() if i.kind != 'constant']
        names = [i.name for i in items]
        lines = self.head(name) + ['.SH NAME', f'{", ".join(names)} \\- {escape(section.title.lower())}',
                                   '.SH SYNOPSIS', '.nf', '.B #include <cavmae.h>']
        for block in page:
            shown = [i for i in block.items() if i.kind != 'constant']
            if shown:
                lines.append('')
            for item in shown:
                lines += signature(item.code)
        lines += ['.fi', '.SH DESCRIPTION']
        described = self.description(page)
        records = [(i, b) for b in page for i in b.items('record')]
        if not described:
            kind = {'record': 'A record', 'handle': 'A handle'}.get(items[0].kind, escape(section.title))
            described = ['.PP', f'{kind}; see', '.BR cavmae (3).']
        lines += described
        for record, block in records:
            lines += ['.SH FIELDS'] + self.fields(record, block)
        if any(i.code.startswith('cavmae_status ') for i in items if i.kind == 'function'):
            lines += ['.SH RETURN VALUE', STATUS_RETURN]
        errors = self.errors(page)
        if errors:
            lines += ['.SH ERRORS'] + errors
        since = sorted({self.entries.since[n] for n in names if n in self.entries.since})
        if len(since) == 1:
            lines += ['.SH SINCE', since[0]]
        elif since:
            lines.append('.SH SINCE')
            for version in since:
                of = [n for n in names if self.entries.since.get(n) == version]
                lines += ['.TP', version, ', '.join(map(bold, of))]
        lines += ['.SH SEE ALSO'] + self.see_also(page, section)
        self.write(name, lines)
        for other in names:
            if other != name:
                self.write(other, [f'.so man3/{name}.3'])

    def overview(self, programs):
        lines = self.head('cavmae') + ['.SH NAME', 'cavmae, libcavmae \\- contrastive audio-visual masked autoencoders',
                                       '.SH SYNOPSIS', '.nf', '.B #include <cavmae.h>', '',
                                       '.B cc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs cavmae)', '.fi',
                                       '.SH DESCRIPTION']
        for kind, what in paragraphs(self.header.overview):
            titled = re.match(r'([A-Z][a-z]+)\. ', what) if kind == 'text' else None
            if titled:
                lines.append(f'.SS {titled[1]}')
                what = what[titled.end():]
            lines += self.paragraph(kind, what)
        lines.append('.SH FUNCTIONS')
        for section in self.header.sections:
            pages = pages_of(section)
            lines += ['.SS ' + escape(section.title), '.PP']
            for page in pages:
                names = [i.name for b in page for i in b.items('function', 'record', 'type', 'handle')]
                lines.append(f'.BR {names[0]} (3)' + ('' if page is pages[-1] else ','))
        lines.append('.SH SEE ALSO')
        lines += [f'.BR {escape(p.name, True)} (1){"" if p is programs[-1] else ","}' for p in programs]
        self.write('cavmae', lines)
        self.write('libcavmae', ['.so man3/cavmae.3'])

    def program(self, program, programs):
        name = escape(program.name, True)
        lines = self.head(program.name, '1') + ['.SH NAME', f'{name} \\- {escape(program.what)}', '.SH SYNOPSIS',
                                                f'.B {name}', '.RI [ option ...]']
        lines += [escape(o[0]) for o in program.options if not o[0].startswith('-')]
        lines += ['.br', f'.B {name} \\-\\-help', '.SH DESCRIPTION']
        what = program.does or program.what
        lines.append(escape(what[0].upper() + what[1:] + ('' if what.endswith('.') else '.')))
        lines.append('What an option is without being given stands in brackets.')
        lines.append('.SH OPTIONS')
        for left, right in program.options + [('--help', 'says this')]:
            option, _, value = left.partition(' ')
            shown = bold(option) + (f' \\fI{escape(value)}\\fP' if value else '')
            lines += ['.TP', shown if option.startswith('-') else f'\\fI{escape(left)}\\fP', self.text(right)]
        lines += ['.SH EXIT STATUS', '0 where all was done; else another one, after a sentence on standard error.']
        if program.examples:
            lines.append('.SH EXAMPLES')
            for example in program.examples:
                lines += ['.PP', bold(example)]
        lines.append('.SH SEE ALSO')
        lines += [f'.BR {escape(p.name, True)} (1),' for p in programs if p is not program] + ['.BR cavmae (3)']
        self.write(program.name, lines, '1')

    def write_all(self, programs):
        self.overview(programs)
        for section in self.header.sections:
            for page in pages_of(section):
                self.page(page, section)
        for program in programs:
            self.program(program, programs)
