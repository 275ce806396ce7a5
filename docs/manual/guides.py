"""The pages in Markdown, through cmark-gfm: its HTML gets anchors, and links between the pages and to the reference."""

import html
import os
import posixpath
import re
import subprocess

from layout import anchor, escape


def page_file(path):
    """docs/PARALLEL.md is parallel.html; a README.md is called like its folder."""
    folder, name = posixpath.split(path)
    stem = name[:-3]
    if stem == 'README' and folder:
        stem = posixpath.basename(folder)
    return stem.lower() + '.html'


class Guides:
    def __init__(self, paths, entries, layout):
        self.paths, self.entries, self.layout = paths, entries, layout
        self.files = {path: page_file(path) for path in paths}
        self.sources = set()  # text files that pages link to
        self.told_in = {}     # of each name of the header the pages that speak of it
        self.titles, self.texts = {}, {}
        for path in paths:
            with open(path, encoding='utf-8') as file:
                self.texts[path] = file.read()
            self.titles[path] = re.search(r'^# (.*)$', self.texts[path], re.M)[1].replace('`', '')

    def order(self):
        """As the README links to them, then the rest."""
        linked = re.findall(r'\]\(([^)#]+)\)', self.texts['README.md'])
        known = [p if p in self.files else p.rstrip('/') + '/README.md' for p in linked]
        first = ['README.md'] + [p for p in known if p in self.files]
        return list(dict.fromkeys(first + self.paths))

    def link(self, path, target):
        """The page for a link in `path`, or None where it is to be plain."""
        if re.match(r'[a-z]+:', target):
            return target
        file, _, place = target.partition('#')
        place = '#' + place if place else ''
        if not file:
            return place
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if file in self.files:
            return self.files[file] + place
        if file + '/README.md' in self.files:
            return self.files[file + '/README.md']
        if file == 'include/cavmae.h':
            return 'api.html'
        return self.source(file)

    def source(self, file):
        """A copy of a text file of the tree, as a page."""
        if not os.path.isfile(file) or os.path.relpath(file).startswith('..'):
            return None
        self.sources.add(file)
        return f'source/{file}.html'

    def names(self, text, path):
        """In code: names of the header, and programs."""
        out = ''
        for piece, name in self.entries.names.pieces(html.unescape(text)):
            if name and re.match('cavmae|CAVMAE', piece):
                page, place = self.entries.names.places[name]
                out += f'<a href="{page}#{place}">{escape(piece)}</a>'
                if path not in self.told_in.setdefault(name.split('.')[0], []):
                    self.told_in[name.split('.')[0]].append(path)
            else:
                out += escape(piece)
        return out

    def convert(self, path):
        """(HTML, headings of the second level)."""
        text = subprocess.run(['cmark-gfm', '--full-info-string', '-e', 'table', '-e', 'autolink'],
                              input=self.texts[path], check=True, capture_output=True, encoding='utf-8').stdout
        taken, local = {}, []

        def heading(match):
            name = anchor(match[2], taken)
            if match[1] == '2':
                local.append((name, re.sub(r'</?a[^>]*>', '', match[2])))
            return f'<h{match[1]} id="{name}">{match[2]}</h{match[1]}>'

        def a(match):
            target = self.link(path, html.unescape(match[1]))
            return match[2] if target is None else f'<a href="{escape(target)}">{match[2]}</a>'

        def block(match):
            caption = f'<figcaption>{match[2]}</figcaption>' if match[2] else ''
            kind = f' class="{match[1]}"' if match[1] else ''
            return f'<figure{kind}>{caption}<pre><code>{self.names(match[3], path)}</code></pre></figure>'

        def outside(pattern, change, text):
            """Where it is neither in a block of code nor in a link."""
            parts = re.split(r'(<figure.*?</figure>|<a .*?</a>)', text, flags=re.S)
            return ''.join(p if n % 2 else re.sub(pattern, change, p, flags=re.S) for n, p in enumerate(parts))

        text = re.sub(r'<a href="([^"]*)"[^>]*>(.*?)</a>', a, text, flags=re.S)
        text = re.sub(r'<pre><code(?: class="language-([^"]*)")?(?: data-meta="([^"]*)")?>(.*?)</code></pre>', block,
                      text, flags=re.S)
        text = outside(r'<code>(.*?)</code>', lambda m: f'<code>{self.names(m[1], path)}</code>', text)
        text = re.sub(r'<h([1-6])>(.*?)</h\1>', heading, text, flags=re.S)
        text = text.replace('<table>', '<div class="table"><table>').replace('</table>', '</table></div>')
        # A table without headings.
        text = re.sub(r'<thead>\s*<tr>\s*(<th[^>]*></th>\s*)+</tr>\s*</thead>', '', text)
        return text, local

    def write_all(self):
        for path in self.paths:
            body, local = self.convert(path)
            self.layout.write(self.files[path], self.titles[path], body, local)

    def write_sources(self):
        for file in sorted(self.sources):
            with open(file, encoding='utf-8') as source:
                text = escape(source.read())
            self.layout.write(f'source/{file}.html', file,
                              f'<h1>{escape(file)}</h1>\n<pre class="source"><code>{text}</code></pre>')
