"Findings of real lumbar discs, from a drawn folder: windows, labels, the calibration, and what is refused"

import importlib.util, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from scipy import ndimage as ndi
from medsoft_nb.core.images import write_image
from medsoft_nb.data.columns import ManifestError
from medsoft_nb.data.manifest import Manifest, validate

folder = Path(__file__).parent.parent / 'benchmarks'
sys.path.append(str(folder))  # it imports `real_slices`
spec = importlib.util.spec_from_file_location('real_spine', folder / 'real_spine.py')
spine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(spine)
sys.path.remove(str(folder))

PATIENTS, LEVELS = 20, 3
BOX = 40, 8  # Width and height of a disc


def draw_folder(folder, boxes=True):
    "A T2 slice of each patient with three dark discs; every other patient has all findings in the lowest disc"
    r, index, discs = np.random.default_rng(0), [], []
    for k in range(PATIENTS):
        file, texture = f'images/{k}_t2.png', ndi.gaussian_filter(r.normal(0, 1, (200, 140)), 6)
        image = np.uint8(150 + 30 * texture / np.abs(texture).max())
        for level in range(1, LEVELS + 1):
            box = dict(x0=50 + k, y0=190 - 50 * level, x1=50 + k + BOX[0], y1=190 - 50 * level + BOX[1])
            image[box['y0'] : box['y1'], box['x0'] : box['x1']] = 20
            ill = int(k % 2 and level == 1)
            grades = dict(herniation=ill, narrowing=ill, spondylolisthesis=ill, modic=2 * ill, pfirrmann=2 + 2 * ill)
            if k == 1:
                grades['pfirrmann'] = 3  # narrow, but not dark
            discs.append(dict(file=file, sequence='t2', ivd_label=level) | grades | (box if boxes else {}))
        write_image(folder / file, image)
        row = dict(file=file, patient_id=k, sequence='t2', pixel_spacing_mm_of_series='')
        index += [row, row | dict(file=f'images/{k}_t1.png', sequence='t1')]
    pd.DataFrame(index).to_csv(folder / 'index.csv', index=False)
    corners = dict.fromkeys(('x0', 'y0', 'x1', 'y1'), '') if not boxes else {}
    pd.DataFrame(discs).assign(**corners).to_csv(folder / 'discs.csv', index=False)
    return folder


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp('spine'))


def test_windows_hold_the_disc_in_their_middle(drawn, tmp_path):
    made = validate(spine.make_finding(drawn, tmp_path / 'out', 'narrowing'))
    assert made.df.label.value_counts().to_dict() == dict(healthy=50, narrowing=10)
    assert made.df.groupby('patient_id').split.nunique().max() == 1 and set(made.df.modality) == {'MRI T2'}
    ill = made.where(label='narrowing')
    for i in range(len(ill)):
        image, mask = ill.image(i), ill.lesion_mask(i) > 0
        assert image.shape == (spine.SIDE, spine.SIDE)
        assert image[mask].mean() < 45 and image[~mask].mean() > 110
        assert abs(np.array(np.nonzero(mask)).mean(1) - spine.SIDE / 2).max() <= 1
        assert abs(np.ptp(np.nonzero(mask)[1]) + 1 - spine.SIDE / spine.WIDTHS) <= 1
    assert (made.where(label='healthy').df.lesion_mask == '').all()


def test_what_is_between_present_and_absent_is_left_out(drawn, tmp_path):
    made = spine.make_finding(drawn, tmp_path / 'out', 'dark-narrowing').df
    assert made.label.value_counts().to_dict() == {'healthy': 50, 'dark-narrowing': 9}
    assert '1_t2-1' not in set(made.image_id) and '1_t2-2' in set(made.image_id)


def test_a_slice_has_what_any_of_its_discs_has(drawn, tmp_path):
    made = spine.make_finding(drawn, tmp_path / 'out', 'herniation').df
    number = made.image_id.str.removesuffix('_t2').astype(int)
    assert len(made) == PATIENTS and ((made.label == 'herniation') == (number % 2 == 1)).all()


@pytest.mark.trains
def test_the_table_says_whether_a_finding_can_answer(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(spine.FINDINGS, 'narrowing', spine.FINDINGS['narrowing']._replace(few=(2,), size=32))
    given = [str(drawn), '--out', str(tmp_path), '--findings', 'narrowing', '--backbones', 'cnn', '--seeds', '2']
    spine.main([*given, '--steps', '2'])
    table = pd.read_csv(tmp_path / 'calibration.csv')
    assert set(table.arm) == {'real-only', 'classical', 'oracle', 'oracle+augmented', 'level alone'}
    assert table.set_index('arm').value['level alone'] == pytest.approx(0.9)  # as many healthy ones are the lowest
    assert (table.lo <= table.value).all() and (table.value <= table.hi).all() and set(table.few) == {2}
    assert 'oracle+augmented' in capsys.readouterr().out
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob('narrowing/scores/*')}
    assert len(kept) == 8
    spine.main([*given, '--steps', '2'])
    assert kept == {file: file.stat().st_mtime_ns for file in kept}  # nothing is trained twice
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / 'calibration.csv'))


@pytest.mark.parametrize(
    'aucs, answers',
    [((0.7, 0.93, 0.9), 'yes'), ((0.7, 0.8, 0.95), 'yes'), ((0.8, 0.95, 0.95), 'no'), ((0.7, 0.85, 0.89), 'no')],
)
def test_it_takes_a_good_oracle_and_a_weak_beginning(aucs, answers):
    assert spine.verdict(pd.Series(aucs, ['real-only', 'oracle', 'oracle+augmented'])) == answers


def test_what_is_missing_is_said_and_nothing_is_written(tmp_path, capsys):
    folder, out = draw_folder(tmp_path / 'in', boxes=False), tmp_path / 'out'
    with pytest.raises(ManifestError, match='not both images with and without modic'):
        spine.make_finding(folder, out, 'modic')
    grades = pd.read_csv(folder / 'discs.csv')
    grades.drop(columns='modic').to_csv(folder / 'discs.csv', index=False)
    with pytest.raises(ManifestError, match="lacks the column 'modic'"):
        spine.make_finding(folder, out, 'modic')
    assert not out.exists()
    with pytest.raises(SystemExit):
        spine.main([str(tmp_path / 'nowhere'), '--out', str(out)])
    assert 'has no index.csv' in capsys.readouterr().err


BOXES = [(90, 140, 50, 148), (50, 140, 50, 148), (50, 140, 50.01, 148), (50, 148, 90, 140), (-9, 140, 31, 148)]


@pytest.mark.parametrize('box', [*BOXES, (120, 140, 160, 148), (50, 196, 90, 204)])
def test_a_box_that_is_none_is_refused(box, tmp_path):
    folder = draw_folder(tmp_path / 'in')
    discs = pd.read_csv(folder / 'discs.csv').astype(dict.fromkeys(('x0', 'y0', 'x1', 'y1'), float))
    discs.loc[4, ['x0', 'y0', 'x1', 'y1']] = box
    discs.to_csv(folder / 'discs.csv', index=False)
    with pytest.raises(
        ManifestError, match=r'images/1_t2.png, disc 2: the box \(.*\) is none of an image of 140 x 200'
    ):
        spine.make_finding(folder, tmp_path / 'out', 'narrowing')
    assert not (tmp_path / 'out').exists()


def test_a_window_that_leaves_the_slice_is_left_out(tmp_path):
    folder = draw_folder(tmp_path / 'in')
    discs = pd.read_csv(folder / 'discs.csv')
    discs.loc[4, ['y0', 'y1']] = 1, 9
    discs.to_csv(folder / 'discs.csv', index=False)
    assert '1_t2-2' not in set(spine.make_finding(folder, tmp_path / 'out', 'narrowing').df.image_id)


@pytest.mark.parametrize(
    'table, column, value, sentence',
    [
        ('discs', 'narrowing', 'mild', "narrowing is 'mild'. Give a number"),
        ('index', 'patient_id', '', 'has no patient_id'),
        ('index', 'file', 'images/x.png', 'has discs of images/0_t2.png, which index.csv does not name'),
    ],
)
def test_a_cell_that_cannot_be_is_quoted(table, column, value, sentence, tmp_path):
    folder = draw_folder(tmp_path / 'in')
    cells = pd.read_csv(folder / f'{table}.csv', dtype=str, keep_default_na=False)
    cells.loc[0, column] = value
    cells.to_csv(folder / f'{table}.csv', index=False)
    with pytest.raises(ManifestError, match=sentence):
        spine.make_finding(folder, tmp_path / 'out', 'narrowing')


def test_a_folder_of_other_tables_is_refused_and_so_is_one_with_other_files(drawn, tmp_path):
    out = tmp_path / 'out'
    spine.own_folder(drawn, out)
    spine.own_folder(drawn, out)  # the same tables once more
    other = draw_folder(tmp_path / 'in', boxes=False)
    with pytest.raises(ValueError, match='was made from other tables'):
        spine.own_folder(other, out)
    with pytest.raises(FileExistsError, match='not empty'):
        spine.own_folder(drawn, tmp_path)


def test_where_nothing_is_withheld_there_is_no_oracle(drawn, tmp_path):
    made = spine.make_finding(drawn, tmp_path / 'out', 'narrowing')
    n = int((made.where(split='train').df.label == 'narrowing').sum())
    spine.check_number(made, (2, n - 1), 'narrowing')
    with pytest.raises(ValueError, match=f'{n} diseased training images are to be kept, but there are {n}'):
        spine.check_number(made, (2, n), 'narrowing')


@pytest.mark.parametrize('words', [('--seeds', '0'), ('--steps', 'x')])
def test_numbers_of_the_command(words, drawn, tmp_path, capsys):
    with pytest.raises(SystemExit):
        spine.main([str(drawn), '--out', str(tmp_path / 'out'), *words])
    assert 'is no number of 1 or more' in capsys.readouterr().err and not (tmp_path / 'out').exists()
