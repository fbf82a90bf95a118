"""Exports: every format reads back, ids are hashed, hostile names and files from outside stay where they are."""

import json, re
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image, PngImagePlugin
from medsoft_nb.core.images import read_image, write_image
from medsoft_nb.data.columns import HEALTHY, ManifestError
from medsoft_nb.data.dicom import dicom_sources, DicomSettings
from medsoft_nb.data.importing import import_sources
from medsoft_nb.data.layouts import layout_sources
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.pictures import LayoutSettings
from medsoft_nb.evaluation.export import export, FORMATS
from medsoft_nb.evaluation.memorisation import MemorisationError, plant_copies
from medsoft_nb.phantom.benchmarks import make_benchmark
from test_dicom import write

pydicom = pytest.importorskip('pydicom')
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(autouse=True)
def salt(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path_factory.mktemp('salt') / 'salt'))


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    made = make_benchmark('phantom-tumour', tmp_path_factory.mktemp('p') / 'x', n_healthy=4, n_diseased=12, seed=3)
    split = np.repeat(['train', 'test', 'train', 'test'], [2, 2, 6, 6])
    return Manifest(made.df.assign(split=split, prompt=['a "quoted", prompt\n'] * len(made)), made.root)


def painted(folder, depth=np.uint16):
    "A set as `generate` leaves it, of slices that came from DICOM"
    values, rows = np.random.default_rng(0), []
    for k in range(4):
        image = values.integers(0, 3000 if depth == np.uint16 else 255, (40, 30)).astype(depth)
        mask = np.zeros(image.shape, bool)
        mask[10 + k : 20, 8:15] = True
        files = dict(image=f'images/{k}.png', lesion_mask=f'lesion/{k}.png')
        write_image(folder / files['image'], image)
        write_image(folder / files['lesion_mask'], mask)
        known = dict(modality='CT', plane='sagittal', spacing_mm=0.5, offset='1024', window='40,400', study='e9')
        ids = dict(image_id=f'synthetic-lytic-{k}', patient_id=f'Doe {k // 2}', source_id=f'DoeScan{k}')
        rows.append(dict(label='lytic', origin='synthetic', seed=k, steps=20, prompt='a lesion') | ids | known | files)
    return Manifest(pd.DataFrame(rows), folder)


def dicom_again(folder, out, **options):
    settings = DicomSettings(**dict(default_label='lytic') | options)
    return import_sources(dicom_sources(folder, settings), out, workers=1)


def hounsfield(manifest):
    return [manifest.image(i).astype(int) - int(manifest.df['offset'][i]) for i in range(len(manifest))]


# ---------------------------------------------------------------- every format


@pytest.mark.parametrize('format', FORMATS)
def test_every_format_keeps_images_masks_and_provenance(tmp_path, phantoms, format):
    given = export(phantoms, tmp_path / 'out', format=format)
    assert [path.name for path in tmp_path.iterdir()] == ['out'] and len(given) == len(phantoms)
    assert not [path for path in (tmp_path / 'out').iterdir() if path.name.startswith('.')]
    assert [*given.df.label] == [*phantoms.df.label] and [*given.df.prompt] == [*phantoms.df.prompt]
    if format != 'dicom':
        validate(given)
        assert all(np.array_equal(given.image(i), phantoms.image(i)) for i in range(len(given)))
    for i in range(len(given)):
        mask, wanted = given.lesion_mask(i), phantoms.lesion_mask(i)
        assert (mask is None) == (wanted is None) and (mask is None or np.array_equal(mask, wanted))
        np.testing.assert_array_equal(given.structures(i), phantoms.structures(i))
    listed = {path for column in ('image', 'lesion_mask', 'structures') for path in given.df[column]} - {''}
    files = {p.relative_to(tmp_path / 'out').as_posix() for p in (tmp_path / 'out').rglob('*') if p.is_file()}
    own = {'README.md', 'manifest.csv', 'dataset.json', 'annotations.json'}
    own |= {f'{split}/metadata.jsonl' for split in ('train', 'test')}
    empty = {
        path for path in files - listed if path.startswith('labels') and not read_image(tmp_path / 'out' / path).any()
    }
    assert files - listed - own == empty and listed <= files
    assert 'Not for clinical use' in (tmp_path / 'out/README.md').read_text()


LAYOUTS = dict(imagefolder={}, coco={}, nnunet=dict(lesions=['*']))


@pytest.mark.parametrize('format', LAYOUTS)
def test_our_importers_read_the_layouts_back(tmp_path, phantoms, format):
    given = export(phantoms, tmp_path / 'out', format=format)
    if format == 'nnunet':
        given = given.where(split='train')
    options = dict(layout=format, default_label=HEALTHY, lesion_label='lesion', patient='(?P<patient>.+)')
    sources = layout_sources(tmp_path / 'out', LayoutSettings(**options | LAYOUTS[format]))
    back = import_sources(sources, tmp_path / 'back', workers=1)
    order = {re.sub(r'_0000$', '', Path(path).stem): i for i, path in enumerate(given.df.image)}
    assert len(back) == len(given)
    for k, name in enumerate(back.df.image_id):
        i = next(i for stem, i in order.items() if name.endswith(stem))
        np.testing.assert_array_equal(back.image(k), given.image(i))
        np.testing.assert_array_equal(back.mask(k, 'lesion_mask') is None, given.df.label[i] == HEALTHY)
        if given.df.label[i] != HEALTHY:
            np.testing.assert_array_equal(back.lesion_mask(k), given.lesion_mask(i))
        if format != 'nnunet':
            assert back.df.label[k] == given.df.label[i]


def test_imagefolder_by_the_rule_of_torchvision(tmp_path, phantoms):
    given = export(phantoms, tmp_path / 'out', format='imagefolder')
    root = tmp_path / 'out/train'
    found = [(p.parent.name, p.name) for folder in root.iterdir() for p in folder.rglob('*')]
    train = given.df[given.df.split == 'train']
    assert sorted(found) == sorted(zip(train.label, (Path(path).name for path in train.image)))


def test_nnunet_by_its_rules(tmp_path, phantoms):
    export(phantoms, tmp_path / 'out', format='nnunet')
    content = json.loads((tmp_path / 'out/dataset.json').read_text())
    images = sorted((tmp_path / 'out/imagesTr').iterdir())
    assert content['numTraining'] == len(images) == 8 and content['channel_names'] == {'0': 'MR'}
    assert sorted(content['labels'].values()) == list(range(4)) and content['labels']['background'] == 0
    for image in images:
        assert image.name.endswith('_0000' + content['file_ending'])
        numbers = read_image(tmp_path / 'out/labelsTr' / image.name.replace('_0000', ''))
        label = next((name for name in content['labels'] if image.name.startswith(name)), 'background')
        assert {*np.unique(numbers)} == {0, content['labels'][label]}


def test_colour_for_nnunet(tmp_path):
    made = painted(tmp_path / 'm', np.uint8)
    for i in range(len(made)):
        write_image(made.path(i), np.stack([made.image(i)] * 3, 2) // np.uint8([1, 2, 3]))
    given = export(made, tmp_path / 'out', format='nnunet')
    options = dict(lesions=['*'], lesion_label='lytic', patient='(?P<patient>.+)')
    back = import_sources(layout_sources(tmp_path / 'out', LayoutSettings(**options)), tmp_path / 'back', workers=1)
    for i in range(len(made)):
        np.testing.assert_array_equal(back.image(i), given.image(i))
        np.testing.assert_array_equal(back.image(i), made.image(i))


def test_float_and_mixed_kinds_for_nnunet(tmp_path):
    made = painted(tmp_path / 'm')
    write_image(tmp_path / 'm/f.tif', made.image(0) / np.float32(3))
    made.df.loc[0, 'image'] = 'f.tif'
    given = export(made, tmp_path / 'out', format='nnunet')
    assert {Path(path).suffix for path in [*given.df.image, *given.df.lesion_mask]} == {'.tif'}
    np.testing.assert_array_equal(given.image(0), made.image(0))
    write_image(tmp_path / 'm/c.png', np.zeros((40, 30, 3), np.uint8))
    made.df.loc[0, 'image'] = 'c.png'
    with pytest.raises(ManifestError, match='grey and some in colour'):
        export(made, tmp_path / 'mixed', format='nnunet')
    assert not (tmp_path / 'mixed').exists()


def test_coco_as_its_own_library_reads_it(tmp_path, phantoms):
    coco = pytest.importorskip('pycocotools.coco')
    given = export(phantoms, tmp_path / 'out', format='coco')
    read = coco.COCO(str(tmp_path / 'out/annotations.json'))
    for entry in read.loadImgs(read.getImgIds()):
        i = given.df.image_id.tolist().index(entry['image_id'])
        found = read.loadAnns(read.getAnnIds([entry['id']]))
        assert len(found) == (given.df.label[i] != HEALTHY)
        for annotation in found:
            mask = read.annToMask(annotation)
            assert np.array_equal(mask, given.lesion_mask(i)) and annotation['area'] == mask.sum()


def test_hugging_face_as_its_own_library_reads_it(tmp_path, phantoms, monkeypatch):
    datasets = pytest.importorskip('datasets')
    given = export(phantoms, tmp_path / 'out', format='huggingface')
    read = datasets.load_dataset(str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache'))
    assert {name: len(part) for name, part in read.items()} == dict(train=8, test=8)
    for row in [*read['train'], *read['test']]:
        i = given.df.image_id.tolist().index(row['image_id'])
        np.testing.assert_array_equal(np.asarray(row['image']), given.image(i))
        assert (row['lesion_mask'] is None) == (given.df.lesion_mask[i] == '') and row['label'] == given.df.label[i]


# ---------------------------------------------------------------- DICOM


def test_a_ct_goes_from_dicom_to_dicom_with_its_hounsfield_units(tmp_path):
    values = np.random.default_rng(0).integers(0, 2000, (20, 16))
    write(tmp_path / 'in/a', values, PatientName='Doe^Jane', ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    first = dicom_again(tmp_path / 'in', tmp_path / 'first', default_label='healthy')
    given = export(first, tmp_path / 'out', format='dicom')
    back = dicom_again(tmp_path / 'out', tmp_path / 'back', default_label='healthy')
    np.testing.assert_array_equal(hounsfield(back)[0], values - 1024)
    for column in ('plane', 'spacing_mm', 'window', 'offset', 'modality', 'thickness_mm'):
        assert back.df[column][0] == first.df[column][0], column
    before, after = pydicom.dcmread(tmp_path / 'in/a'), pydicom.dcmread(tmp_path / 'out' / given.df.image[0])
    text = after.to_json()
    for tag in ('PatientID', 'PatientName', 'StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID'):
        assert str(before[tag].value) not in text
    assert after.SOPClassUID.name == 'CT Image Storage' and after.SyntheticData == 'NO'  # it is a real one
    assert back.df.origin[0] == 'real'


def test_a_painted_ct_says_what_it_is(tmp_path):
    made = painted(tmp_path / 'm')
    given = export(made, tmp_path / 'out', format='dicom')
    files = [pydicom.dcmread(tmp_path / 'out' / path) for path in given.df.image]
    for ds, image in zip(files, hounsfield(made)):
        np.testing.assert_array_equal(ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept, image)
        assert [*ds.ImageType[:2]] == ['DERIVED', 'SECONDARY'] and ds.SyntheticData == 'YES'
        assert ds.PatientIdentityRemoved == 'YES' and ds.DeidentificationMethod
        assert ds.ContentQualification == 'RESEARCH' and 'painted a lesion (lytic)' in ds.DerivationDescription
        (equipment,) = ds.ContributingEquipmentSequence
        assert equipment.ManufacturerModelName == 'medsoft_nb' and equipment.SoftwareVersions
        assert (ds.WindowCenter, ds.WindowWidth, ds.RescaleType) == (40, 400, 'HU')
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID and ds.SOPInstanceUID.is_valid
    assert len({ds.SOPInstanceUID for ds in files}) == len({ds.SeriesInstanceUID for ds in files}) == 4
    assert {*dicom_again(tmp_path / 'out', tmp_path / 'back').df.origin} == {'synthetic'}  # never taken for a real one
    assert len({ds.StudyInstanceUID for ds in files}) == len({ds.PatientID for ds in files}) == 2


def test_masks_of_a_dicom_export_come_back(tmp_path, phantoms):
    made = phantoms.rows(range(1, 16))
    given = export(made, tmp_path / 'out', format='dicom')
    back = dicom_again(tmp_path / 'out', tmp_path / 'back', default_label='', table=tmp_path / 'out/manifest.csv')
    validate(back)
    numbers = {made.image(k).astype(int).tobytes(): k for k in range(len(made))}
    found = [numbers.get(back.image(i).astype(int).tobytes()) for i in range(len(back))]
    assert sorted(found) == [*range(len(given))]
    for i, k in enumerate(found):
        assert (back.df.label[i], back.df.split[i]) == (made.df.label[k], made.df.split[k])
        np.testing.assert_array_equal(back.mask(i, 'structures'), made.mask(k, 'structures'))
        assert (back.df.lesion_mask[i] == '') == (made.df.lesion_mask[k] == '')
        if made.df.lesion_mask[k]:
            np.testing.assert_array_equal(back.lesion_mask(i), made.lesion_mask(k))


def test_masks_of_a_table_follow_the_image(tmp_path):
    image = np.zeros((20, 12), np.uint16)
    image[3:9, 2:5], image[14:18, 6:11] = 2000, 900
    head_left = dict(PixelSpacing=[1, 2], ImageOrientationPatient=[0, 0, -1, 0, -1, 0], RescaleIntercept=0)
    write(tmp_path / 'in/a', image, **head_left)
    write_image(tmp_path / 'in/lesion.png', image == 2000)
    write_image(tmp_path / 'in/spine.png', np.where(image == 900, 7, np.where(image == 2000, 3, 0)).astype(np.uint8))
    (tmp_path / 'table.csv').write_text('image,label,lesion,structures\na,lytic,lesion.png,spine.png\n')
    more = dict(table=tmp_path / 'table.csv', columns=dict(lesion_mask='lesion'), resample=True)
    back = dicom_again(tmp_path / 'in', tmp_path / 'out', **more)
    hu = back.image(0).astype(int) - 1024
    assert hu.shape == (24, 20) and [hu[0, 0], hu.max()] == [0, 2000]  # head up, and pixels of 1 mm
    assert back.lesion_mask(0).sum() == 2 * (image == 2000).sum() and (hu[back.lesion_mask(0)] > 900).all()
    assert {*np.unique(back.mask(0, 'structures'))} == {0, 1, 2} and (hu[back.mask(0, 'structures') > 0] > 0).all()
    with pytest.raises(ManifestError, match='the table names masks of its slices, and a reformat has none'):
        dicom_again(tmp_path / 'in', tmp_path / 'no', **more, plane='coronal')
    write_image(tmp_path / 'in/spine.png', np.ones((12, 20), np.uint8))
    with pytest.raises(ManifestError, match=r'spine.png has size 20 x 12, the image 12 x 20'):
        dicom_again(tmp_path / 'in', tmp_path / 'no', **more)
    assert not (tmp_path / 'no').exists() or not (tmp_path / 'no/manifest.csv').exists()


def test_simpleitk_reads_the_same_values(tmp_path):
    sitk = pytest.importorskip('SimpleITK')
    made = painted(tmp_path / 'm')
    given = export(made, tmp_path / 'out', format='dicom')
    for path, image in zip(given.df.image, hounsfield(made)):
        read = sitk.ReadImage(str(tmp_path / 'out' / path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], image)
        assert read.GetSpacing()[:2] == (0.5, 0.5)
        assert read.GetDirection() == pytest.approx((0, 0, -1, 1, 0, 0, 0, -1, 0))


@pytest.mark.parametrize('depth', [np.uint8, np.float32])
def test_other_depths_keep_their_values(tmp_path, depth):
    made = painted(tmp_path / 'm', np.uint8)
    if depth == np.float32:
        for k in range(4):
            write_image(tmp_path / f'm/{k}.tif', made.image(k).astype(np.float32) / 4 - 20)
            made.df.loc[k, ['image', 'offset']] = f'{k}.tif', '0'
    given = export(made, tmp_path / 'out', format='dicom')
    for k, path in enumerate(given.df.image):
        ds = pydicom.dcmread(tmp_path / 'out' / path)
        scaled = ds.pixel_array * float(ds.get('RescaleSlope', 1)) + float(ds.get('RescaleIntercept', 0))
        np.testing.assert_array_equal(scaled.astype(depth), made.image(k))
        assert ('WindowCenter' in ds) == (depth == np.float32)  # 8 bits show a window already


def test_pydicom_is_asked_for(tmp_path, phantoms, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'pydicom', None)
    with pytest.raises(ImportError, match=r"pip install 'medsoft_nb\[dicom\]'"):
        export(phantoms, tmp_path / 'out', format='dicom')
    assert not (tmp_path / 'out').exists()


# ---------------------------------------------------------------- what must not happen

HOSTILE = [
    'x/../../../outside/ESC',
    '/etc/ESC',
    'C:\\ESC',
    '..',
    'con',
    'NUL.png',
    'x' * 400,
    '名' * 150,
    'a\nb',
    '<img src=x onerror=alert(1)>',
    'a',
    'A',
    'masks',
    'manifest.csv',
    'metadata.jsonl',
    ' ',
]


@pytest.mark.parametrize('format', FORMATS)
def test_hostile_names_stay_inside_and_apart(tmp_path, format):
    made = painted(tmp_path / 'm')
    rows = [dict(made.df.iloc[0], image_id=name, patient_id=name, source_id='', label=name) for name in HOSTILE[:-1]]
    given = export(Manifest(pd.DataFrame(rows), made.root), tmp_path / 'deep/down/out', format=format)
    assert {p.name for p in tmp_path.iterdir()} == {'m', 'deep'}
    assert [p.name for p in (tmp_path / 'deep').rglob('*') if p.parent.name in ('deep', 'down')] == ['down', 'out']
    assert len({path.casefold() for path in given.df.image}) == len(given) == len(rows)
    for path in (tmp_path / 'deep').rglob('*'):
        assert len(path.name.encode()) <= 255 and not re.fullmatch(r'(con|nul)(\..*)?', path.name, re.IGNORECASE)
    assert '<img' not in (tmp_path / 'deep/down/out/README.md').read_text()


def test_what_has_no_name_or_twice_the_same_is_refused(tmp_path):
    made = painted(tmp_path / 'm')
    for change, said in ((dict(image_id=' '), 'row 2 has no image_id'), (dict(image_id='x'), 'several images')):
        with pytest.raises(ManifestError, match=said):
            export(Manifest(made.df.assign(**change), made.root), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('format', FORMATS)
def test_files_from_outside_do_not_leave(tmp_path, format):
    made = painted(tmp_path / 'm')
    secret = write_image(tmp_path / 'secret.png', np.zeros((40, 30), np.uint16))
    (tmp_path / 'm/link.png').symlink_to(secret)
    for path in ('../secret.png', str(secret), 'link.png', '/etc/passwd', 'images/../../secret.png'):
        made.df.loc[1, 'image'] = path
        with pytest.raises(ManifestError, match='leads out of'):
            export(made, tmp_path / 'out', format=format)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('format', FORMATS)
def test_the_gate_holds_and_a_broken_export_leaves_nothing(tmp_path, phantoms, format):
    sick = phantoms.where(label=phantoms.diseases)
    train, held_out = sick.rows(range(6)), sick.rows(range(6, 12))
    with pytest.raises(MemorisationError, match='repeat training lesions'):
        export(plant_copies(train, tmp_path / 'copies'), tmp_path / 'out', train, held_out, format=format)
    made = painted(tmp_path / 'm')
    (tmp_path / 'm/lesion/3.png').write_bytes(b'\x89PNG')
    with pytest.raises(ValueError, match='3.png cannot be read'):
        export(made, tmp_path / 'out', format=format)
    assert not (tmp_path / 'out').exists()


def test_only_pixels_leave_a_file(tmp_path):
    made = painted(tmp_path / 'm')
    notes = PngImagePlugin.PngInfo()
    notes.add_text('Patient', 'Jane Secret')
    Image.fromarray(made.image(0)).save(tmp_path / 'm/images/0.png', pnginfo=notes)
    given = export(made, tmp_path / 'out')
    assert b'Secret' in made.path(0).read_bytes() and b'Secret' not in given.path(0).read_bytes()
    np.testing.assert_array_equal(given.image(0), made.image(0))


@pytest.mark.parametrize('format', FORMATS)
def test_no_id_of_a_real_image_is_in_any_file(tmp_path, format):
    export(painted(tmp_path / 'm'), tmp_path / 'out', format=format)
    files = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert files and not any(b'Doe' in path.read_bytes() or 'Doe' in str(path) for path in files)


def test_hashed_ids_keep_what_the_leakage_checks_need(tmp_path):
    made = painted(tmp_path / 'm')
    real = [dict(row, image_id=row['source_id'], source_id='', origin='real') for row in made.df.to_dict('records')]
    rows = pd.concat([made.df, pd.DataFrame(real)], ignore_index=True).assign(surname='Doe', remark='Doe said so')
    rows.loc[4, 'image_id'] = rows.loc[0, 'source_id'] = 'studio'
    given = export(Manifest(rows, made.root), tmp_path / 'out')
    assert [*given.df.source_id[:4]] == [*given.df.image_id[4:]]  # a background is found again
    assert [*given.df.patient_id[:4]] == [*given.df.patient_id[4:]] and given.df.patient_id.nunique() == 2
    again = export(Manifest(rows, made.root), tmp_path / 'again')
    assert [*again.df.patient_id] == [*given.df.patient_id]
    other = export(Manifest(rows, made.root), tmp_path / 'other', salt=tmp_path / 'another')
    assert not set(other.df.patient_id) & set(given.df.patient_id)
    assert 'surname' not in given.df and 'Doe' not in given.df.to_csv()
    with pytest.raises(ValueError, match='lies in .*never, and would be given away with the data'):
        export(Manifest(rows, made.root), tmp_path / 'never', salt=tmp_path / 'never/salt')
    assert not (tmp_path / 'never').exists()


def test_a_part_of_a_batch_says_so(tmp_path, caplog):
    made = painted(tmp_path / 'made')
    made.save(tmp_path / 'made/manifest.csv')
    (tmp_path / 'made/settings.json').write_text('{"n_per_label": 3, "labels": ["lytic", "sclerotic"]}')
    with caplog.at_level('WARNING', logger='medsoft_nb'):
        export(Manifest.load(tmp_path / 'made/manifest.csv'), tmp_path / 'out')
    assert '4 of the 6 images of the batch' in caplog.text
