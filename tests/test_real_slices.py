"The manifest of real lumbar slices, from a drawn folder: scale, bodies, split, and what is refused"

import importlib.util
from pathlib import Path
import numpy as np, pandas as pd, pytest
from medsoft_nb.core.images import write_image
from medsoft_nb.data.columns import ManifestError
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.knowledge.base import find_modality, find_sequence

spec = importlib.util.spec_from_file_location('slices', Path(__file__).parent.parent / 'benchmarks/real_slices.py')
slices = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slices)

PATIENTS, WIDTH, HEIGHT, STEP = 10, 120, 160, 40
SPACINGS = ('[1.0, 1.0]', '[.5, .5]', '')  # Of patients in turn: right, wrong, not stated


def draw_folder(folder, boxes=True):
    "Ten patients with a T1 and a T2 slice; the T2 has boxes of discs 40 pixels apart, the T1 none"
    r, index, discs = np.random.default_rng(0), [], []
    for k in range(PATIENTS):
        for sequence in ('t1', 't2'):
            file = f'images/{k}_{sequence}.png'
            write_image(folder / file, r.integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8))
            spacing = SPACINGS[k % 3]
            index.append(dict(file=file, patient_id=k, sequence=sequence, pixel_spacing_mm_of_series=spacing))
            for level in range(1, 4):
                box = dict.fromkeys(('x0', 'y0', 'x1', 'y1'), '')
                if boxes and sequence == 't2':
                    y = 140 - STEP * level
                    box = dict(x0=30, y0=y, x1=70, y1=y + 12)
                discs.append(dict(file=file, ivd_label=level) | box)
    pd.DataFrame(index).to_csv(folder / 'index.csv', index=False)
    pd.DataFrame(discs).to_csv(folder / 'discs.csv', index=False)
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = draw_folder(tmp_path_factory.mktemp('slices') / 'in')
    slices.main([str(folder), '--out', str(folder.parent / 'out')])
    return Manifest.load(folder.parent / 'out/manifest.csv')


def test_patients_are_in_train_or_test_and_the_sequence_is_known(made):
    df = validate(made).df
    assert df.groupby('patient_id').split.nunique().max() == 1
    assert df.groupby('split').patient_id.nunique().to_dict() == dict(train=7, test=3)
    assert set(map(find_modality, df.modality)) == {'mr'} and set(map(find_sequence, df.modality)) == {'t1', 't2'}
    assert set(df.label) == {'healthy'} and set(df.origin) == {'real'} and (df.spacing_mm == 1).all()


def test_a_millimetre_is_a_pixel(made):
    "40 mm as stated are right, 20 mm are wrong and become 35; without boxes the width is 280 mm"
    scale = dict(zip(made.df.image_id, made.df['scale']))
    assert [scale[f'{k}_t2'] for k in range(3)] == ['stated', 'discs', 'discs'] and scale['0_t1'] == 'width'
    for i, name in enumerate(made.df.image_id):
        mm = dict(stated=1, discs=35 / STEP, width=280 / WIDTH)[scale[name]]
        assert made.image(i).shape == (round(HEIGHT * mm), round(WIDTH * mm))


def test_bodies_lie_between_boxes_and_nowhere_else(made):
    for i, (name, structures) in enumerate(zip(made.df.image_id, made.df.structures)):
        if name.endswith('t1'):
            assert not structures
            continue
        bodies, mm = made.structures(i), 1 if made.df['scale'].iloc[i] == 'stated' else 35 / STEP
        assert set(np.unique(bodies)) == {0, 1, 2}
        for box in range(3):
            y = round((20 + STEP * box) * mm)
            assert not bodies[y + 1 : y + round(11 * mm)].any()


def test_what_is_missing_is_said_and_nothing_is_written(tmp_path):
    folder, out = draw_folder(tmp_path / 'in'), tmp_path / 'out'
    (folder / 'discs.csv').rename(folder / 'other.csv')
    with pytest.raises(ManifestError, match='has no discs.csv'):
        slices.make_slices(folder, out)
    pd.read_csv(folder / 'other.csv').drop(columns='x1').to_csv(folder / 'discs.csv', index=False)
    with pytest.raises(ManifestError, match="lacks the column 'x1'"):
        slices.make_slices(folder, out)
    (folder / 'discs.csv').unlink()
    (folder / 'other.csv').rename(folder / 'discs.csv')
    (folder / 'images/9_t2.png').unlink()
    with pytest.raises(ValueError, match='9_t2.png does not exist'):
        slices.make_slices(folder, out)
    assert not out.exists()


@pytest.mark.parametrize('cell', ['', 'none', '[0, 0]', '[0.5, 0.9]', '[]', '[nan, nan]'])
def test_a_spacing_that_is_none_is_not_used(cell):
    assert slices.stated_spacing(cell) is None
