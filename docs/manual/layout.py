"""The frame of every page: head, contents at the side, what is on this page."""

import html
import os
import re

PAGE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - libcavmae {version}</title>
<link rel="stylesheet" href="{up}style.css">
</head>
<body>
<header><a class="home" href="{up}index.html">libcavmae <small>{version}</small></a>
<a class="to-contents" href="#contents">Contents</a></header>
<main>
{body}
</main>
<nav id="contents" aria-label="Contents">
{contents}
</nav>
</body>
</html>
'''


def escape(text):
    return html.escape(text, quote=True)


def anchor(text, taken):
    """As GitHub makes it of a heading."""
    name = re.sub(r'[^\w\- ]', '', html.unescape(re.sub(r'<[^>]*>', '', text)).strip().lower()).replace(' ', '-')
    number = taken.get(name, 0)
    taken[name] = number + 1
    return f'{name}-{number}' if number else name


class Layout:
    def __init__(self, directory, version):
        self.directory, self.version = directory, version
        self.parts = []  # (heading, [(file, title), ...])

    def contents(self, file, up, local):
        lines = []
        for heading, pages in self.parts:
            lines.append(f'<p>{escape(heading)}</p>\n<ul>' if heading else '<ul>')
            for page, title in pages:
                here = ' class="here" aria-current="page"' if page == file else ''
                lines.append(f'<li><a{here} href="{up}{page}">{escape(title)}</a>')
                if page == file and local:
                    lines.append('<ul>' + ''.join(f'<li><a href="#{a}">{t}</a></li>' for a, t in local) + '</ul>')
                lines.append('</li>')
            lines.append('</ul>')
        return '\n'.join(lines)

    def write(self, file, title, body, local=()):
        """local: (anchor, HTML) of what is on the page."""
        up = '../' * file.count('/')
        path = os.path.join(self.directory, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as out:
            out.write(PAGE.format(title=escape(title), version=self.version, up=up, body=body,
                                  contents=self.contents(file, up, local)))
