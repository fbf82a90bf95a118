"""The leakage gate and `validate` look at the files: stated hashes hide nothing, pictures saved anew are found."""

import numpy as np, pytest
from PIL import Image
from medsoft_nb.data.manifest import Manifest, ManifestError, validate
from medsoft_nb.data.splits import file_hashes, LeakageError, leakage_gate
from medsoft_nb.phantom.benchmarks import make_benchmark


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    made = make_benchmark('phantom-tumour', tmp_path_factory.mktemp('p') / 'x', n_healthy=6, n_diseased=6, seed=5)
    return Manifest(made.df.assign(sha256=''), made.root)


def changed(x, kind, folder):
    "A file with the picture, saved anew"
    image = Image.fromarray(x)
    path = folder / f'{kind}.{"jpg" if kind == "jpeg" else "png"}'
    changes = dict(
        jpeg=image,
        smaller=image.resize((96, 96), Image.Resampling.BILINEAR),
        larger=image.resize((200, 200), Image.Resampling.BICUBIC),
        darker=image.point(lambda v: v * 0.6 + 30),
        sixteen=Image.fromarray(x.astype(np.uint16) * 200),
        mirrored=image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        turned=image.transpose(Image.Transpose.ROTATE_90),
    )
    changes[kind].save(path, **dict(quality=60) if kind == 'jpeg' else {})
    return path


KINDS = ('jpeg', 'smaller', 'larger', 'darker', 'sixteen', 'mirrored', 'turned')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('row', [0, 7])
def test_a_picture_saved_anew_is_found_across_splits(tmp_path, phantoms, kind, row):
    train, test = phantoms.rows(np.arange(0, 12, 2)), phantoms.rows(np.arange(1, 12, 2))
    train = train.assign(patient_id=[f'a{i}' for i in range(6)])
    test = test.assign(patient_id=[f'b{i}' for i in range(6)])
    leakage_gate(train, test)
    k = row % 6
    again = Manifest(test.df.iloc[[k]].assign(image_id='again', patient_id='c', image='x.png'), tmp_path)
    again = again.assign(
        image=changed(test.image(k), kind, tmp_path).name, lesion_mask='', structures='', source_id=''
    )
    with pytest.raises(LeakageError, match='the same picture'):
        leakage_gate(train.concat(again), test)


@pytest.mark.parametrize('stated', ['0' * 64, 'f' * 64, 'ABCDEF01' * 8])
def test_a_stated_hash_hides_no_file(phantoms, stated):
    train, test = (
        phantoms.rows([0, 2]).assign(patient_id=['a', 'b']),
        phantoms.rows([1, 3]).assign(patient_id=['c', 'd']),
    )
    same = phantoms.rows([1]).assign(image_id='again', patient_id='e', sha256=stated, source_id='')
    with pytest.raises(LeakageError, match='but its file has'):
        leakage_gate(train.concat(same), test)
    with pytest.raises(ManifestError, match='but its file has'):
        validate(same)
    assert file_hashes(same.assign(sha256='')) == file_hashes(phantoms.rows([1]))


@pytest.mark.parametrize('stated', ['000', 'none', '0' * 63, 'g' * 64, '0x' + '0' * 62])
def test_what_is_no_hash_is_refused(phantoms, stated):
    with pytest.raises(ManifestError, match='is not 64 hex digits'):
        validate(phantoms.assign(sha256=stated), files=False)
