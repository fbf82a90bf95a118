"""Import of NIfTI volumes: the same as SimpleITK reads, and what is malformed is refused in words.

Set MEDSOFT_REALSPINE to the folder that holds `ct_nifti` for the tests with real volumes.
"""

import gzip, logging, os, struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from malformed import malformed
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.importing import import_sources
from medsoft_nb.data.manifest import validate
from medsoft_nb.data.metaimage import read_metaimage
from medsoft_nb.data.nifti import load_labels, nifti_sources, NiftiSettings
from medsoft_nb.data.niftifile import load_volume, Reading
from medsoft_nb.data.volumes import PLANES

REAL = Path(os.environ.get('MEDSOFT_REALSPINE', '')) / 'ct_nifti'
real = pytest.mark.skipif(
    not os.environ.get('MEDSOFT_REALSPINE') or not REAL.is_dir(),
    reason='real spine volumes: MEDSOFT_REALSPINE is not set, or has no ct_nifti',
)
NAN = float('nan')
WHOLE = NiftiSettings(slices='middle', plane='axial', patient='(?P<patient>x)', default_label='healthy', resample=True)


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger('nibabel.global').setLevel('CRITICAL')  # it says what it would repair


def block(dtype=np.int16, shape=(16, 18, 20), seed=0):
    return rng('block', seed).integers(0, 1000, shape).astype(dtype)


def save(path, array, affine=None, code=1, **fields):
    "Write a NIfTI file, then change fields of its header"
    affine = np.diag([0.5, 0.5, 0.5, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_sform(affine, code)
    image.set_qform(affine if code else None, code)
    image.header['pixdim'][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    image.header.set_xyzt_units('mm')
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    if fields:
        content = bytearray(path.read_bytes())
        header = np.frombuffer(content, nib.nifti1.header_dtype, 1)
        for field, value in fields.items():
            header[field][0] = value
        path.write_bytes(content)
    return path


def tree(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob('*') if 'never' not in p.parts)


def refused(folder, images, settings, text=''):
    "An import that ends with a sentence, and leaves nothing behind"
    before = tree(folder)
    with pytest.raises(ValueError) as error:
        import_sources(nifti_sources(images, settings), folder / 'never', workers=1)
    message = str(error.value)
    assert text in message and 'Traceback' not in message and 'Error:' not in message, message
    assert message.rstrip().endswith(('.', '?')), message
    assert not (folder / 'never' / 'manifest.csv').exists() and tree(folder) == before


def turned(array, code, sizes, tilt=0.0):
    "An array in another order of its axes, with its affine"
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt('RAS'), nib.orientations.axcodes2ornt(code))
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine = rotation @ np.diag([*sizes, 1.0])
    affine[:3, 3] = [-30, 20, 7]
    return nib.orientations.apply_orientation(array, turn), affine @ nib.orientations.inv_ornt_aff(turn, array.shape)


def as_itk(path, plane, k):
    "A slice and its spacing as SimpleITK reads them, shown as a radiologist sees it"
    itk = pytest.importorskip('SimpleITK')
    image = itk.DICOMOrient(itk.ReadImage(str(path)), 'LPS')
    x, y, z = image.GetSpacing()
    array = itk.GetArrayFromImage(image)
    if plane == 'sagittal':
        return array[::-1, :, array.shape[2] - 1 - k], (z, y)
    if plane == 'coronal':
        return array[::-1, array.shape[1] - 1 - k, :], (z, x)
    return array[k], (y, x)


@pytest.mark.parametrize('plane', PLANES)
@pytest.mark.parametrize('code', ['RAS', 'LPS', 'PIR', 'SAL', 'IRA', 'ALS'])
@pytest.mark.parametrize('tilt', [0.0, 0.3])
def test_same_as_simpleitk(tmp_path, plane, code, tilt):
    path = save(tmp_path / 'x.nii.gz', *turned(block(), code, (0.7, 0.7, 0.7), tilt))
    m = import_sources(nifti_sources(path, WHOLE.replace(plane=plane)), tmp_path / 'out', workers=1)
    expected, spacing = as_itk(path, plane, int(m.df.slice[0]))
    np.testing.assert_array_equal(m.image(0), expected)
    assert m.df.spacing_mm[0] == pytest.approx(0.7) and spacing == pytest.approx((0.7, 0.7))
    assert ('tilted by 17 degrees' in m.df.remark[0]) == (tilt > 0)


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_grey_values_as_simpleitk(tmp_path, dtype):
    scaled = dict(scl_slope=2.5, scl_inter=-1000.0)
    path = save(tmp_path / 'x.nii', block(dtype), **scaled)
    m = import_sources(nifti_sources(path, WHOLE), tmp_path / 'out', workers=1)
    expected, _ = as_itk(path, 'axial', 10)
    np.testing.assert_allclose(m.image(0), expected, rtol=1e-6)
    assert m.image(0).dtype == np.float32 and m.df.image[0].endswith('.tif')


def test_ct_round_trip(tmp_path):
    hu = block(np.int16) * 4 - 1024
    path = save(tmp_path / 'x.nii', hu)
    m = import_sources(nifti_sources(path, WHOLE.replace(modality='CT')), tmp_path / 'out', workers=1)
    assert m.image(0).dtype == np.uint16
    np.testing.assert_array_equal(m.image(0).astype(int) - 1024, as_itk(path, 'axial', 10)[0])


@pytest.mark.parametrize('unit, factor', [('meter', 1000), ('micron', 0.001), ('mm', 1), ('unknown', 1)])
def test_units(tmp_path, unit, factor):
    affine = np.diag([0.5 / factor] * 3 + [1.0])
    image = nib.Nifti1Image(block(), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / 'x.nii')
    assert load_volume(tmp_path / 'x.nii')[0].spacing == pytest.approx((0.5, 0.5, 0.5))


def test_metaimage_as_simpleitk(tmp_path):
    itk = pytest.importorskip('SimpleITK')
    for number, compressed in enumerate([True, False]):
        for dtype in (np.uint8, np.int16, np.float32):
            image = itk.GetImageFromArray(block(dtype))
            image.SetSpacing((0.5, 0.6, 3.0))
            image.SetOrigin((1, 2, 3))
            angle = itk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 1.5)
            image.SetDirection(angle.GetMatrix())
            path = tmp_path / f'{number}{np.dtype(dtype).name}.mha'
            itk.WriteImage(image, str(path), compressed)
            array, affine = read_metaimage(path)
            np.testing.assert_array_equal(array, itk.GetArrayFromImage(image).T)
            for corner in ((0, 0, 0), (3, 2, 1)):
                place = np.array(image.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
                np.testing.assert_allclose((affine @ [*corner, 1])[:3], place, atol=1e-6)


HEADERS = {
    'zero size': (dict(pixdim=[1, 0, 0.5, 0.5, 0, 0, 0, 0]), 'has voxels of 0 x 0.5 x 0.5 mm'),
    'negative size': (dict(pixdim=[1, -0.5, 0.5, 0.5, 0, 0, 0, 0]), 'has voxels of -0.5'),
    'size nan': (dict(pixdim=[1, NAN, 0.5, 0.5, 0, 0, 0, 0]), 'has voxels of nan'),
    'size infinite': (dict(pixdim=[1, np.inf, 0.5, 0.5, 0, 0, 0, 0]), 'has voxels of inf'),
    'size tiny': (dict(pixdim=[1, 1e-7, 1e-7, 1e-7, 0, 0, 0, 0], sform_code=0), 'from 0.01 to 100 mm'),
    'size huge': (dict(pixdim=[1, 1e7, 1e7, 1e7, 0, 0, 0, 0], sform_code=0), 'from 0.01 to 100 mm'),
    'forms disagree in size': (dict(pixdim=[1, 2, 0.5, 0.5, 0, 0, 0, 0]), 'disagree'),
    'forms disagree in direction': (dict(srow_x=[-0.5, 0, 0, 0]), 'disagree: sform LAS'),
    'size beside sform': (dict(pixdim=[1, 2, 0.5, 0.5, 0, 0, 0, 0], qform_code=0), 'by pixdim and of'),
    'no form': (dict(qform_code=0, sform_code=0), 'neither sform nor qform'),
    'form of unknown code': (dict(qform_code=99, sform_code=-3), 'neither sform nor qform'),
    'sform nan': (dict(srow_y=[0, NAN, 0, 0], qform_code=0), 'is none'),
    'sform zero': (dict(srow_y=[0, 0, 0, 0], qform_code=0), 'is none'),
    'sform sheared': (dict(srow_x=[0.5, 0.3, 0, 0], qform_code=0), 'not at right angles'),
    'sform flat': (dict(srow_x=[0.5, 0.5, 0, 0], srow_y=[0.5, 0.5, 0, 0], qform_code=0), 'not at right angles'),
    'quaternion beyond 1': (dict(quatern_b=7, sform_code=0), 'should be positive'),
    'quaternion nan': (dict(quatern_b=NAN, sform_code=0), ''),
    'magic': (dict(magic=b'abc'), 'cannot be read as NIfTI'),
    'magic of a pair': (dict(magic=b'ni1'), 'damaged header'),
    'header size': (dict(sizeof_hdr=7), 'damaged header'),
    'RGB': (dict(datatype=128, bitpix=24, dim=[3, 16, 18, 10, 1, 1, 1, 1]), 'holds colours'),
    'RGBA': (dict(datatype=2304, bitpix=32, dim=[3, 16, 18, 10, 1, 1, 1, 1]), 'holds colours'),
    'complex': (dict(datatype=32, bitpix=64, dim=[3, 16, 18, 5, 1, 1, 1, 1]), 'holds complex numbers'),
    'bits': (dict(datatype=1, bitpix=1), ''),
    'unknown type': (dict(datatype=4711), 'cannot be read as NIfTI'),
    'no type': (dict(datatype=0), ''),
    'too many voxels': (dict(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), 'which its size cannot hold'),
    'one more slice': (dict(dim=[3, 16, 18, 21, 1, 1, 1, 1]), 'Is it cut short?'),
    'zero slices': (dict(dim=[3, 16, 18, 0, 1, 1, 1, 1]), ''),
    'negative slices': (dict(dim=[3, 16, 18, -4, 1, 1, 1, 1]), ''),
    'no dimensions': (dict(dim=[0, 16, 18, 20, 1, 1, 1, 1]), ''),
    'nine dimensions': (dict(dim=[9, 16, 18, 20, 1, 1, 1, 1]), ''),
    'four dimensions': (dict(dim=[4, 16, 18, 10, 2, 1, 1, 1]), 'has 2 volumes'),
    'five dimensions': (dict(dim=[5, 16, 18, 5, 2, 2, 1, 1]), 'has 4 volumes'),
    'slope infinite': (dict(scl_slope=np.inf), 'scales its numbers by inf'),
    'intercept nan': (dict(scl_slope=2, scl_inter=NAN), ''),
    'offset beyond the end': (dict(vox_offset=1e6), ''),
    'offset negative': (dict(vox_offset=-352), ''),
    'offset nan': (dict(vox_offset=NAN), ''),
    'unit': (dict(xyzt_units=7), 'unknown unit'),
    'unit metre': (dict(xyzt_units=1), 'from 0.01 to 100 mm'),
    'one column': (dict(dim=[3, 1, 288, 20, 1, 1, 1, 1]), 'slice of 1 x 288 pixels'),
}


@malformed('volumes', HEADERS)
def test_malformed_header(tmp_path, name):
    fields, text = HEADERS[name]
    refused(tmp_path, save(tmp_path / 'x.nii', block(), **fields), WHOLE, text)


FILES = {
    'empty': b'',
    'text': b'this is no volume, but a text that somebody has named so' * 20,
    'gzip of nothing': gzip.compress(b''),
    'gzip of zeros': gzip.compress(bytes(1000)),
    'half a header': bytes(100),
    'zip': b'PK\x03\x04' + bytes(500),
    'gzip header alone': b'\x1f\x8b\x08\x00',
}


@malformed('volumes', FILES)
@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_no_nifti(tmp_path, name, suffix):
    path = tmp_path / f'x{suffix}'
    path.write_bytes(FILES[name])
    refused(tmp_path, path, WHOLE, 'x.nii')


@pytest.mark.parametrize('keep', [0.1, 0.5, 0.99])
def test_cut_short(tmp_path, keep):
    whole = save(tmp_path / 'x.nii.gz', block()).read_bytes()
    (tmp_path / 'x.nii.gz').write_bytes(whole[: int(len(whole) * keep)])
    refused(tmp_path, tmp_path / 'x.nii.gz', WHOLE, 'Is it cut short?')


def test_broken_checksum(tmp_path):
    whole = bytearray(save(tmp_path / 'x.nii.gz', block()).read_bytes())
    whole[len(whole) // 2] ^= 255
    (tmp_path / 'x.nii.gz').write_bytes(whole)
    refused(tmp_path, tmp_path / 'x.nii.gz', WHOLE)


def test_bomb(tmp_path):
    "A small file that says that it holds 32 GB"
    path = save(tmp_path / 'x.nii', block(), dim=[3, 2500, 2500, 2500, 1, 1, 1, 1])
    (tmp_path / 'x.nii.gz').write_bytes(gzip.compress(path.read_bytes() + bytes(1_000_000)))
    path.unlink()
    refused(tmp_path, tmp_path / 'x.nii.gz', WHOLE, 'which its size cannot hold')


@malformed('volumes', [f'header fuzzed {seed}' for seed in range(60)])
def test_fuzzed_header(tmp_path, name):
    "Some bytes of the header are changed: an import ends in words, or gives what the volume holds"
    draw, original = rng('fuzz', int(name.split()[-1])), block()
    path = save(tmp_path / 'x.nii', original)
    content = bytearray(path.read_bytes())
    for place in draw.integers(0, 348, 3):
        content[place] = int(draw.integers(256))
    path.write_bytes(content)
    try:
        m = import_sources(nifti_sources(path, WHOLE.replace(resample=False)), tmp_path / 'out', workers=1)
    except ValueError as error:
        assert str(error).rstrip().endswith(('.', '?')) and 'Traceback' not in str(error)
        return
    raw = np.frombuffer(bytes(content), nib.nifti1.header_dtype, 1)[0]
    assert m.df.spacing_mm[0] == pytest.approx(float(raw['pixdim'][1]), rel=0.02)
    expected = load_volume(path)[0].array[:, :, int(m.df.slice[0])].T[::-1, ::-1]
    np.testing.assert_allclose(m.image(0), expected, rtol=1e-5)


def labelled(tmp_path, labels, affine=None, image=None, **changes):
    "Settings of an image with a segmentation, both in files"
    image = save(tmp_path / 'images' / 'x.nii', block() if image is None else image)
    save(tmp_path / 'labels' / 'x.nii', labels, affine)
    return image.parent, WHOLE.replace(slices='structures', segmentations=tmp_path / 'labels', **changes)


def numbers():
    labels = np.zeros((16, 18, 20), np.uint8)
    labels[4:8, 4:8, 4:8], labels[4:8, 4:8, 10:16] = 1, 2
    return labels


MOVED = np.diag([0.5, 0.5, 0.5, 1.0])
MOVED[0, 3] = 1
SEGMENTATIONS = {
    'other shape': (lambda: numbers()[..., :12], None, {}, 'has 16 x 18 x 12 voxels, the image 16 x 18 x 20'),
    'other place': (numbers, MOVED, {}, 'lies up to 1 mm beside the image'),
    'other size': (numbers, np.diag([0.6, 0.5, 0.5, 1]), {}, 'mm beside the image'),
    'mirrored': (numbers, np.diag([-0.5, 0.5, 0.5, 1]), {}, 'mm beside the image'),
    'fractions': (lambda: numbers() * np.float32(0.5), None, {}, 'whole numbers from 0 to 65535'),
    'negative': (lambda: -numbers().astype(np.int16), None, {}, 'whole numbers from 0 to 65535'),
    'nan': (lambda: np.where(numbers() > 1, np.nan, 0), None, {}, 'whole numbers from 0 to 65535'),
    'empty': (lambda: numbers() * 0, None, {}, 'none of the structures is in this volume'),
    'no such structure': (numbers, None, dict(structures=['L1']), "no structure is named 'L1'"),
    'no such table': (numbers, None, dict(names='verze'), "Did you mean 'verse'?"),
    'healthy lesion': (numbers, None, dict(lesions=['2'], default_label='healthy'), 'labelled healthy'),
    'four dimensions': (lambda: np.stack([numbers()] * 2, -1), None, {}, 'has 2 volumes'),
}


@malformed('volumes', SEGMENTATIONS)
def test_malformed_segmentation(tmp_path, name):
    labels, affine, changes, text = SEGMENTATIONS[name]
    images, settings = labelled(tmp_path, labels(), affine, **changes)
    refused(tmp_path, images, settings, text)


VALUES = {
    'nan': (lambda: np.where(block() > 990, np.nan, 1.0), {}, 'are not finite'),
    'infinite': (lambda: np.where(block() > 990, np.inf, 1.0), {}, 'are not finite'),
    'too large for float32': (lambda: block(np.float64) * 1e300, {}, 'do not fit into 32-bit float'),
    'not Hounsfield units': (block, dict(modality='CT'), 'these are not Hounsfield units'),
    'beyond Hounsfield units': (lambda: block(np.int32) * 100 - 1000, dict(modality='CT'), 'which no Hounsfield unit'),
}


@malformed('volumes', VALUES)
def test_malformed_values(tmp_path, name):
    array, changes, text = VALUES[name]
    refused(tmp_path, save(tmp_path / 'x.nii', array()), WHOLE.replace(**changes), text)


def test_pixels_that_are_not_square(tmp_path):
    path = save(tmp_path / 'x.nii', block(), np.diag([0.5, 0.5, 2.0, 1.0]))
    settings = WHOLE.replace(plane='sagittal', resample=False)
    refused(tmp_path, path, settings, 'pixels are 2 mm high and 0.5 mm wide')
    m = import_sources(nifti_sources(path, settings.replace(resample=True)), tmp_path / 'out', workers=1)
    assert m.image(0).shape == (80, 18) and m.df.spacing_mm[0] == 0.5


def test_orientation_that_was_told(tmp_path):
    path = save(tmp_path / 'x.nii', block(), qform_code=0, sform_code=0)
    told = load_volume(path, Reading(orientation='LPI'))[0]
    np.testing.assert_array_equal(told.array, block()[::-1, ::-1, ::-1])
    m = import_sources(nifti_sources(path, WHOLE.replace(orientation='LPI')), tmp_path / 'out', workers=1)
    assert m.df.remark[0] == 'orientation LPI was told, the header has none'


def test_links_and_names(tmp_path):
    save(tmp_path / 'outside.nii', block())
    for folder in ('a', 'b', 'c'):
        (tmp_path / folder).mkdir()
    os.symlink(tmp_path / 'outside.nii', tmp_path / 'a' / 'x.nii')
    refused(tmp_path, tmp_path / 'a', WHOLE, 'leads out of')
    os.symlink(tmp_path / 'b', tmp_path / 'b' / 'x.nii')
    refused(tmp_path, tmp_path / 'b', WHOLE)
    save(tmp_path / 'c' / 'x.nii', block())
    save(tmp_path / 'c' / 'X.nii', block())
    if len(list((tmp_path / 'c').iterdir())) == 2:
        refused(tmp_path, tmp_path / 'c', WHOLE.replace(patient='(?i)(?P<patient>x)'), 'would have one name')


@pytest.mark.parametrize('name', ['x' + 'ü' * 60, 'x 1 (2)', 'x–ß漢字', 'x' * 180])
def test_odd_names(tmp_path, name):
    path = save(tmp_path / 'in' / f'{name}.nii', block())
    m = validate(import_sources(nifti_sources(path.parent, WHOLE), tmp_path / 'out', workers=1))
    assert len(m) == 1 and all(p.is_relative_to(tmp_path / 'out') for p in (tmp_path / 'out').rglob('*'))


def test_unreadable_ones_are_left_out(tmp_path):
    save(tmp_path / 'in' / 'x1.nii', block())
    (tmp_path / 'in' / 'x2.nii').write_bytes(b'no')
    refused(tmp_path, tmp_path / 'in', WHOLE, 'x2')
    m = import_sources(nifti_sources(tmp_path / 'in', WHOLE), tmp_path / 'out', workers=1, skip_unreadable=True)
    assert m.df.image_id.tolist() == ['x1_axial_0010']


def test_folder_of_masks(tmp_path):
    image = save(tmp_path / 'x.nii', block())
    for number in (1, 2):
        save(tmp_path / 'masks' / f'vertebrae_L{number}.nii.gz', np.uint8(numbers() == number))
    settings = WHOLE.replace(slices='structures', segmentations=tmp_path / 'masks')
    m = import_sources(nifti_sources(image, settings), tmp_path / 'out', workers=1)
    assert m.df.slice.astype(int).tolist() == [5, 12]
    save(tmp_path / 'masks' / 'vertebrae_L3.nii.gz', np.uint8(numbers() == 2))
    refused(tmp_path, image, settings, 'overlap in 96 voxels')
    save(tmp_path / 'masks' / 'vertebrae_L3.nii.gz', numbers())
    refused(tmp_path, image, settings, 'is not binary')


def test_several_processes_give_the_same(tmp_path):
    "Slices that several processes read, and their order"
    image = save(tmp_path / 'x.nii.gz', block())
    sources = nifti_sources(image, WHOLE.replace(slices='all'))
    one, two = (import_sources(sources, tmp_path / f'out{n}', workers=n) for n in (1, 2))
    assert one.df.drop(columns='remark').equals(two.df.drop(columns='remark')) and len(one) == 20
    assert one.df.slice.astype(int).tolist() == list(range(20))


@real
def test_real_segmentation_of_another_grid(tmp_path):
    settings = NiftiSettings(segmentations=REAL / 'example_seg.nii.gz', modality='CT', patient='(?P<patient>ct)')
    refused(tmp_path, REAL / 'example_ct.nii.gz', settings.replace(default_label='healthy'), '122 x 101 x 30 voxels')


@real
@pytest.mark.parametrize('plane', PLANES)
def test_real_slices(tmp_path, plane):
    labels = load_labels(REAL / 'example_seg.nii.gz')
    assert labels.names[31] == 'vertebrae_L1'
    ct = nib.load(REAL / 'example_ct.nii.gz')  # its last 30 slices are those of the segmentation
    part = nib.Nifti1Image(np.asanyarray(ct.dataobj)[:, :, -30:], nib.load(REAL / 'example_seg.nii.gz').affine)
    nib.save(part, tmp_path / 'ct.nii.gz')
    settings = NiftiSettings(segmentations=REAL / 'example_seg.nii.gz', modality='CT', structures=['vertebrae_*'])
    settings = settings.replace(patient='(?P<patient>ct)', default_label='healthy', plane=plane)
    m = import_sources(nifti_sources(tmp_path / 'ct.nii.gz', settings), tmp_path / 'out', workers=1)
    assert len(m) in (3, 4) and set(m.df.spacing_mm) == {3.0}
    for i in range(len(m)):
        hu, bone = m.image(i).astype(int) - 1024, m.structures(i) > 0
        assert 100 < hu[bone].mean() < 400 and (hu < -900).mean() > 0.05
        expected, _ = as_itk(tmp_path / 'ct.nii.gz', plane, int(m.df.slice[i]))
        np.testing.assert_array_equal(hu, np.maximum(expected, -1024))
