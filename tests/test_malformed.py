"""Damaged, hostile and contradictory inputs of every format end in a sentence, or give what the file holds."""

import gzip, os, shutil, struct, zlib
from functools import partial
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian
from malformed import KINDS, malformed, table, TRIED
from medsoft_nb.core.images import write_image
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.columns import ManifestError
from medsoft_nb.data.dicom_files import read_headers
from medsoft_nb.data.dicom_pixels import Look, read_image
from medsoft_nb.data.importing import import_one, Source
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.niftifile import load_volume
from medsoft_nb.data.pictures import Picture, read_picture
from medsoft_nb.data.sources import import_any
import test_check, test_dicom, test_layouts, test_nifti
from test_layouts import KNOW, MAKE, tree

PAGE = Path(__file__).parent.parent / 'nbs/howto/import.md'
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder of each layout, made once"
    place = tmp_path_factory.mktemp('made')
    for name, make in MAKE.items():
        make(place / name)
    return place


@pytest.fixture(autouse=True)
def salt(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path_factory.getbasetemp() / 'salt-of-malformed'))


def told(error):
    "Whether an error is a sentence for its reader"
    text = str(error)
    assert 'Traceback' not in text and text.rstrip().endswith(('.', '?')), text
    return text


def settings_of(name):
    settings = dict(lesion_label='lytic', default_label='healthy')
    settings = dict(lesion_label='lytic', lesions=['lesion']) if name == 'nnunet' else settings
    return settings if name in KNOW else settings | dict(patient=r'(?P<patient>P\d)')


def attempt(place, settings):
    "Import `place/in`: a manifest, or the sentence that it ends with; nothing else may appear"
    before = [path for path in tree(place) if path.parts[0] != 'out']
    try:
        made = validate(import_any(place / 'in', place / 'out', workers=1, **settings))
    except (ValueError, OSError) as error:
        made = told(error)
        assert not (place / 'out/manifest.csv').exists()
    assert [path for path in tree(place) if path.parts[0] != 'out'] == before
    return made


# ---------------------------------------------------------------- one image of every layout

IMAGE = dict(
    masks='P1.png',
    imagefolder='lytic/P1.png',
    medsoft='P1/image.png',
    lgg='TCGA_CS_4911_19960909/TCGA_CS_4911_19960909_2.tif',
    nnunet='imagesTr/P1_0000.nii.gz',
    verse='rawdata/sub-1/sub-1_ct.nii.gz',
    totalsegmentator='s1/ct.nii.gz',
    spider='images/1_t2.mha',
    coco='P1.png',
    voc='JPEGImages/P1.png',
    yolo='images/train/P1.png',
    rsna='train_images/1.2.1/2.dcm',
    vindr='train_images/x1.dicom',
)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height):
    "A PNG that says that it has this size, and holds a row"
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def tiff(width, height):
    "A TIFF that says that it has this size, and holds a row"
    tags = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1))
    tags += ((278, 4, height), (279, 4, 100))
    entries = b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in tags)
    return b'II*\0' + struct.pack('<I', 108) + bytes(100) + struct.pack('<H', len(tags)) + entries + bytes(4)


def sized(path, n):
    "The file, with `n` rows, columns and slices in its header"
    if path.suffix == '.png':
        return png(n, n)
    if path.suffix == '.tif':
        return tiff(n, n)
    if path.suffix in ('.dcm', '.dicom'):
        from pydicom import dcmread

        ds = dcmread(path)
        ds.Rows = ds.Columns = n
        ds.save_as(path, enforce_file_format=True)
        return path.read_bytes()
    content = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    if path.suffix == '.gz':
        return gzip.compress(content[:42] + struct.pack('<3h', n, n, n) + content[48:])
    return content.replace(b'DimSize = 24 22 20', f'DimSize = {n} {n} {n}'.encode())


def replaced(change):
    "What writes other bytes in place of an image"
    return lambda path: path.write_bytes(change(path))


def link_out(path):
    outside = next(folder for folder in path.parents if folder.name == 'in').parent / 'outside'
    outside.mkdir()
    path.rename(outside / path.name)
    os.symlink(outside / path.name, path)


def link_to_itself(path):
    path.unlink()
    os.symlink(path, path)


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    'empty': replaced(lambda path: b''),
    'cut short': replaced(lambda path: path.read_bytes()[: int(0.6 * path.stat().st_size)]),
    'noise': replaced(lambda path: rng('noise').bytes(3000)),
    'text': replaced(lambda path: b'this is no image, whatever its name says.\n' * 40),
    'zero size': replaced(lambda path: sized(path, 0)),
    'bomb': replaced(lambda path: sized(path, 30000)),
    'link out of the folder': link_out,
    'link to itself': link_to_itself,
    'a folder in its place': folder_in_its_place,
}


@malformed('pictures and data sets', [f'{layout}: {damage}' for layout in IMAGE for damage in DAMAGE])
def test_an_image_that_is_damaged(made, tmp_path, name):
    layout, damage = name.split(': ')
    shutil.copytree(made / layout, tmp_path / 'in', symlinks=True)
    DAMAGE[damage](tmp_path / 'in' / IMAGE[layout])
    found = attempt(tmp_path, settings_of(layout))
    if isinstance(found, str):
        assert (
            damage == 'link out of the folder'
            or Path(IMAGE[layout]).name.partition('.')[0] in found
            or (damage in ('link to itself', 'a folder in its place'))
        ), found
    else:  # an image that is not there is left out where nothing names it
        assert damage in ('link to itself', 'a folder in its place') and len(found) < 6, found.df


# ---------------------------------------------------------------- bytes at random


def fuzzed(content, seed, begin=0, end=None):
    "Bytes of a file, changed, repeated or removed between two places"
    r, content = rng('fuzz', seed), bytearray(content)
    end = len(content) if end is None else min(end, len(content))
    at = [int(k) for k in r.integers(begin, end, 4)]
    how = seed % 4
    if how < 2:
        for k in at:
            content[k] = int(r.integers(256))
    elif how == 2:
        content[at[0] : at[0]] = content[at[1] : at[1] + int(r.integers(1, 40))]
    else:
        del content[at[0] : at[0] + int(r.integers(1, 40))]
    return bytes(content)


TEXTS = {
    'coco': ('set.json',),
    'voc': ('Annotations/P1.xml',),
    'yolo': ('labels/train/P1.txt', 'data.yaml'),
    'nnunet': ('dataset.json',),
    'rsna': ('train.csv', 'train_bounding_boxes.csv'),
    'vindr': ('annotations/train.csv',),
    'medsoft': ('P1/prompt.txt',),
}
TEXTS = {
    f'{layout} {path} fuzzed {seed}': (layout, path, seed)
    for layout in TEXTS
    for path in TEXTS[layout]
    for seed in range(4)
}


@malformed('pictures and data sets', TEXTS)
def test_fuzzed_text(made, tmp_path, name):
    layout, path, seed = TEXTS[name]
    shutil.copytree(made / layout, tmp_path / 'in')
    path = tmp_path / 'in' / path
    path.write_bytes(fuzzed(path.read_bytes(), 10 * seed + len(name)))
    attempt(tmp_path, settings_of(layout) | dict(kind=layout))


def read(source, folder):
    "The image that was imported, or `None` where a sentence says what is wrong"
    note = import_one(source, folder)
    if 'fault' in note:
        told(note['fault'])
        return None
    from medsoft_nb.core.images import read_image

    image = read_image(folder / note['row']['image'])
    assert image.dtype in (np.uint8, np.uint16, np.float32) and np.isfinite(image).all()
    return image


def picture(path, kind):
    grey = rng('picture').integers(0, 255, (24, 32)).astype(np.uint8)
    array = dict(deep=np.uint16(grey) * 200, float=np.float32(grey) / 7).get(kind.split('.')[0], grey)
    np.save(path, array) if path.suffix == '.npy' else Image.fromarray(array).save(path)
    return path


PICTURES = (
    'grey.png',
    'deep.png',
    'grey.tif',
    'deep.tif',
    'float.tif',
    'grey.jpg',
    'grey.bmp',
    'grey.npy',
    'float.npy',
)


@malformed('pictures and data sets', [f'{kind} fuzzed {seed}' for kind in PICTURES for seed in range(8)])
def test_fuzzed_pictures(tmp_path, name):
    kind, _, seed = name.split()
    path = picture(tmp_path / kind, kind)
    path.write_bytes(fuzzed(path.read_bytes(), int(seed), 0, (60, None)[int(seed) // 4]))
    row = dict(image_id='i', patient_id='p', label='healthy')
    read(Source(row, partial(read_picture, Picture(path), 'healthy', 'lytic')), tmp_path / 'out')


NPY = {
    'npy bomb': dict(shape=(10**6, 10**6), descr='<f4', fortran_order=False),
    'npy zero size': dict(shape=(0, 5), descr='<f4', fortran_order=False),
    'npy negative size': dict(shape=(-4, 5), descr='<f4', fortran_order=False),
    'npy object': dict(shape=(4, 5), descr='|O', fortran_order=False),
}
NUMBERS = {'tif nan': np.nan, 'tif inf': np.inf, 'npy nan': np.nan, 'npy inf': -np.inf}


@malformed('pictures and data sets', [*NPY, *NUMBERS])
def test_pictures_of_other_programs(tmp_path, name):
    path = tmp_path / f'a.{name[:3]}'
    if name in NPY:
        with open(path, 'wb') as file:
            np.lib.format.write_array_header_1_0(file, NPY[name])
            file.write(bytes(80))
    else:
        picture(path, 'float')
        array = np.float32(rng('a').normal(size=(24, 32)))
        array[3, 4] = NUMBERS[name]
        np.save(path, array) if name.startswith('npy') else Image.fromarray(array).save(path)
    row = dict(image_id='i', patient_id='p', label='healthy')
    assert read(Source(row, partial(read_picture, Picture(path), 'healthy', 'lytic')), tmp_path / 'out') is None


VOLUMES = [f'{suffix} fuzzed {seed}' for suffix in ('nii.gz', 'mha') for seed in range(16)]


@malformed('volumes', VOLUMES)
def test_fuzzed_volumes(made, tmp_path, name):
    suffix, _, seed = name.split()
    source = made / ('verse' if suffix == 'nii.gz' else 'spider') / IMAGE['verse' if suffix == 'nii.gz' else 'spider']
    path = tmp_path / f'a.{suffix}'
    path.write_bytes(fuzzed(source.read_bytes(), int(seed), 0, (300, None)[int(seed) // 8]))
    try:
        volume, _ = load_volume(path)
        assert volume.array.ndim == 3 and min(volume.spacing) > 0
    except ValueError as error:
        told(error)


# ---------------------------------------------------------------- DICOM


def with_syntax(path, syntax):
    "A file in a transfer syntax"
    plain = dict(
        explicit=ExplicitVRLittleEndian, implicit=ImplicitVRLittleEndian, deflated=DeflatedExplicitVRLittleEndian
    )
    eight = dict(BitsAllocated=8, BitsStored=8, HighBit=7, dtype=np.uint8) if 'Baseline' in syntax else {}
    pixels = test_dicom.values(shape=(40, 48), high=255)
    ds = test_dicom.dataset(pixels, **(dict(dtype='>u2') if syntax == 'big endian' else eight))
    ds.file_meta.TransferSyntaxUID = plain.get(syntax, ExplicitVRLittleEndian)
    if syntax == 'big endian':
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds.save_as(path, enforce_file_format=True)
    if syntax not in plain and syntax != 'big endian':
        test_dicom.transcoded(path, syntax)
    return path.read_bytes()


SYNTAXES = ['explicit', 'implicit', 'big endian', 'deflated', 'JPEGBaselineProcess1', *test_dicom.LOSSLESS]


@pytest.fixture(scope='module')
def coded(tmp_path_factory):
    "A file in each transfer syntax"
    place = tmp_path_factory.mktemp('coded')
    return {syntax: with_syntax(place / str(k), syntax) for k, syntax in enumerate(SYNTAXES)}


@malformed('DICOM', [f'{syntax} fuzzed {seed}' for syntax in SYNTAXES for seed in range(12)])
def test_fuzzed_dicom(coded, tmp_path, name):
    syntax, _, seed = name.rpartition(' fuzzed')[0], '', int(name.rpartition(' ')[2])
    content, path = coded[syntax], tmp_path / 'a.dcm'
    start = max(content.rfind(b'\xe0\x7f\x10\x00'), 400)
    begin, end = ((132, start), (start, start + 150), (start, None))[seed // 4]
    path.write_bytes(fuzzed(content, seed, begin, end))
    for header in read_headers(path)[:2]:
        if header.fault:
            told(header.fault)
            continue
        row = dict(image_id='i', patient_id='p', label='healthy')
        image = read(Source(row, partial(read_image, header, False, Look())), tmp_path / 'out')
        assert image is None or sorted(image.shape[:2]) == sorted(header.shape) or header.spacing is None


# ---------------------------------------------------------------- tables and manifests

TABLE = (
    'image_id,patient_id,label,site\nlytic/P1.png,P1,lytic,A\nlytic/P2.png,P2,lytic,B\nhealthy/P0.png,P0,healthy,A\n'
)
ROWS = {
    'path leaves the folder': TABLE.replace('lytic/P1', '../lytic/P1'),
    'absolute path': TABLE.replace('lytic/P1', '/etc/hosts'),
    'name too long': TABLE.replace('lytic/P1', 'x' * 5000),
    'name with a control character': TABLE.replace('lytic/P1', 'lytic/P1\x07'),
    'a row twice': TABLE + 'lytic/P1.png,P1,lytic,A\n',
    'a cell too many': TABLE + 'lytic/P1.png,P1,lytic,A,B\n',
    'quote left open, cut short': TABLE + '"lytic/P1.png,P1,lytic',
    'empty': '',
    'null bytes, not text': TABLE.replace('A', '\0'),
    'a spreadsheet, not text': 'PK\x03\x04' + TABLE,
    'patient empty': TABLE.replace(',P1,', ',,'),
    'patient nan': TABLE.replace(',P1,', ',nan,'),
    'label of control characters, not text': TABLE.replace('P1,lytic', 'P1,ly\x1btic'),
    'label too long': TABLE.replace('P1,lytic', 'P1,' + 'l' * 500),
    'labels alike': TABLE.replace('P1,lytic', 'P1,Lytic'),
    'healthy spelt otherwise, labels alike': TABLE.replace('healthy,A', 'Healthy,A'),
    'no column for patients': TABLE.replace('patient_id', 'who'),
    'two columns of one name': TABLE.replace('site', 'label'),
    'spacing 0': TABLE.replace('site', 'spacing_mm').replace(',A', ',0').replace(',B', ',1'),
    'spacing nan': TABLE.replace('site', 'spacing_mm').replace(',A', ',nan').replace(',B', ',1'),
    'spacing infinite': TABLE.replace('site', 'spacing_mm').replace(',A', ',inf').replace(',B', ',1'),
    'spacing negative': TABLE.replace('site', 'spacing_mm').replace(',A', ',-1').replace(',B', ',1'),
    'split unknown': TABLE.replace('site', 'split').replace(',A', ',exam').replace(',B', ',train'),
    'box outside': TABLE.replace('site', 'box').replace(',A', ',"0.5,0.5,0.9,0.9"').replace(',B', ','),
    'box nan': TABLE.replace('site', 'box').replace(',A', ',"nan,0,0.5,0.5"').replace(',B', ','),
}


@malformed('tables', ROWS)
def test_malformed_rows(made, tmp_path, name):
    shutil.copytree(made / 'imagefolder', tmp_path / 'in')
    (tmp_path / 'table.csv').write_text(ROWS[name])
    found = attempt(tmp_path, dict(table=tmp_path / 'table.csv', kind='table'))
    if 'control character' in name:  # they are left out
        assert sorted(found.df.label) == ['healthy', 'lytic', 'lytic']
    else:
        assert isinstance(found, str) and 'no such setting' not in found, found


LINKS = {name: DAMAGE[name] for name in ('link to itself', 'a folder in its place')}


@malformed('tables', LINKS)
def test_an_image_of_a_table_that_is_a_link(made, tmp_path, name):
    shutil.copytree(made / 'imagefolder', tmp_path / 'in')
    (tmp_path / 'table.csv').write_text(TABLE)
    LINKS[name](tmp_path / 'in/lytic/P1.png')
    found = attempt(tmp_path, dict(table=tmp_path / 'table.csv', kind='table'))
    assert 'P1.png' in found


@malformed('tables', [f'table fuzzed {seed}' for seed in range(16)])
def test_fuzzed_table(made, tmp_path, name):
    shutil.copytree(made / 'imagefolder', tmp_path / 'in')
    (tmp_path / 'table.csv').write_bytes(fuzzed(TABLE.encode(), int(name.split()[-1])))
    attempt(tmp_path, dict(table=tmp_path / 'table.csv', kind='table'))


@malformed('tables', [f'manifest fuzzed {seed}' for seed in range(16)])
def test_fuzzed_manifest(made, tmp_path, name):
    path = shutil.copytree(made / 'imagefolder', tmp_path / 'in') / 'manifest.csv'
    path.write_bytes(
        fuzzed(TABLE.replace('image_id', 'image').replace('site', 'image_id').encode(), int(name.split()[-1]))
    )
    try:
        validate(Manifest.load(path))
    except (ManifestError, OSError) as error:
        told(error)


def test_the_page_has_the_numbers():
    assert {what for _, what in TRIED} == {'DICOM', 'volumes', 'pictures and data sets', 'tables'}
    assert sum(TRIED.values()) >= 300 and all(any(TRIED[kind, what] for _, what in TRIED) for kind in KINDS)
    text = PAGE.read_text(encoding='utf-8')
    assert table() in text and f'{sum(TRIED.values())} malformed inputs' in text, table()
