"""What a comment of the header says: paragraphs, which of its sentences are about errors, and the names in it."""

import re

STATUS = ('ARG NOMEM SHAPE IO FORMAT NOT_FOUND MISMATCH UNSUPPORTED MEDIA BACKEND CANCELLED NOT_FINITE STATE PEER '
          'INTERNAL')
ERROR = re.compile(r'Errors\b|(%s)( names| lists| when|[:,(;]| \()' % STATUS.replace(' ', '|'))


def paragraphs(text):
    """('text', words) or ('code', lines), in order. Lines that begin with four blanks are code."""
    for piece in re.split(r'\n\s*\n', text):
        if not piece.strip():
            continue
        if all(line.startswith('    ') for line in piece.split('\n')):
            yield 'code', '\n'.join(line[4:] for line in piece.split('\n'))
        else:
            yield 'text', ' '.join(piece.split())


def sentences(text):
    """Ends with a full stop outside of brackets, before a capital letter or an argument."""
    start, depth = 0, 0
    for at, letter in enumerate(text):
        depth += (letter in '([{') - (letter in ')]}')
        if letter == '.' and depth <= 0 and re.match(r'\.\s+[A-Z*]', text[at:at + 4]):
            yield text[start:at + 1].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


def without_errors(text):
    """The paragraphs of a comment without its sentences about errors, and these."""
    rest, errors = [], []
    for kind, what in paragraphs(text):
        if kind == 'text':
            all_of_them = list(sentences(what))
            told = [s for s in all_of_them if ERROR.match(s)]
            errors += told
            what = ' '.join(s for s in all_of_them if s not in told)
        if what:
            rest.append((kind, what))
    return rest, errors


def error_text(sentence):
    """A sentence about errors under a heading that says so."""
    text = re.sub(r'^Errors( of these)?: ', '', sentence)
    text = re.sub(r'^Errors as', 'As', text).replace('Errors ', 'They ')
    return text[0].upper() + text[1:] if re.match(r'(as|also)\b', text) else text


class Names:
    """Where each public name is described: (page, anchor). files(path): the page of a file of the tree."""

    WORD = re.compile(r'(?P<public>cavmae_\w+(?:\.\w+)?)|(?P<constant>CAVMAE_[A-Z0-9_]+\*?)'
                      r'|(?P<program>cavmae-[a-z-]*[a-z])|(?P<file>\b(?:examples|docs|include|bindings)/[\w./-]*\w)'
                      r'|\b(?P<upper>[A-Z][A-Z0-9_]+)\b|(?<=\bkey )(?P<key>[a-z][a-z_0-9]*)'
                      r'|(?P<suffix>(?<!\w)_[a-z]\w*)|\b(?P<lower>[a-z]\w*_\w+)\b')

    def __init__(self, places, keys, files=None):
        self.places, self.keys, self.files = places, keys, files

    def find(self, match, section, own):
        """The name that is meant, or None. section: names in the same part of the header; own: what words
        mean in this very comment: parameters, for example, are no keys."""
        kind, word = match.lastgroup, match[0]
        if kind == 'public':
            return word if word in self.places else word.split('.')[0]
        if kind == 'constant':
            return next((n for n in self.places if n.startswith(word[:-1])), None) if word.endswith('*') else word
        if kind == 'upper':
            return next((n for n in ('CAVMAE_E_' + word, 'CAVMAE_' + word) if n in self.places), None)
        if kind == 'suffix':
            found = [n for n in section if n.endswith(word)]
            return found[0] if len(found) == 1 else None
        if kind in ('key', 'lower'):
            if kind == 'lower' and word in own:
                return own[word]
            return self.keys.get(word)
        return word

    def pieces(self, text, section=(), own=None):
        """(words, name that they are or None), in order."""
        at = 0
        for match in self.WORD.finditer(text):
            name = self.find(match, section, own or {})
            if match.lastgroup == 'file' and self.files and self.files(name):
                self.places[name] = self.files(name), ''
            if name in self.places:
                yield text[at:match.start()], None
                yield match[0], name
                at = match.end()
        yield text[at:], None
