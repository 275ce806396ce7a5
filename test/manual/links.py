#!/usr/bin/env python3
"""links.py FOLDER: says of the HTML pages below it which links and anchors lead nowhere, which anchors are there twice,
what is loaded from elsewhere, and which elements are not closed. links.py --anchors FOLDER lists "page#anchor"."""

import os
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

EMPTY = {'meta', 'link', 'br', 'hr', 'img', 'input'}


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.path, self.anchors, self.links, self.faults, self.open = path, [], [], [], []
        with open(path, encoding='utf-8') as file:
            self.feed(file.read())
        if self.open:
            self.faults.append(f'not closed: {self.open}')

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in EMPTY:
            self.open.append(tag)
        if 'id' in attributes:
            self.anchors.append(attributes['id'])
        for name in ('href', 'src'):
            if name in attributes:
                self.links.append(attributes[name])
        if tag in ('script', 'iframe') or tag != 'a' and ':' in attributes.get('href', '') + attributes.get('src', ''):
            self.faults.append(f'loads from elsewhere: <{tag}>')

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f'</{tag}> on line {self.getpos()[0]} closes something else')
            self.open = []


def main(folder):
    pages = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith('.html'):
                path = os.path.join(root, name)
                pages[os.path.relpath(path, folder)] = Page(path)
    for name, page in sorted(pages.items()):
        for anchor in sorted({a for a in page.anchors if page.anchors.count(a) > 1}):
            page.faults.append(f'anchor twice: {anchor}')
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))) if parts.path else name
            if target.startswith('..') or not os.path.isfile(os.path.join(folder, target)):
                page.faults.append(f'no such file: {link}')
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                page.faults.append(f'no such anchor: {link}')
        for fault in page.faults:
            print(f'{name}: {fault}')
    return pages


if __name__ == '__main__':
    if sys.argv[1] == '--anchors':
        for root, _, names in os.walk(sys.argv[2]):
            for name in names:
                if name.endswith('.html'):
                    for anchor in Page(os.path.join(root, name)).anchors:
                        print(f'{os.path.relpath(os.path.join(root, name), sys.argv[2])}#{anchor}')
    else:
        main(sys.argv[1])
