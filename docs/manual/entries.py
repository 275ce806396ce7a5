"""What the pages for a browser and for man have in common: which names there are, where they are used."""

import re

from comment import Names
from signature import parameters


def slug(title):
    return re.sub(r'[^a-z0-9]+', '-', title.split(':')[0].lower()).strip('-')


def title_of(block):
    """"cavmae_embed_file, cavmae_embed_source"; of keys what they are of; of other constants the first and the last."""
    names = [i.name for i in block.items() if i.kind != 'constant']
    if not names and block.items()[0].key and block.groups[0].comment:
        return 'Keys: ' + re.match(r'[^.:]*', block.groups[0].comment)[0].lower()
    if not names:
        names = [i.name for i in block.items()]
        return names[0] if len(names) == 1 else f'{names[0]} … {names[-1]}'
    return ', '.join(names[:3]) + (', …' if len(names) > 3 else '')


def own_names(block):
    """What words with a "_" mean in a block's comments: a parameter is no key, a field is its record's."""
    own = {}
    for item in block.items():
        if item.kind in ('function', 'type'):
            own.update((name, None) for name in parameters(item.code))
        own.update((n, f'{item.name}.{n}') for row in item.rows for n in row.names)
    return own


def users(header):
    """Of each name the items that take, give or name it, but for those of its own block."""
    found = {}
    for block in (b for s in header.sections for b in s.blocks):
        here = {i.name for i in block.items()}
        for group in block.groups:
            # A comment shared by several speaks of all of them: the first one stands for it.
            for item in group.items:
                words = item.code + ' ' + ' '.join(r.code + ' ' + r.comment + ' ' + (r.lead or '') for r in item.rows)
                words += ' ' + item.comment + (' ' + group.comment if item is group.items[0] else '')
                named = set(re.findall(r'\b(?:cavmae|CAVMAE)_\w+', words))
                for start in [n for n in named if n.endswith('_')]:  # CAVMAE_TIES_*
                    named.update(i.name for i in header.items('constant') if i.name.startswith(start))
                for name in named - here:
                    found.setdefault(name, []).append(item)
    return found


class Entries:
    def __init__(self, header, place_of_block, about_keys, extra=None):
        """place_of_block(block): the page that it is on. about_keys: read_keys(). extra: places that are none of the
        header's names."""
        self.about_keys = about_keys
        self.header, self.users = header, users(header)
        self.since, self.keys, places = {}, {}, dict(extra or {})
        for block in (b for s in header.sections for b in s.blocks):
            for item in block.items():
                places[item.name] = place_of_block(block), item.name
                for name in (n for row in item.rows for n in row.names):
                    places[f'{item.name}.{name}'] = place_of_block(block), f'{item.name}.{name}'
                if item.key:
                    self.keys[item.key] = item.name
        self.names = Names(places, self.keys)

    def read_since(self, path):  # "name version" lines
        with open(path, encoding='utf-8') as file:
            self.since = dict(line.split() for line in file if line.strip())

    def pieces(self, text, block):
        """A text of a block, with the names in it."""
        return self.names.pieces(text, [i.name for i in block.section.items()] if block else (),
                                 own_names(block) if block else {})


def key_text(item, keys):
    """Of a key its comment without the default at its end, and what the library says of it. keys: read_keys()."""
    default, values = keys[item.key]
    text = ' '.join(re.sub(r'^\w+[:.]\s*', '', item.comment).split())
    rest, last = re.match(r'(.*?)\s*(\S*)$', text).groups()

    def number(word):
        try:
            return float(word)
        except ValueError:
            return word.strip('"')

    if (not rest or rest.endswith('.')) and number(last) == number(default):
        text = rest.rstrip('.')
    return text, values


def runs_of_rows(rows):
    """A record's rows as a reader takes them: ('note', comment before several) or ('rows', [row, ...], comment)."""
    at = 0
    while at < len(rows):
        row = rows[at]
        end = at + 1
        if row.lead and row.comment:  # about this one and what follows, each of which says more
            yield 'note', row.lead, None
            yield 'rows', [row], row.comment
        elif row.lead:
            while end < len(rows) and not rows[end].lead and not rows[end].comment \
                    and not rows[end].names[0].startswith('reserved'):
                end += 1
            yield 'rows', rows[at:end], row.lead
        else:
            yield 'rows', [row], row.comment
        at = end
