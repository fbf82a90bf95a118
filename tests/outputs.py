"""Do stored outputs of a notebook say what a run of it gives, on whatever processor?

Kinds of outputs, the number of pictures, and every text without its numbers agree; so a table has the same columns,
rows and words. Numbers agree within 0.5 %, and pictures nearly. In cells tagged `trained` they may differ: these show
the result of a training or a network, which differs between processors, and an assert checks what it must show.
"""

import base64, difflib, io, re
import numpy as np
from bs4 import BeautifulSoup
from PIL import Image

TRAINED = 'trained'
TOLERANCE = 0.005  # Relative, of numbers that nothing was trained for
GREYS = 6  # Mean difference of pictures that nothing was trained for, in grey levels of 255
INK = 0.2  # The same, as a share of what they show: of a plot, most is white
SHOWN = 0.3  # Least share of its ink that a picture still has, also one of a trained network
NUMBER = re.compile(r'(?<![\w.])[-+\u2212]?\d+(?:\.\d+)?(?:e[-+]?\d+)?')
HASH = re.compile(r'\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b')
EXCEPTION = 'Traceback (most recent call last)'  # Of a thread, or of what shows an object; the cell goes on
EMBEDDED = re.compile(r'data:image/(?:png|jpeg);base64,([\w+/=]+)')


def plain(html):
    "Text of HTML: one line per row of a table, cells apart"
    soup = BeautifulSoup(html, 'html.parser')
    for tag in soup(['style', 'script']):
        tag.decompose()
    for tag in soup(['td', 'th']):
        tag.append(' |')
    for tag in soup(['tr', 'p', 'div', 'li', 'br']):
        tag.append('\n')
    return soup.get_text()


def contents(cell):
    "Kind and content of each output: texts are joined, pictures in HTML count by themselves, warnings are left out"
    found, text = [], ''
    for output in cell.get('outputs', []):
        if output['output_type'] == 'error':
            text += f"{output['ename']}: {output['evalue']}\n"
            continue
        if output['output_type'] == 'stream':
            said = ''.join(output['text'])
            text += said if output['name'] == 'stdout' else said * (EXCEPTION in said)
            continue
        data = {kind: ''.join(v) if isinstance(v, list) else v for kind, v in output['data'].items()}
        html = data.get('text/html', '')
        found += [('picture', p) for p in EMBEDDED.findall(html)]
        found += [('picture', data[kind]) for kind in ('image/png', 'image/jpeg') if kind in data][:1]
        found += [('picture', '')] * ('image/svg+xml' in data)
        shown = plain(EMBEDDED.sub('', html)) if html else data.get('text/markdown', data.get('text/plain', ''))
        if any('widget' in kind for kind in data):
            shown = 'widget'
        text += shown + '\n'
    return ([('text', text)] if text.strip() else []) + found


def words(text):
    "Text without its numbers, hashes, and the widths of columns"
    text = NUMBER.sub('#', HASH.sub('#hash', text))
    lines = [re.sub(r'\s+', ' ', line).strip() for line in text.splitlines() if line.strip()]
    return [re.sub(r'([-=:─])\1+', r'\1', line).strip() for line in lines]


def numbers(text):
    "Numbers of a text in their order"
    return [float(n.replace('\u2212', '-')) for n in NUMBER.findall(HASH.sub('', text))]


def picture(text):
    "A picture as levels of red, green and blue"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert('RGB'), float)


def ink(image):
    "How much a picture shows: the mean distance of its levels from their mean, 0 for a blank one"
    return abs(image - image.mean((0, 1))).mean()


def difference(old, new, trained):
    "What is wrong with one output, in words; `''` if nothing is"
    (kind, a), (_, b) = old, new
    if kind == 'picture':
        if not a or not b:
            return ''
        a, b = picture(a), picture(b)
        if ink(b) < SHOWN * ink(a):
            return f'a picture shows too little: its levels spread by {ink(b):.1f}, and by {ink(a):.1f} before'
        if trained:
            return ''
        if a.shape != b.shape:
            return f'a picture of {b.shape[1]} x {b.shape[0]} pixels was {a.shape[1]} x {a.shape[0]}'
        apart, most = abs(a - b).mean(), min(GREYS, INK * max(ink(a), ink(b)))
        return f'a picture differs by {apart:.1f} of 255 grey levels' if apart > most else ''
    if words(a) != words(b):
        return '\n'.join(
            ['other words:', *difflib.unified_diff(words(a), words(b), 'stored', 'run', lineterm='', n=0)]
        )
    if trained:
        return ''
    wrong = [
        f'{y:g} was {x:g}' for x, y in zip(numbers(a), numbers(b)) if not np.isclose(x, y, rtol=TOLERANCE, atol=1e-12)
    ]
    return 'other numbers: ' + ', '.join(wrong[:5]) if wrong else ''


def differences(old, new):
    "What differs, a text for each cell, between a notebook with stored outputs and a run of it"
    found = []
    if [(c.cell_type, c.source) for c in old.cells] != [(c.cell_type, c.source) for c in new.cells]:
        return ['other cells']
    for k, (was, now) in enumerate(zip(old.cells, new.cells)):
        trained = TRAINED in was.metadata.get('tags', [])
        a, b = contents(was), contents(now)
        kinds = [[kind for kind, _ in c] for c in (a, b)]
        if kinds[0] != kinds[1]:
            found.append(f'cell {k}: stored outputs {kinds[0]}, those of the run {kinds[1]}')
            continue
        found += [f'cell {k}: {told}' for told in (difference(x, y, trained) for x, y in zip(a, b)) if told]
    return found


def bare(nb):
    "Tagged cells, counted over all cells, without an assert in them or after them in their section"
    found, waiting = [], []
    for k, cell in enumerate([*nb.cells, None]):
        if cell is None or (cell.cell_type == 'markdown' and re.match('#', cell.source)):
            found, waiting = found + waiting, []
        elif cell.cell_type == 'code':
            waiting += [k] * (TRAINED in cell.metadata.get('tags', []))
            waiting *= not re.search(r'(^|; |: )\s*(assert |test_\w+\(|with expect_fail)', cell.source, re.M)
    return found
