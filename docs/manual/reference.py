"""The pages of the header's sections, and the index of its names."""

import re

from comment import error_text, paragraphs, without_errors
from entries import key_text, runs_of_rows, slug, title_of
from layout import escape
from signature import PARAMETER, wrapped


class Reference:
    def __init__(self, header, entries, guides, layout):
        self.header, self.entries, self.guides, self.layout = header, entries, guides, layout
        self.files = {s.title: f'api-{slug(s.title)}.html' for s in header.sections}

    def to(self, name, words=None):
        page, place = self.entries.names.places[name]
        return f'<a href="{page}{"#" if place else ""}{place}">{escape(words or name)}</a>'

    def text(self, words, block=None):
        """Words with links; `quoted` ones as code."""
        out = ''
        for piece, name in self.entries.pieces(' '.join(words.split()), block):
            out += self.to(name, piece) if name else escape(piece)
        return re.sub(r'`([^`]*)`', r'<code>\1</code>', out)

    def code(self, code, names=(), is_field=False):
        """A declaration: links to its types, anchors for the names that it declares."""
        line = '\n'.join(wrapped(code, 88))
        out = ''
        for piece in re.split(r'(\bcavmae_\w+|\bCAVMAE_\w+|/\*.*?\*/)', line):
            if piece in names:
                out += f'<b>{piece}</b>'
            elif piece in self.entries.names.places:
                out += self.to(piece)
            elif is_field:
                out += escape(piece)
            elif piece.startswith('/*'):
                out += f'<i>{escape(piece)}</i>'
            else:
                # The tags come after the escapes.
                marked = escape(PARAMETER.sub('\x01\\1\x02', piece))
                out += marked.replace('\x01', '<var>').replace('\x02', '</var>')
        return out

    def declarations(self, items):
        """Without records and constants, which are lists."""
        lines = [f'<span id="{i.name}">{self.code(i.code, [i.name])}</span>' for i in items]
        return '<pre class="declaration"><code>' + '\n'.join(lines) + '</code></pre>' if lines else ''

    def words(self, comment, block):
        rest, errors = without_errors(comment)
        out = [f'<pre><code>{escape(what)}</code></pre>' if kind == 'code' else f'<p>{self.text(what, block)}</p>'
               for kind, what in rest]
        if errors:
            out.append(f'<p><b>Errors.</b> {self.text(" ".join(map(error_text, errors)), block)}</p>')
        return '\n'.join(out)

    def record(self, item, block):
        code = self.code(item.code, [item.name])
        lines = [f'<pre class="declaration" id="{item.name}"><code>{code}</code></pre>', '<dl>']
        for kind, what, comment in runs_of_rows(item.rows):
            if kind == 'note':
                lines.append(f'</dl>\n<p>{self.text(what, block)}</p>\n<dl>')
                continue
            for row in what:
                # The first name's anchor is the row's; the others' stand in it.
                first, *more = [f'{item.name}.{n}' for n in row.names]
                spans = ''.join(f'<span id="{n}"></span>' for n in more)
                code = self.code(row.code, is_field='(' not in row.code)
                for name in row.names:
                    code = re.sub(rf'(?<![\w>"#.]){name}(?=(\[\w*\])?[,;)])(?![^<]*</a>)', f'<b>{name}</b>', code,
                                  count=1)
                lines.append(f'<dt id="{first}">{spans}<code>{code}</code></dt>')
            if what[0].names == ['struct_size']:
                comment = f'sizeof ({item.name}), set by the caller'
            lines.append(f'<dd>{self.text(comment, block)}</dd>' if comment else '<dd></dd>')
        return '\n'.join(lines + ['</dl>']).replace('<dl>\n</dl>\n', '')

    def constants(self, items, block):
        lines = ['<dl>']
        for item in items:
            text, key, values = item.comment, '', ''
            if item.key:
                text, values = key_text(item, self.entries.about_keys)
                key = f' <span class="key">key <code>{item.key}</code></span>'
                stop = '.' if text and text[-1] != '.' else ''
                values = f'{stop} <span class="values">{escape(values[0].upper() + values[1:])}.</span>'
            lines.append(f'<dt id="{item.name}"><code><b>{item.name}</b> {escape(item.code)}</code>{key}</dt>')
            lines.append(f'<dd>{self.text(text, block)}{values}</dd>')
        return '\n'.join(lines + ['</dl>'])

    def used_by(self, items):
        """Who takes, gives or names these. Of a status that would be nearly all."""
        found = []
        for item in items:
            if item.name != 'cavmae_status':
                found += [u.name for u in self.entries.users.get(item.name, [])]
        found = dict.fromkeys(found)
        if not found:
            return ''
        return ' <span class="used">Used by ' + ', '.join(self.to(n) for n in found) + '.</span>'

    def foot(self, block):
        since = sorted({self.entries.since[i.name] for i in block.items('function')})
        notes = [f'Since {", ".join(since)}.'] if since else []
        pages = dict.fromkeys(p for i in block.items() for p in self.guides.told_in.get(i.name, []))
        if pages:
            notes.append('In the guides: ' + ', '.join(
                f'<a href="{self.guides.files[p]}">{escape(self.guides.titles[p])}</a>' for p in pages) + '.')
        used = self.used_by(block.items())
        return f'<p class="foot">{" ".join(notes)}{used}</p>' if notes or used else ''

    def group(self, group, block):
        records = [i for i in group.shared() if i.kind == 'record']
        out = [self.declarations([i for i in group.shared() if i.kind != 'record'])]
        if group.comment:
            out.append(self.words(group.comment, block))
        out += [self.record(r, block) for r in records]
        for item in group.others():
            out.append(self.declarations([item]))
            out.append(f'<p>{self.text(item.comment or "Frees it. NULL is taken.", block)}</p>')
        if group.constants():
            out.append(self.constants(group.constants(), block))
        return '\n'.join(o for o in out if o)

    def section(self, section):
        local, out = [], [f'<h1>{escape(section.title)}</h1>']
        for number, block in enumerate(section.blocks, 1):
            title, place = title_of(block), f'part-{number}'
            local.append((place, escape(re.sub(r'\bcavmae_', '', title))))
            out.append(f'<section class="entry">\n<h2 id="{place}">{escape(title)}</h2>')
            out += [self.group(g, block) for g in block.groups]
            out.append(self.foot(block) + '\n</section>')
        self.layout.write(self.files[section.title], section.title, '\n'.join(out), local)

    def overview(self):
        out, local = ['<h1>cavmae.h</h1>'], []
        for kind, what in paragraphs(self.header.overview):
            titled = re.match(r'([A-Z][a-z]+)\. ', what) if kind == 'text' else None
            if titled:
                local.append((titled[1].lower(), titled[1]))
                out.append(f'<h2 id="{titled[1].lower()}">{titled[1]}</h2>')
                what = what[titled.end():]
            if kind == 'code':
                out.append(f'<pre><code>{self.guides.names(escape(what), "README.md")}</code></pre>')
            else:
                out.append(f'<p>{self.text(what)}</p>')
        local.append(('sections', 'Sections'))
        out.append('<h2 id="sections">Sections</h2>\n<dl class="sections">')
        for section in self.header.sections:
            names = section.items('handle', 'record', 'type', 'function') or section.items()
            out.append(f'<dt><a href="{self.files[section.title]}">{escape(section.title)}</a></dt>')
            out.append('<dd>' + ', '.join(self.to(i.name, re.sub('^cavmae_', '', i.name)) for i in names) + '</dd>')
        out.append('</dl>')
        source = self.guides.source('include/cavmae.h')
        out.append(f'<p>The header itself: <a href="{source}">include/cavmae.h</a>.</p>')
        self.layout.write('api.html', 'cavmae.h', '\n'.join(out), local)

    def index(self):
        """Of all names: functions by letter, then the others."""
        out, local = ['<h1>Index of names</h1>'], []

        def part(place, title, body):
            local.append((place, title))
            out.append(f'<h2 id="{place}">{title}</h2>\n{body}')

        def columns(names):
            return '<ul class="columns">' + ''.join(f'<li>{link}</li>' for link in names) + '</ul>'

        functions = sorted(i.name for i in self.header.items('function'))
        letters = dict.fromkeys(n[len('cavmae_')] for n in functions)
        body = '<p class="letters">' + ' '.join(f'<a href="#{a}">{a.upper()}</a>' for a in letters) + '</p>'
        for letter in letters:
            named = [n for n in functions if n[len('cavmae_')] == letter]
            body += f'<h3 id="{letter}">{letter.upper()}</h3>' + columns(map(self.to, named))
        part('functions', 'Functions', body)
        types = sorted(i.name for i in self.header.items('handle', 'record', 'type'))
        part('types', 'Types', columns(map(self.to, types)))
        part('keys', 'Keys of the configuration', columns(self.to(n, k) for k, n in sorted(self.entries.keys.items())))
        part('constants', 'Constants', columns(map(self.to, sorted(i.name for i in self.header.items('constant')))))
        fields = sorted((n, i.name) for i in self.header.items('record') for row in i.rows for n in row.names
                        if n != 'struct_size' and not n.startswith('reserved'))
        part('fields', 'Fields', columns(self.to(f'{r}.{n}', n) + f' <small>{r}</small>' for n, r in fields))
        self.layout.write('names.html', 'Index of names', '\n'.join(out), local)

    def write_all(self):
        for section in self.header.sections:
            self.section(section)
        self.overview()
        self.index()
