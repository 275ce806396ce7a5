"""html/: the start page, the guides, the programs, the reference, copies of the files that pages link to."""

import os
import re
import shutil

from guides import Guides
from layout import Layout, escape
from reference import Reference


class Website:
    def __init__(self, header, entries, programs, pages, directory):
        self.programs = programs
        self.directory = directory
        self.layout = Layout(directory, header.version)
        self.guides = Guides(pages, entries, self.layout)
        entries.names.files = self.guides.source
        self.reference = Reference(header, entries, self.guides, self.layout)
        self.parts = [
            ('Guides', [(self.guides.files[p], self.guides.titles[p]) for p in self.guides.order()]),
            ('Reference', [('api.html', 'cavmae.h')] + [(self.reference.files[s.title], s.title)
                                                        for s in header.sections]),
            ('Lists', [('programs.html', 'Programs'), ('names.html', 'Index of names')])]
        self.parts[0][1][0] = self.guides.files['README.md'], 'README'
        self.layout.parts = [('', [('index.html', 'Start')])] + self.parts

    def start(self):
        """What the README says first, and all there is."""
        text = self.guides.texts['README.md']
        first = [p for p in text[:text.index('\n## ')].split('\n\n') if not p.startswith('#')]
        out = ['<h1>libcavmae</h1>'] + [f'<p class="first">{escape(p)}</p>' for p in first[:2]]
        for heading, pages in self.parts:
            out.append(f'<h2>{heading}</h2>\n<ul class="columns">' + ''.join(
                f'<li><a href="{file}">{escape(title)}</a></li>' for file, title in pages) + '</ul>')
        self.layout.write('index.html', 'Manual', '\n'.join(out))

    def program_page(self):
        out = ['<h1>Programs</h1>', '<p>Each says this with <code>--help</code>. What an option is without being given '
               'stands in brackets.</p>']
        for program in self.programs:
            out.append(f'<section class="entry">\n<h2 id="{program.name}">{program.name}</h2>')
            what = program.does or program.what
            out.append(f'<p>{escape(what[0].upper() + what[1:])}.</p>\n<dl>')
            for left, right in program.options:
                name, _, value = left.partition(' ')
                place = f' id="{program.name}{name}"' if name.startswith('-') else ''
                shown = f'<b>{escape(name)}</b> <var>{escape(value)}</var>' if place else f'<var>{escape(left)}</var>'
                out.append(f'<dt{place}><code>{shown}</code></dt><dd>{self.reference.text(right)}</dd>')
            out.append('</dl>')
            if program.examples:
                out.append('<pre><code>' + escape('\n'.join(program.examples)) + '</code></pre>')
            source = self.guides.source(f'examples/{program.name[len("cavmae-"):]}.c')
            out.append(f'<p class="foot"><a href="{source}">Source</a></p>\n</section>' if source else '</section>')
        self.layout.write('programs.html', 'Programs', '\n'.join(out), [(p.name, p.name) for p in self.programs])

    def write_all(self):
        os.makedirs(self.directory)
        shutil.copy(os.path.join(os.path.dirname(__file__), 'style.css'), self.directory)
        self.guides.write_all()
        self.start()
        self.program_page()
        self.reference.write_all()
        self.guides.write_sources()
