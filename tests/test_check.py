"The doctor: quiet on clean data, and every planted fault is found"

import json, shutil
import numpy as np, pandas as pd, pytest
from command import medsoft
from medsoft_nb.core.files import sha256
from medsoft_nb.core.images import write_image
from medsoft_nb.data import shortcuts
from medsoft_nb.data.doctor import check
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    "Twenty-four patients with one phantom each, and a column for the site"
    made = make_benchmark('phantom-fracture', tmp_path_factory.mktemp('clean'), 12, 12, per_patient=1, size=96)
    sites = made.df.image_id.map(lambda name: 'AB'[int(name[-1]) % 2])
    return Manifest(made.df.assign(site=sites, position=np.tile([0.3, 0.4, 0.5, 0.6], 6)), made.root)


@pytest.mark.parametrize('name, seed', [('phantom-tumour', 0), ('phantom-fracture', 1)])
def test_phantoms_are_clean(name, seed, tmp_path):
    found = check(make_benchmark(name, tmp_path, 30, 30, seed=seed), workers=1)
    assert found.ok, found.table().to_string()


def ill(m):
    return m.df.label != 'healthy'


def change(m, column, rows, values):
    m.df[column] = m.df[column].astype(object)
    m.df.loc[rows, column] = values
    m.df = Manifest(m.df, m.root).df


def draw(m, rows, how, column='image'):
    "Change some images or masks of a manifest"
    for i in np.arange(len(m))[rows]:
        write_image(m.path(i, column), how(m.image(i) if column == 'image' else m.mask(i, column)))


def framed(x):
    x = x.copy()
    x[:8] = x[-8:] = 0
    return x


def rectangle(x):
    return np.uint8(np.pad(np.full((12, 12), 255), [(40, x.shape[0] - 52), (40, x.shape[1] - 52)]))


def dot(x):
    return np.uint8(rectangle(x) * (np.add.outer(np.arange(x.shape[0]), np.arange(x.shape[1])) == 84))


def misplace(m):
    "A lesion where an image shows nothing, in a set without structures"
    change(m, 'structures', m.df.index, '')
    left = np.arange(96) < 30
    draw(m, [15], lambda x: np.where(left, 0, x).astype(x.dtype))
    draw(m, [15], lambda x: np.uint8(rectangle(x).any(1)[:, None] & left & (np.arange(96) > 9)), 'lesion_mask')


def copied(way):
    return lambda m: write_image(m.path(1), np.ascontiguousarray(way(m.image(0))))


def lettered(x):
    from PIL import Image, ImageDraw

    image = Image.fromarray(x)
    ImageDraw.Draw(image).rectangle((0, 0, 95, 14), fill=0)
    ImageDraw.Draw(image).text((2, 1), 'DOE JOHN', fill=255)
    return np.array(image)


def digest(m, i):
    return sha256(m.path(i))


def touch_up(m, i):
    "One pixel of an image becomes another"
    image = m.image(i).copy()
    image[5, 5] ^= 1
    write_image(m.path(i), image)


PLANTED = {
    'cut short': ('unreadable images', lambda m: m.path(0).write_bytes(m.path(0).read_bytes()[:700])),
    'missing': ('unreadable images', lambda m: m.path(3).unlink()),
    'mask of another size': ('masks', lambda m: draw(m, [15], lambda x: x[:50], 'structures')),
    'mask empty': ('masks', lambda m: draw(m, [15], lambda x: x * 0, 'structures')),
    'lesion over half of the image': ('masks', lambda m: draw(m, [15], lambda x: x * 0 + 255, 'lesion_mask')),
    'mask missing': ('masks', lambda m: m.path(15, 'lesion_mask').unlink()),
    'same file': ('copies', lambda m: shutil.copy(m.path(0), m.path(1))),
    'saved anew': ('copies', copied(lambda x: np.uint16(x) * 200)),
    'mirrored': ('copies', copied(lambda x: x[:, ::-1])),
    'upside down': ('copies', copied(lambda x: x[::-1])),
    'turned': ('copies', copied(np.rot90)),
    'another file than stated': ('other files', lambda m: change(m, 'sha256', [0, 15], 'AB' * 32)),
    'changed since stated': ('other files', lambda m: (change(m, 'sha256', [15], digest(m, 15)), touch_up(m, 15))),
    'id with other case': ('patients', lambda m: change(m, 'patient_id', [0, 1], ['P-01', 'p1'])),
    'id with another letter': ('alike ids', lambda m: change(m, 'patient_id', [0, 1], ['PO1', 'P01'])),
    'id with an ending': ('alike ids', lambda m: change(m, 'patient_id', [0, 1], ['Q7', 'Q7_left'])),
    'several splits': (
        'patients',
        lambda m: (change(m, 'patient_id', [0, 1], ['P', 'P']), change(m, 'split', [0, 1], ['train', 'test'])),
    ),
    'an id twice': ('cells of the table', lambda m: change(m, 'image_id', [0, 1], 'one')),
    'healthy with a lesion': ('labels', lambda m: change(m, 'lesion_mask', [0], m.df.lesion_mask[15])),
    'box as mask': ('boxes lesions', lambda m: draw(m, [15], rectangle, 'lesion_mask')),
    'tiny lesion': ('tiny lesions', lambda m: draw(m, [15], dot, 'lesion_mask')),
    'lesion outside': ('outside lesions', lambda m: draw(m, [15], lambda x: np.roll(x, 48, 1), 'lesion_mask')),
    'lesion in air': ('misplaced lesions', misplace),
    'spacing without end': ('cells of the table', lambda m: change(m, 'spacing_mm', [4], float('inf'))),
    'spacing in cm': ('pixel size', lambda m: change(m, 'spacing_mm', [4], 0.1)),
    'spacing 0': ('cells of the table', lambda m: change(m, 'spacing_mm', [4], 0)),
    'blank': ('blank images', lambda m: draw(m, [4], lambda x: x * 0 + 9)),
    'other depth in a patient': (
        'grey depth',
        lambda m: (change(m, 'patient_id', [0, 1, 2], 'P'), draw(m, [1], lambda x: np.uint16(x) * 257)),
    ),
    'darker in a patient': (
        'grey range',
        lambda m: (change(m, 'patient_id', [0, 1, 2], 'P'), draw(m, [1], lambda x: x // 8)),
    ),
    'text': ('burned-in text', lambda m: draw(m, [4], lettered)),
    'few patients': ('too few patients', lambda m: change(m, 'label', [15], 'lytic')),
    'other size': ('shortcut: size', lambda m: draw(m, ill(m), lambda x: np.pad(x, 9, mode='reflect'))),
    'other aspect': (
        'shortcut: aspect ratio',
        lambda m: draw(m, ill(m), lambda x: np.pad(x, [(0, 0), (5, 5)], mode='reflect')),
    ),
    'brighter': ('shortcut: mean grey', lambda m: draw(m, ill(m), lambda x: x // 2 + 120)),
    'less contrast': ('shortcut: contrast', lambda m: draw(m, ill(m), lambda x: x // 4 + 60)),
    'black border': ('shortcut: black border', lambda m: draw(m, ill(m), framed)),
    'slice position': ('shortcut: slice position', lambda m: change(m, 'position', ill(m), 0.9)),
    'site': ('shortcut: site', lambda m: change(m, 'site', ill(m), 'C')),
    'pixel size': ('shortcut: pixel size', lambda m: change(m, 'spacing_mm', ill(m), 1.3)),
    'modality': ('shortcut: modality', lambda m: change(m, 'modality', ill(m), 'MR')),
    'origin': ('shortcut: origin', lambda m: change(m, 'origin', ill(m), 'real')),
}


@pytest.mark.parametrize('name', PLANTED)
def test_a_planted_fault_is_found(name, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(shortcuts, 'BOOT', 100)  # enough for what is planted
    shutil.copytree(clean.root, tmp_path / 'set')
    m = Manifest(clean.df.copy(), tmp_path / 'set')
    expected, plant = PLANTED[name]
    plant(m)
    found = check(m, workers=1)
    assert not found.ok
    assert expected in {f.check for f in found.found if f.level != 'note'}, found.table().to_string()


def test_the_set_without_a_fault_is_clean(clean):
    found = check(clean, workers=1)
    assert found.ok and len(PLANTED) >= 20, found.table().to_string()


def test_sets_without_structures_are_clean(clean):
    assert check(clean.assign(structures=''), workers=1).ok


def test_stated_hashes_that_are_right_or_odd_are_no_other_files(clean):
    "Capitals are right; a cell that is no hash is a fault of the table, and is told once"
    right = [sha256(clean.path(i)).upper() for i in range(len(clean))]
    assert check(clean.assign(sha256=right), workers=1).ok
    found = check(clean.assign(sha256=['000', *right[1:]]), workers=1).found
    assert [f.check for f in found if f.level == 'fault'] == ['cells of the table']


def test_the_command(clean, tmp_path):
    shutil.copytree(clean.root, tmp_path / 'set')
    m = Manifest(clean.df.copy(), tmp_path / 'set')
    path = m.save(tmp_path / 'set' / 'manifest.csv')
    assert medsoft('data', 'check', path)[0] == 0
    change(m, 'patient_id', [0], '[red]<b>')
    m.path(1).unlink()
    m.save(path)
    code, text = medsoft('data', 'check', path, '--json', tmp_path / 'c.json', '--page', tmp_path / 'c.html')
    assert code == 1 and 'cannot be read' in text and '1 fault' in text
    assert f'{m.df.image_id[1]}: ' in ' '.join(text.split()) and 'does not exist' in text  # the reason
    kept = json.loads((tmp_path / 'c.json').read_text())
    assert not kept['ok'] and kept['findings'][0]['images'] == [m.df.image_id[1]]
    assert pd.DataFrame(kept['shortcuts']).auc.between(0, 1).all()
    assert '<b>' not in (tmp_path / 'c.html').read_text().replace('<b>What to do:</b>', '')
    assert medsoft('data', 'check', tmp_path / 'none.csv')[0] == 2
    before = path.read_bytes()
    for option, target in (('--page', path), ('--json', path), ('--page', tmp_path / 'c.json'), ('--json', tmp_path)):
        code, text = medsoft('data', 'check', path, option, target)
        assert code == 2 and 'name a file that ends with' in text
    assert path.read_bytes() == before


def test_findings_have_names_of_their_own(clean, tmp_path):
    "Two kinds of findings are never called alike, whatever is wrong with a set"
    shutil.copytree(clean.root, tmp_path / 'set')
    m = Manifest(clean.df.copy(), tmp_path / 'set')
    change(m, 'label', [0], 'lytic')
    change(m, 'spacing_mm', [2], '')
    change(m, 'spacing_mm', [4], 0.1)
    shutil.copy(m.path(0), m.path(1))
    found = check(m, workers=1)
    names = [f.check for f in found.found]
    assert len(set(names)) == len(names) and {'too few patients', 'copies'} <= set(names), names


def test_healthy_and_diseased_slices_are_matched_by_command(clean, tmp_path):
    heights = np.full(24, 0.5)
    heights[np.flatnonzero(~ill(clean))[:6]] = 0.1
    manifest = clean.assign(position=heights).save(tmp_path / 'manifest.csv')
    code, text = medsoft('data', 'matched', manifest, '--out', tmp_path / 'fair.csv')
    assert code == 0 and '12 of 24 images kept' in text
    assert 'from the middle: before 0.750, after 0.500.' in ' '.join(text.split())
    assert json.loads((tmp_path / 'fair-positions.json').read_text())['auc'] == dict(before=0.75, after=0.5)
    fair = Manifest.load(tmp_path / 'fair.csv')
    assert (pd.to_numeric(fair.df.position) == 0.5).all() and ill(fair).sum() == 6
    assert fair.image(0).shape == clean.image(0).shape
    for changed, words in (
        (clean.assign(position=np.where(ill(clean), 0.9, 0.1)), 'no part of the stack'),
        (clean.assign(position=''), 'does not say where slices lie'),
    ):
        path = changed.save(tmp_path / 'changed.csv')
        code, text = medsoft('data', 'matched', path, '--out', tmp_path / 'none.csv')
        assert code == 2 and words in text and not (tmp_path / 'none.csv').exists()
    before = manifest.read_bytes()
    code, text = medsoft('data', 'matched', manifest, '--out', tmp_path / '.' / 'manifest.csv')
    assert code == 2 and 'the manifest itself' in text and manifest.read_bytes() == before
    for odd in ('inf', '-inf'):
        path = clean.assign(position=[odd, *heights[1:].astype(str)]).save(path)
        code, text = medsoft('data', 'matched', path, '--out', tmp_path / 'none.csv')
        assert code == 2 and f"row 2: position is '{odd}', which is not finite" in ' '.join(text.split())
        assert not (tmp_path / 'none.csv').exists()
    path = clean.assign(position=['', *heights[1:].astype(str)]).save(path)
    code, text = medsoft('data', 'matched', path, '--out', tmp_path / 'known.csv')
    assert code == 0 and '1 without a position' in text
