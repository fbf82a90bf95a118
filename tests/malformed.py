"""Malformed inputs that the tests try, by kind and by what is imported; the page of imports has their numbers"""

import re
from collections import Counter
import pytest

KINDS = {
    'bytes changed, repeated or removed at random': r'fuzz',
    'links, and paths that lead out of the folder': r'link|leaves|absolute|windows path|with folders|outside ent',
    'names that are too long, not ASCII, or twice': r'name|ascii|long|twice|alike|control',
    'bombs: small files that claim to be huge': r'bomb|huge|too many vox|without end|too deep|entity|object|end too',
    'numbers that are not finite': r'\bnan|\binf',
    'cut short, empty, or something else': r'cut|empty|half|zip|\btext|noise|preamble|png|no json|utf|yaml|short|less',
    'sizes and spacings of 0 or below, or of two kinds': r'\b0\b|zero|negative|-1|flat|spacing|size|reversed|rows|'
    r'columns',
    'orientations that contradict or cannot be': r'orientation|form|mirrored|position|axial|quaternion',
    'photometric interpretations and types of numbers': r'photometric|colour|rgb|complex|bit|type|sample|palette|sign|'
    r'grey|monochrome|ybr|stored|allocated|slope|intercept|unit',
}
REST = 'files, tables and masks that contradict each other'
TRIED = Counter()  # (kind, what is imported) -> number


def kind_of(name):
    return next((kind for kind, words in KINDS.items() if re.search(words, name.lower())), REST)


def malformed(what, names, argument='name'):
    "Parametrize a test with malformed inputs, and count them; `what` is imported"
    names = list(names)
    TRIED.update((kind_of(name), what) for name in names)
    return pytest.mark.parametrize(argument, names)


def table():
    "The numbers as the page shows them"
    columns = list(dict.fromkeys(what for _, what in TRIED))
    columns.sort(key=['DICOM', 'volumes', 'pictures and data sets', 'tables'].index)
    rows = {kind: [TRIED[kind, what] for what in columns] for kind in (*KINDS, REST)}
    rows['all'] = [sum(column) for column in zip(*rows.values())]
    lines = [['', *columns, 'all'], ['---'] + ['---:'] * (len(columns) + 1)]
    lines += [[kind, *map(str, row), str(sum(row))] for kind, row in rows.items()]
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)
