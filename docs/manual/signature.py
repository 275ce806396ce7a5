"""Declarations in lines of a width, and their parameters."""

import re

PARAMETER = re.compile(r'(?<=[ *])([a-z_]\w*)(?=(?:\[\w*\])?(?: /\*[^*]*\*/)?(?:,|\)))')


def arguments(code):
    """What is before the last list of parameters, the parameters, and what is behind it."""
    if not code.endswith(');'):
        return code, [], ''
    depth, at = 0, len(code) - 2
    while True:
        depth += (code[at] == ')') - (code[at] == '(')
        if depth == 0:
            break
        at -= 1
    pieces, depth, start = [], 0, at + 1
    for place in range(at + 1, len(code) - 2):
        depth += (code[place] in '([') - (code[place] in ')]')
        if code[place] == ',' and depth == 0 and code.rfind('/*', 0, place) <= code.rfind('*/', 0, place):
            pieces.append(code[start:place].strip())
            start = place + 1
    return code[:at + 1], pieces + [code[start:-2].strip()], ');'


def wrapped(code, width):
    """In lines, parameters on lines of their own where they do not fit, indented by four."""
    if len(code) <= width:
        return [code]
    head, pieces, tail = arguments(code)
    lines = [head]
    for number, piece in enumerate(pieces):
        piece += tail if number == len(pieces) - 1 else ','
        blank = '' if lines[-1].endswith('(') or not lines[-1].strip() else ' '
        if len(lines[-1]) + len(blank) + len(piece) > width:
            lines.append('    ' + piece)
        else:
            lines[-1] += blank + piece
    return lines


def parameters(code):
    """Their names."""
    return PARAMETER.findall(''.join(arguments(code)[0:1]) + ', '.join(arguments(code)[1]) + ')')
