"The benchmark `real-glioma` on drawn slices, and on the real ones: set MEDSOFT_GLIOMA to their folder"

import importlib.util, os
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from medsoft_nb.core.files import data_path, read_json, sha256
from medsoft_nb.core.images import write_image
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.splits import leakage_gate
from medsoft_nb.running.layout import layout

spec = importlib.util.spec_from_file_location('glioma', Path(__file__).parent.parent / 'benchmarks/real_glioma.py')
glioma = importlib.util.module_from_spec(spec)
spec.loader.exec_module(glioma)

REAL = Path(os.environ.get('MEDSOFT_GLIOMA', ''))
PROPERTIES = ['position', 'distance from the middle position', 'brain area', 'mean grey', 'site']
PATIENTS, SLICES, SIDE = 12, 6, 96


def draw_slice(k, s, diseased):
    "A head of its own, and a bright lesion in it"
    r, (y, x) = np.random.default_rng([k, s]), np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    head = ((y / 0.42) ** 2 + (x / (0.3 + 0.01 * s)) ** 2) < 1
    lesion = head & ((y - 0.1) ** 2 + (x + 0.01 * k - 0.05) ** 2 < 0.01) & diseased
    texture = gaussian_filter(r.normal(0, 150, head.shape), 4)
    grey = head * (90 + 3 * k + texture) + lesion * 80 + r.normal(0, 4, head.shape)
    return grey.clip(0, 255).astype(np.uint8), lesion


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    "Twelve patients of three sites; lesions lie at the lower heights more often"
    folder, rows = tmp_path_factory.mktemp('glioma') / 'in', []
    for k in range(PATIENTS):
        for s in range(SLICES):
            diseased, name = (s + k) % 4 < 2 or s == 0, f'P{k:02d}_{s:03d}.png'
            image, lesion = draw_slice(k, s, diseased)
            write_image(folder / 'images' / name, image)
            if diseased:
                write_image(folder / 'masks' / name, lesion)
            label = 'glioma' if diseased else 'healthy'
            row = dict(file=name, patient=f'P{k:02d}', site='ABC'[k % 3], slice=s, position=s / SLICES, label=label)
            rows.append(row | dict(lesion_px=int(lesion.sum())))
    pd.DataFrame(rows).to_csv(folder / 'index.csv', index=False)
    return folder


@pytest.fixture(scope='module')
def made(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp('made') / 'out'
    glioma.main([str(drawn), '--out', str(out), '--size', '64'])
    return out


def counts(df):
    "Images of each height and label on each side"
    return df.groupby(['split', 'position', 'label']).size().unstack(fill_value=0)


def test_sides_share_no_patient_and_heights_are_matched(made):
    df = validate(Manifest.load(made / 'manifest.csv')).df
    assert (df.groupby('patient_id').split.nunique() == 1).all()
    assert df.groupby('split').patient_id.nunique().to_dict() == dict(train=5, val=2, test=5)
    n = counts(df)
    assert (n.healthy == n.glioma).all() and len(n) >= 6


def test_columns_say_what_the_images_are(made, drawn):
    m, index = Manifest.load(made / 'manifest.csv'), pd.read_csv(drawn / 'index.csv').set_index('file')
    assert set(m.df.origin) == {'real'} and set(m.df.modality) == {'FLAIR'} and set(m.df.plane) == {'axial'}
    of_index = index.loc[m.df.image_id + '.png']
    for ours, theirs in dict(patient_id='patient', site='site', label='label').items():
        assert list(m.df[ours]) == list(of_index[theirs])
    assert np.allclose(m.df.position.astype(float), of_index.position)
    assert sorted(p.name for p in (made / 'images').iterdir()) == sorted(m.df.image_id + '.png')


def test_images_and_masks_are_small_and_lie_on_each_other(made):
    m = Manifest.load(made / 'manifest.csv')
    for i in range(len(m)):
        image, lesion, head = m.image(i), m.lesion_mask(i), m.structures(i) > 0
        assert image.shape == (64, 64) and image.dtype == np.uint8
        assert (lesion is None) == (m.df.label[i] == 'healthy')
        if lesion is not None:
            k, s = map(int, m.df.image_id[i][1:].split('_'))
            share = draw_slice(k, s, True)[1].mean()
            assert abs(lesion.mean() - share) < 0.2 * share and head[lesion].all()
            assert image[lesion].mean() > image[head & ~lesion].mean() + 40


def test_a_lesion_of_a_few_pixels_stays(tmp_path):
    mask = np.zeros((96, 96), bool)
    mask[40, 50] = True
    write_image(tmp_path / 'images/a.png', np.full((96, 96), 90, np.uint8))
    write_image(tmp_path / 'masks/a.png', mask)
    row = dict(image_id='a.png', patient_id='P', image='a.png', label='glioma')
    glioma.shrink(Manifest(pd.DataFrame([row]), tmp_path), 0, 32, tmp_path / 'out')
    (y,), (x,) = np.nonzero(glioma.read_mask(tmp_path / 'out/masks/a.png'))
    assert abs(y - 40 / 3) <= 1 and abs(x - 50 / 3) <= 1


def test_shortcuts_are_measured_on_the_test_side(made, capsys, drawn, tmp_path):
    found = read_json(made / 'shortcuts.json')
    assert [row['property'] for row in found['auc']] == PROPERTIES
    assert all(0 <= row['lo'] <= row['auc'] <= row['hi'] <= 1 for row in found['auc'])
    auc = {row['property']: row['auc'] for row in found['auc']}
    assert auc['position'] == 0.5  # each height has as many of both
    assert auc['mean grey'] > 0.55  # the lesions are bright
    glioma.main([str(drawn), '--out', str(tmp_path / 'again'), '--size', '64'])
    printed = capsys.readouterr().out
    assert all(name in printed for name in PROPERTIES) and 'fewer than 30 test patients' in printed
    for file in [path for path in made.rglob('*') if path.is_file()]:
        assert sha256(file) == sha256(tmp_path / 'again' / file.relative_to(made)), file


def test_another_seed_shares_out_other_patients(drawn):
    tested = [set(glioma.share_out(glioma.read_rows(drawn), seed=k).where(split='test').df.patient_id) for k in (0, 1)]
    assert tested[0] != tested[1]


def test_a_site_is_the_test_side(drawn):
    df = glioma.share_out(glioma.read_rows(drawn), 'B').df
    assert (df.split.eq('test') == df.site.eq('B')).all()
    assert df.groupby('split').patient_id.nunique().to_dict() == dict(train=6, val=2, test=4)


def change(**cells):
    return lambda df: df.assign(**cells)


@pytest.mark.parametrize(
    'changed, options, sentence',
    [
        (None, [], 'has no index.csv. Give the folder that holds it beside images/ and masks/.'),
        (lambda df: df.drop(columns='site'), [], "lacks the column 'site'"),
        (change(label='oedema'), [], "has the labels ['oedema']; healthy and glioma are needed."),
        (change(position='low'), [], "position is 'low'. Give a number from 0"),
        (change(position=np.inf), [], 'which is not finite'),
        (change(site=list('ABC' * 24)), [], "patient 'P00' of"),
        (
            lambda df: df[df.patient < 'P05'],
            [],
            'healthy and diseased slices of the same height from 0 patients; 1 or more are needed.',
        ),
        (lambda df: df[df.patient < 'P02'], [], "label 'glioma' has 2 patients"),
        (None, ['--test-site', 'X'], "there is no site 'X'. Known: A (4 patients), B (4 patients), C (4 patients)."),
        (None, ['--size', '8'], 'size is 8; lesions need images of 64 pixels or more.'),
        (None, ['--size', '200'], 'size is 200, but image'),
    ],
)
def test_what_cannot_be_made_ends_in_one_sentence(changed, options, sentence, drawn, tmp_path, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    if changed or options:
        rows = pd.read_csv(drawn / 'index.csv')
        (changed(rows) if changed else rows).to_csv(folder / 'index.csv', index=False)
        for name in ('images', 'masks'):
            (folder / name).symlink_to(drawn / name)
    with pytest.raises(SystemExit):
        glioma.main([str(folder), '--out', str(out), *options])
    assert sentence in capsys.readouterr().err
    assert not out.exists() or not list(out.iterdir())


def test_what_is_there_stays(drawn, made, capsys):
    before = read_json(made / 'shortcuts.json')
    with pytest.raises(SystemExit):
        glioma.main([str(drawn), '--out', str(made)])
    assert 'exists and is not empty' in capsys.readouterr().err and read_json(made / 'shortcuts.json') == before


@pytest.mark.parametrize(
    'label, mask, sentence',
    [
        ('glioma', np.eye(50) > 0, 'has size 50 x 50, the image 96 x 96'),
        ('glioma', np.zeros((96, 96), bool), 'is empty, but the label is glioma. Mend index.csv or the mask.'),
        ('healthy', np.eye(96) > 0, 'outlines a lesion, but the label is healthy'),
        ('glioma', None, 'does not exist'),
    ],
)
def test_a_mask_that_cannot_be_right_is_refused(label, mask, sentence, tmp_path):
    row = dict(image_id='a.png', patient_id='P', image='a.png', label=label)
    write_image(tmp_path / 'images/a.png', draw_slice(0, 0, False)[0])
    if mask is not None:
        write_image(tmp_path / 'masks/a.png', mask)
    with pytest.raises(ValueError, match=sentence):
        glioma.shrink(Manifest(pd.DataFrame([row]), tmp_path), 0, 64, tmp_path / 'out')


def test_the_profile_takes_what_the_script_writes(made, monkeypatch, tmp_path):
    monkeypatch.setenv('MEDSOFT_KNOWLEDGE', str(made / 'knowledge.yml'))
    few = data_path('profiles/real-glioma.yml').read_text().replace('n_diseased: 20', 'n_diseased: 4')
    (tmp_path / 'few.yml').write_text(few)
    (experiment,) = layout(tmp_path / 'few.yml', manifest=made / 'manifest.csv')[1]
    assert len(experiment.jobs) == 2 + 4 * len(experiment.settings['seeds'])


@pytest.mark.skipif(
    not (REAL / 'index.csv').is_file(), reason='MEDSOFT_GLIOMA does not name the folder of real slices'
)
def test_real_slices(tmp_path):
    made = glioma.make_benchmark(REAL, tmp_path / 'out', size=64)
    m = Manifest.load(tmp_path / 'out/manifest.csv')
    assert made['patients']['test'] >= 30 and sum(made['patients'].values()) == m.df.patient_id.nunique()
    assert (m.df.groupby('patient_id').split.nunique() == 1).all()
    n = m.df.groupby(['split', 'label']).size().unstack()
    assert (n.healthy == n.glioma).all()
    leakage_gate(m.where(split='train'), m.where(split=['val', 'test']))
    auc = {row['property']: row['auc'] for row in made['auc']}
    assert 0.45 < auc['position'] < 0.55 and 0.3 < auc['mean grey'] < 0.7
    first = next(i for i in range(len(m)) if m.df.label[i] == 'glioma')
    assert m.lesion_mask(first).any() and m.lesion_mask(first)[m.structures(first) == 0].sum() == 0
