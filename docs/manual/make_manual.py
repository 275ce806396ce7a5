#!/usr/bin/env python3
"""make_manual.py OUT PROGRAM...: the manual, from include/cavmae.h, the programs' --help and the pages in Markdown,
into the folder OUT: html/ and man/. Run in the top folder of the tree; `make manual` does."""

import glob
import os
import shutil
import sys

sys.dont_write_bytecode = True

from entries import Entries, slug  # noqa: E402
from header import read_header  # noqa: E402
from man_pages import ManPages  # noqa: E402
from programs import read_keys, read_program  # noqa: E402
from website import Website  # noqa: E402


def main(out, paths):
    header = read_header('include/cavmae.h')
    pages = ['README.md', *sorted(glob.glob('docs/*.md')), 'examples/README.md', 'bindings/python/README.md',
             'CHANGELOG.md']
    texts = [open(page, encoding='utf-8').read() for page in pages]
    by_name = dict(zip(pages, texts))
    programs = [read_program(path, [by_name['examples/README.md'], by_name['README.md']]) for path in paths]
    keys = read_keys(next(path for path in paths if path.endswith('cavmae-info')))
    extra = {p.name: ('programs.html', p.name) for p in programs}
    entries = Entries(header, lambda block: f'api-{slug(block.section.title)}.html', keys, extra)
    entries.read_since('test/abi/symbols.txt')

    # The old one stays until there is a new one.
    part = out + '.part'
    shutil.rmtree(part, ignore_errors=True)
    ManPages(header, entries, os.path.join(part, 'man')).write_all(programs)
    Website(header, entries, programs, pages, os.path.join(part, 'html')).write_all()
    shutil.rmtree(out, ignore_errors=True)
    os.rename(part, out)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
