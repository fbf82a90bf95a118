"""Import of folders as they are downloaded: every layout, and what is malformed is refused in words."""

import json, os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from malformed import malformed
from medsoft_nb.core.images import write_image
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.folder import import_folder, ImportSettings
from medsoft_nb.data.importing import import_sources
from medsoft_nb.data.layouts import find_layout, layout_sources, LAYOUTS
from medsoft_nb.data.manifest import ManifestError, validate
from medsoft_nb.data.nifti import nifti_sources, NiftiSettings
from medsoft_nb.data.pictures import LayoutSettings
from medsoft_nb.data.volumes import plane_slice

SHAPE = 24, 32
RULE = LayoutSettings(patient=r'(?P<patient>P\d)', lesion_label='lytic', default_label='healthy')
ITSELF = LayoutSettings(lesion_label='lytic', default_label='healthy')  # the layout knows the patients


@pytest.fixture(autouse=True)
def salt(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path_factory.mktemp('salt') / 'salt'))


def noise(*name, shape=SHAPE):
    return rng(*name).integers(1, 255, shape).astype(np.uint8)


def lesion(full=True):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 6:12] = 255 * full
    return mask


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([0.5, 0.5, 0.5, 1])), path)


def body(seed):
    hu = rng('body', seed).integers(-1000, 1000, (20, 22, 24)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[5:12, 5:12, 4:10], labels[5:12, 5:12, 14:20] = 1, 2
    return hu, labels


def masks(folder):
    for k in range(3):
        write_image(folder / f'P{k}.png', noise('masks', k))
        write_image(folder / f'P{k}_mask.png', lesion(k > 0))
    write_image(folder / 'P2_mask_2.png', np.roll(lesion(), 10, 1))


def imagefolder(folder):
    for k in range(3):
        write_image(folder / ('lytic' if k else 'healthy') / f'P{k}.png', noise('classes', k))


def medsoft(folder):
    for k in range(3):
        write_image(folder / f'P{k}' / 'image.png', noise('samples', k))
        write_image(folder / f'P{k}' / 'mask.png', lesion(k > 0))
        text(folder / f'P{k}' / 'prompt.txt', 'sagittal MR of the spine, lytic lesion\n')


def lgg(folder):
    for k in range(3):
        name = f'TCGA_CS_49{k}1_19960909'
        (folder / name).mkdir(parents=True)
        Image.fromarray(noise('lgg', k, shape=(*SHAPE, 3))).save(folder / name / f'{name}_{k + 1}.tif')
        Image.fromarray(lesion(k > 0)).save(folder / name / f'{name}_{k + 1}_mask.tif')


def nnunet(folder):
    names = dict(background=0, bone=1, lesion=2)
    text(folder / 'dataset.json', json.dumps(dict(channel_names={'0': 'CT'}, labels=names)))
    for k in range(3):
        hu, labels = body(k)
        volume(folder / 'imagesTr' / f'P{k}_0000.nii.gz', hu)
        volume(folder / 'labelsTr' / f'P{k}.nii.gz', labels if k else np.minimum(labels, 1))


def verse(folder):
    for k in range(3):
        hu, labels = body(k)
        volume(folder / 'rawdata' / f'sub-{k}' / f'sub-{k}_ct.nii.gz', hu)
        volume(
            folder / 'derivatives' / f'sub-{k}' / f'sub-{k}_seg-vert_msk.nii.gz', np.uint8(labels + 19 * (labels > 0))
        )


def totalsegmentator(folder):
    for k in range(3):
        hu, labels = body(k)
        volume(folder / f's{k}' / 'ct.nii.gz', hu)
        for number in (1, 2):
            mask = np.uint8(labels == number)
            volume(folder / f's{k}' / 'segmentations' / f'vertebrae_L{number}.nii.gz', mask)


def spider(folder):
    itk = pytest.importorskip('SimpleITK')
    for k in range(3):
        for part, array in zip(('images', 'masks'), body(k)):
            image = itk.GetImageFromArray(np.abs(array))  # MR has no negative numbers
            image.SetSpacing((0.5, 0.5, 0.5))
            (folder / part).mkdir(parents=True, exist_ok=True)
            itk.WriteImage(image, str(folder / part / f'{k}_t2.mha'), True)


def dicom(path, array, **fields):
    pydicom = pytest.importorskip('pydicom')
    file = pydicom.Dataset()
    file.SOPClassUID, file.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    file.Rows, file.Columns = array.shape
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 0, 1
    file.PhotometricInterpretation, file.PixelData = 'MONOCHROME2', array.astype('<u2').tobytes()
    file.PixelSpacing, file.PatientName = [0.4, 0.4], 'Somebody'
    for field, value in fields.items():
        setattr(file, field, value)
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def rsna(folder):
    text(folder / 'train.csv', 'StudyInstanceUID,patient_overall\n1.2.0,0\n1.2.1,1\n1.2.2,1\n')
    boxes = ''.join(f'1.2.{k},6.0,4.0,6.0,5.0,2\n' for k in (1, 2))
    text(folder / 'train_bounding_boxes.csv', 'StudyInstanceUID,x,y,width,height,slice_number\n' + boxes)
    axial = dict(Modality='CT', RescaleSlope=1, RescaleIntercept=-1024, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for k in range(3):
        for number in (1, 2, 3):
            dicom(folder / 'train_images' / f'1.2.{k}' / f'{number}.dcm', noise('rsna', k, number), **axial)


def vindr(folder):
    rows = 'study_id,image_id,lesion_type,xmin,ymin,xmax,ymax\n0,x0,No finding,,,,\n'
    text(folder / 'annotations' / 'train.csv', rows + ''.join(f'{k},x{k},lytic,6,4,12,9\n' for k in (1, 2)))
    for k in range(3):
        dicom(folder / 'train_images' / f'x{k}.dicom', noise('vindr', k), Modality='DX')


COCO = dict(
    images=[dict(id=k, file_name=f'P{k}.png', width=32, height=24) for k in range(3)],
    categories=[dict(id=5, name='lytic')],
    annotations=[
        dict(id=k, image_id=k, category_id=5, bbox=[6, 4, 6, 5], segmentation=[[6, 4, 12, 4, 12, 9, 6, 9]])
        for k in (1, 2)
    ],
)
VOC = """<annotation><size><width>32</width><height>24</height><depth>1</depth></size><object><name>lytic</name>
<bndbox><xmin>7</xmin><ymin>5</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></object></annotation>"""
YOLO = f'0 {9 / 32} {6.5 / 24} {6 / 32} {5 / 24}\n'


def coco(folder):
    for k in range(3):
        write_image(folder / f'P{k}.png', noise('boxes', k))
    text(folder / 'set.json', json.dumps(COCO))


def voc(folder):
    for k in range(3):
        write_image(folder / 'JPEGImages' / f'P{k}.png', noise('boxes', k))
        text(folder / 'Annotations' / f'P{k}.xml', VOC) if k else None


def yolo(folder):
    text(folder / 'data.yaml', 'names: {0: lytic}\n')
    for k in range(3):
        write_image(folder / 'images' / 'train' / f'P{k}.png', noise('boxes', k))
        text(folder / 'labels' / 'train' / f'P{k}.txt', YOLO if k else '')


MAKE = dict(
    masks=masks,
    imagefolder=imagefolder,
    medsoft=medsoft,
    lgg=lgg,
    nnunet=nnunet,
    verse=verse,
    totalsegmentator=totalsegmentator,
    spider=spider,
    coco=coco,
    voc=voc,
    yolo=yolo,
    rsna=rsna,
    vindr=vindr,
)
KNOW = ('rsna', 'vindr', 'lgg', 'verse', 'totalsegmentator', 'spider')  # Layouts that say who the patients are


def settings_of(name):
    settings = ITSELF if name in KNOW else RULE
    return settings.replace(lesions=['lesion'], default_label='') if name == 'nnunet' else settings


def imported(folder, out, settings):
    return import_sources(layout_sources(folder, settings), out, workers=1)


def tree(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob('*') if 'never' not in p.parts)


def refused(folder, settings, said=''):
    "An import that ends with a sentence, and leaves nothing behind"
    before = tree(folder.parent)
    with pytest.raises(ValueError) as error:
        imported(folder, folder.parent / 'never', settings)
    message = str(error.value)
    assert said in message and 'Traceback' not in message and 'Error:' not in message, message
    assert message.rstrip().endswith(('.', '?')), message
    assert not (folder.parent / 'never' / 'manifest.csv').exists() and tree(folder.parent) == before


@pytest.mark.parametrize('name', LAYOUTS)
def test_layout(tmp_path, name):
    MAKE[name](tmp_path / 'in')
    assert find_layout(tmp_path / 'in') == name
    m = validate(imported(tmp_path / 'in', tmp_path / 'out', settings_of(name)))
    assert m.df.patient_id.nunique() == 3
    if name in ('nnunet', 'verse', 'totalsegmentator', 'spider'):
        assert set(m.df.spacing_mm) == {0.5} and set(m.df.plane) == {'sagittal'}
        assert set(m.df.modality) == {'MR' if name == 'spider' else 'CT'}
        assert all(m.structures(i) is not None for i in range(len(m)))
    else:
        assert set(m.df.plane) == ({'axial'} if name in ('lgg', 'rsna') else {''})  # nobody said it
    if name in ('masks', 'medsoft', 'lgg', 'coco', 'voc', 'yolo', 'imagefolder'):
        assert m.df.label.tolist() == ['healthy', 'lytic', 'lytic'] or name == 'voc'
        assert m.df.label.value_counts().to_dict() == dict(lytic=2, healthy=1)
    if name in ('rsna', 'vindr'):
        table = m.df.to_csv()
        assert set(m.df.spacing_mm) == {0.4} and 'Somebody' not in table and '1.2.' not in table
    if name in ('masks', 'medsoft', 'lgg', 'coco'):
        np.testing.assert_array_equal(m.lesion_mask(1), lesion() > 0)
    if name in ('coco', 'voc', 'yolo', 'rsna', 'vindr'):
        row = np.flatnonzero(m.df.label != 'healthy')[0]
        box = [float(v) for v in m.df.box[row].split(',')]
        np.testing.assert_allclose(box, [6 / 32, 4 / 24, 6 / 32, 5 / 24], atol=1e-5)


@pytest.mark.parametrize('name', [name for name in LAYOUTS if name not in KNOW])
def test_patients_are_not_guessed(tmp_path, name):
    MAKE[name](tmp_path / 'in')
    refused(tmp_path / 'in', settings_of(name).replace(patient=''), 'which patient does each image of')


def test_pixels_are_kept(tmp_path):
    masks(tmp_path / 'in')
    write_image(tmp_path / 'in' / 'P3.png', rng('deep').integers(0, 60000, SHAPE).astype(np.uint16))
    m = imported(tmp_path / 'in', tmp_path / 'out', RULE)
    np.testing.assert_array_equal(m.image(3), rng('deep').integers(0, 60000, SHAPE))
    assert m.df.label[3] == 'healthy'  # no mask, so the default label


def test_flair_of_three_channels(tmp_path):
    lgg(tmp_path / 'in')
    m = imported(tmp_path / 'in', tmp_path / 'out', ITSELF)
    np.testing.assert_array_equal(m.image(0), noise('lgg', 0, shape=(*SHAPE, 3))[..., 1])


def test_table(tmp_path):
    imagefolder(tmp_path / 'in')
    table = text(tmp_path / 'table.csv', 'file,exam\nhealthy/P0.png,7\nlytic/P1.png,8\nlytic/P2.png,8\n')
    settings = LayoutSettings(table=table, columns=dict(image_id='file', patient_id='exam'))
    assert imported(tmp_path / 'in', tmp_path / 'out', settings).df.patient_id.tolist() == ['7', '8', '8']


def in_json(old, new):
    return lambda folder: text(folder / 'set.json', json.dumps(COCO).replace(old, new))


def in_voc(old, new):
    return lambda folder: text(folder / 'Annotations' / 'P1.xml', VOC.replace(old, new))


def in_yolo(line, name='labels/train/P1.txt'):
    return lambda folder: text(folder / name, line)


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/hosts">]><annotation>&a;</annotation>'
BROKEN = {
    'coco unknown image': ('coco', in_json('"image_id": 1', '"image_id": 77'), 'its image_id 77 is not there'),
    'coco image id a list': ('coco', in_json('"image_id": 1', '"image_id": [1]'), 'is not there'),
    'coco unknown category': ('coco', in_json('"category_id": 5', '"category_id": 6'), 'its category_id 6'),
    'coco box outside': ('coco', in_json('[6, 4, 6, 5]', '[30, 4, 6, 5]'), 'does not lie in the image'),
    'coco box negative': ('coco', in_json('[6, 4, 6, 5]', '[6, 4, -6, 5]'), 'above 0'),
    'coco box nan': ('coco', in_json('[6, 4, 6, 5]', '[6, NaN, 6, 5]'), 'not all finite'),
    'coco box infinite': ('coco', in_json('[6, 4, 6, 5]', '[6, 4, Infinity, 5]'), 'not all finite'),
    'coco box of three': ('coco', in_json('[6, 4, 6, 5]', '[6, 4, 6]'), 'is not x, y, width, height'),
    'coco box of words': ('coco', in_json('[6, 4, 6, 5]', '["a", 4, 6, 5]'), 'no numbers'),
    'coco box a number': ('coco', in_json('[6, 4, 6, 5]', '6'), ''),
    'coco polygon outside': ('coco', in_json('[6, 4, 12, 4,', '[6, 4, 120, 4,'), 'a polygon reaches to'),
    'coco polygon of two points': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '[[6, 4, 12, 4]]'), 'three points'),
    'coco polygon odd': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '[[6, 4, 12, 4, 1, 1, 1]]'), '7 numbers'),
    'coco polygon flat': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '[[6, 4, 12, 4, 8, 4]]'), 'hold no pixel'),
    'coco run length': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '{"counts": "aa"}'), 'run-length coded'),
    'coco segmentation a number': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '5'), 'is no list of polygons'),
    'coco polygon a number': ('coco', in_json('[[6, 4, 12, 4, 12, 9, 6, 9]]', '[5]'), 'no numbers'),
    'coco id a list': ('coco', in_json('"id": 1, "file', '"id": [1], "file'), 'a number or a text is expected'),
    'coco category id missing': ('coco', in_json('"id": 5', '"key": 5'), 'a number or a text is expected'),
    'coco leaves folder': ('coco', in_json('"P1.png"', '"../P1.png"'), 'leads out of'),
    'coco absolute': ('coco', in_json('"P1.png"', '"/etc/hosts"'), 'leads out of'),
    'coco windows path': ('coco', in_json('"P1.png"', '"..\\\\\\\\P1.png"'), 'leads out of'),
    'coco null in a name': ('coco', in_json('"P1.png"', '"P1\\u0000.png"'), 'cannot be the name of a file'),
    'coco no such image': ('coco', in_json('"P1.png"', '"P7.png"'), 'which is not there'),
    'coco name too long': ('coco', in_json('"P1.png"', f'"{"x" * 5000}.png"'), ''),
    'coco no name': ('coco', in_json('"P1.png"', '""'), 'has no file_name'),
    'coco one image twice': ('coco', in_json('"P1.png"', '"P2.png"'), 'would have one name'),
    'coco one id twice': ('coco', in_json('"id": 1, "file', '"id": 2, "file'), 'two images have one id'),
    'coco other size': ('coco', in_json('"width": 32', '"width": 33'), 'its annotation says 33 x 24'),
    'coco lists of words': ('coco', in_json('"categories": [', '"categories": ["a", '), 'is not COCO'),
    'coco no json': ('coco', in_json(']', ''), 'cannot be read as JSON'),
    'coco too deep': ('coco', in_json('[6, 4, 6, 5]', '[' * 100_000), 'cannot be read as JSON'),
    'coco not UTF-8': (
        'coco',
        lambda f: text(f / 'set.json', json.dumps(COCO).encode('utf-16') + b'"images""annotations"'),
        'cannot be read as JSON',
    ),
    'coco two files': ('coco', lambda f: text(f / 'other.json', json.dumps(COCO)), 'found: other.json, set.json'),
    'voc no size': ('voc', in_voc('<width>32</width>', ''), 'no numbers'),
    'voc size zero': ('voc', in_voc('<width>32</width>', '<width>0</width>'), 'its size is'),
    'voc other size': ('voc', in_voc('<width>32</width>', '<width>320</width>'), 'its annotation says 320 x 24'),
    'voc box outside': ('voc', in_voc('<xmax>12', '<xmax>120'), 'does not lie in the image'),
    'voc box nan': ('voc', in_voc('<xmax>12', '<xmax>nan'), 'not all finite'),
    'voc box reversed': ('voc', in_voc('<xmax>12', '<xmax>2'), 'above 0'),
    'voc box missing': ('voc', in_voc('<xmax>12</xmax>', ''), 'no numbers'),
    'voc no name': ('voc', in_voc('<name>lytic</name>', ''), 'has no label'),
    'voc bomb': ('voc', in_voc(VOC, BOMB), 'has a document type'),
    'voc outside entity': ('voc', in_voc(VOC, OUTSIDE), 'has a document type'),
    'voc cut short': ('voc', in_voc('</annotation>', ''), 'cannot be read as XML'),
    'voc not UTF-8': ('voc', lambda f: text(f / 'Annotations' / 'P1.xml', VOC.encode('utf-16')), 'not UTF-8'),
    'voc no image': ('voc', lambda f: text(f / 'Annotations' / 'P9.xml', VOC), 'belongs to 0 images'),
    'yolo four columns': ('yolo', in_yolo('0 0.5 0.5 0.2'), '4 columns'),
    'yolo six columns': ('yolo', in_yolo('0 0.5 0.5 0.2 0.2 0.9'), '6 columns'),
    'yolo class out of range': ('yolo', in_yolo('1 0.5 0.5 0.2 0.2'), "class '1' is not known"),
    'yolo class negative': ('yolo', in_yolo('-1 0.5 0.5 0.2 0.2'), "class '-1' is not known"),
    'yolo class a fraction': ('yolo', in_yolo('0.0 0.5 0.5 0.2 0.2'), 'is not known'),
    'yolo pixels': ('yolo', in_yolo('0 9 6 6 5'), 'no fractions'),
    'yolo outside': ('yolo', in_yolo('0 0.9 0.5 0.4 0.2'), 'does not lie in the image'),
    'yolo nan': ('yolo', in_yolo('0 nan 0.5 0.4 0.2'), 'not all finite'),
    'yolo flat': ('yolo', in_yolo('0 0.5 0.5 0 0.2'), 'above 0'),
    'yolo words': ('yolo', in_yolo('0 a b c d'), 'no numbers'),
    'yolo not UTF-8': ('yolo', in_yolo(b'\xff\xfe0 0'), 'not UTF-8'),
    'yolo no classes': ('yolo', in_yolo('nc: 1\n', 'data.yaml'), 'what its classes are called'),
    'yolo broken yaml': ('yolo', in_yolo('names: [a\n', 'data.yaml'), 'cannot be read as YAML'),
    'yolo yaml object': (
        'yolo',
        in_yolo('names: !!python/object:os.system [a]\n', 'data.yaml'),
        'cannot be read as YAML',
    ),
    'mask of other size': ('masks', lambda f: write_image(f / 'P1_mask.png', lesion()[:20]), 'has size 32 x 20'),
    'mask of greys': ('masks', lambda f: write_image(f / 'P1_mask.png', noise('grey')), 'is not binary'),
    'mask in colour': (
        'masks',
        lambda f: write_image(f / 'P1_mask.png', noise('c', shape=(*SHAPE, 3))),
        'is in colour',
    ),
    'mask without image': ('masks', lambda f: write_image(f / 'P8_mask.png', lesion()), 'has no image beside it'),
    'image cut short': ('masks', lambda f: text(f / 'P1.png', (f / 'P1.png').read_bytes()[:200]), 'cannot be read'),
    'image empty': ('masks', lambda f: text(f / 'P1.png', b''), 'cannot be read'),
    'image of no patient': ('masks', lambda f: write_image(f / 'Q1.png', noise('q')), "finds no patient in 'Q1.png'"),
    'link out': ('masks', lambda f: os.symlink('/etc/hosts', f / 'P5.png'), 'leads out of'),
    'link in a circle': ('imagefolder', lambda f: os.symlink(f / 'P5.png', f / 'P5.png'), ''),
    'one picture twice': ('masks', lambda f: write_image(f / 'P6.png', noise('masks', 1)), 'are the same picture'),
    'prompt not UTF-8': ('medsoft', lambda f: text(f / 'P1' / 'prompt.txt', b'\xff\xfe'), 'not UTF-8'),
    'prompt too long': ('medsoft', lambda f: text(f / 'P1' / 'prompt.txt', 'x' * 20_000), 'Is it a prompt?'),
    'lgg without mask': ('lgg', lambda f: next(f.glob('*0*/*_mask.tif')).unlink(), 'has no mask beside it'),
    'lgg of other name': ('lgg', lambda f: text(f / 'TCGA_CS_4901_19960909' / 'x.tif', b''), 'is not named'),
    'nnunet broken json': ('nnunet', lambda f: text(f / 'dataset.json', '{'), 'cannot be read as that of nnU-Net'),
    'nnunet no labels': ('nnunet', lambda f: text(f / 'dataset.json', '{"labels": 3}'), 'cannot be read as that'),
    'nnunet without mask': ('nnunet', lambda f: next(f.glob('labelsTr/*')).unlink(), 'no segmentation'),
    'verse without mask': ('verse', lambda f: next(f.glob('derivatives/*/*')).unlink(), 'no segmentation'),
    'rsna cut short': ('rsna', lambda f: text(f / 'train_images' / '1.2.1' / '2.dcm', b'DICM'), 'header is cut short'),
    'rsna leaves the folder': (
        'rsna',
        lambda f: text(f / 'train.csv', 'StudyInstanceUID,patient_overall\n../..,0\n'),
        'leads out of',
    ),
    'rsna box of words': (
        'rsna',
        lambda f: text(
            f / 'train_bounding_boxes.csv', 'StudyInstanceUID,x,y,width,height,slice_number\n1.2.1,a,4,6,5,2\n'
        ),
        'no numbers',
    ),
    'vindr no image': ('vindr', lambda f: (f / 'train_images' / 'x1.dicom').unlink(), 'x1: there is no such image'),
    'spider cut short': (
        'spider',
        lambda f: text(f / 'masks' / '1_t2.mha', (f / 'masks' / '1_t2.mha').read_bytes()[:-40]),
        '1_t2',
    ),
}


@malformed('pictures and data sets', BROKEN)
def test_malformed(tmp_path, name):
    layout, change, said = BROKEN[name]
    MAKE[layout](tmp_path / 'in')
    change(tmp_path / 'in')
    if name == 'link in a circle':  # nothing is behind it
        assert len(imported(tmp_path / 'in', tmp_path / 'out', settings_of(layout))) == 3
        return
    refused(tmp_path / 'in', settings_of(layout), said)


TABLES = {
    'not UTF-8': ('file,exam\nhealthy/P0.png,J\xfcrgen\n'.encode('latin-1'), 'is not UTF-8 text'),
    'no rows': ('file,exam\n', 'has no rows'),
    'no such column': ('name,exam\nP0,1\n', "lacks the column 'file'"),
    'twice': ('file,exam\nhealthy/P0.png,1\nhealthy/P0.png,2\n', 'has several rows'),
    'no such image': ('file,exam\nhealthy/P7.png,1\n', 'is not there'),
    'leaves the folder': ('file,exam\n../healthy/P0.png,1\n', 'is not there'),
    'no patient': ('file,exam\nhealthy/P0.png,\n', 'The table does not say'),
    'patient nan': ('file,exam\nhealthy/P0.png,nan\n', 'stands for a missing value'),
    'alike patients': ('file,exam\nhealthy/P0.png,p-1\nlytic/P1.png,P01\n', 'look like one'),
}


@malformed('tables', TABLES)
def test_malformed_table(tmp_path, name):
    content, said = TABLES[name]
    imagefolder(tmp_path / 'in')
    table = text(tmp_path / 'table.csv', content)
    refused(tmp_path / 'in', LayoutSettings(table=table, columns=dict(image_id='file', patient_id='exam')), said)


def test_names_that_differ_in_case(tmp_path):
    masks(tmp_path / 'in')
    write_image(tmp_path / 'in' / 'p1.png', noise('case'))
    if len(list((tmp_path / 'in').glob('[pP]1.png'))) == 2:
        refused(tmp_path / 'in', RULE.replace(patient=r'(?P<patient>[Pp]\d)'), 'would have one name')


@pytest.mark.parametrize('name', ['Pü1', 'P1 (2)', 'P1–ß漢字', 'P1' + 'x' * 180, 'P1..', 'P1%2F..%2F'])
def test_odd_names(tmp_path, name):
    write_image(tmp_path / 'in' / 'lytic' / f'{name}.png', noise('odd'))
    m = validate(imported(tmp_path / 'in', tmp_path / 'out', RULE.replace(patient=r'/(?P<patient>P.)')))
    assert len(m) == 1 and tree(tmp_path)[0] == Path('in')
    assert all(p.resolve().is_relative_to(tmp_path / 'out') for p in (tmp_path / 'out').rglob('*'))


SPARE = {  # A segmentation that is too many
    'nnunet': 'labelsTr/P9.nii.gz',
    'verse': 'derivatives/sub-9/sub-9_seg-vert_msk.nii.gz',
    'spider': 'masks/9_t2.mha',
    'totalsegmentator': 's9/segmentations',
}


@pytest.mark.parametrize('name', SPARE)
def test_a_segmentation_without_an_image_is_told(tmp_path, name, caplog):
    MAKE[name](tmp_path)
    layout_sources(tmp_path, settings_of(name))
    assert 'no image' not in caplog.text
    spare = tmp_path / SPARE[name]
    spare.mkdir(parents=True) if name == 'totalsegmentator' else text(spare, b'')
    layout_sources(tmp_path, settings_of(name))
    assert '1 segmentation has no image in' in caplog.text and f'(first: {SPARE[name]})' in caplog.text, caplog.text


def test_a_segmentation_of_pictures_without_an_image_is_told(tmp_path, caplog):
    nnunet(tmp_path)
    for path in [*tmp_path.glob('*Tr/*')]:
        path.unlink()
    write_image(tmp_path / 'imagesTr/P1_0000.png', noise('picture'))
    for name in ('P1', 'P9'):
        write_image(tmp_path / f'labelsTr/{name}.png', np.zeros(noise('picture').shape, np.uint8))
    layout_sources(tmp_path, settings_of('nnunet'))
    assert '1 segmentation has no image in' in caplog.text and '(first: labelsTr/P9.png)' in caplog.text, caplog.text


def test_a_vertebra_has_no_hole_where_its_lesion_is(tmp_path):
    "The number of the lesion replaces that of the vertebra; a lesion beside it stays outside"
    hu, labels = body(0)
    labels[7:9, 7:10, 6:8], labels[15:18, 15:18, 15:18] = 3, 3
    volume(tmp_path / 'images/P0.nii.gz', hu)
    volume(tmp_path / 'holes/P0.nii.gz', labels)
    names = dict(names={1: 'L1', 2: 'L2', 3: 'lesion'}, lesions=['lesion'], lesion_label='lytic', slices='all')
    rule = dict(patient='(?P<patient>.+)', segmentations=tmp_path / 'holes')
    sources = nifti_sources(tmp_path / 'images', NiftiSettings(**names, **rule))
    for k, source in enumerate(sources):
        pixels, numbers = source.read(), plane_slice(labels, 'sagittal', k)
        whole = plane_slice(body(0)[1], 'sagittal', k)
        if pixels.structures is not None:
            np.testing.assert_array_equal(pixels.structures, whole)
        else:
            assert not whole.any()
        lesion_mask = np.zeros(SHAPE, bool) if pixels.lesion_mask is None else pixels.lesion_mask
        assert lesion_mask.sum() == (numbers == 3).sum()


def test_links_of_a_folder_with_a_table(tmp_path):
    "Those that stay in the folder, or lead into the store of git-annex around it, are followed"
    images, store = tmp_path / 'set/images', tmp_path / 'set/.git/annex/objects'
    for k, place in enumerate((images / 'own', store / 'x1', tmp_path)):
        write_image(place / f'real{k}.png', noise('links', k))
        (images / f'P{k}.png').symlink_to(place / f'real{k}.png')
    csv = tmp_path / 'table.csv'
    csv.write_text('image,patient_id,label\nP0.png,P0,healthy\nP1.png,P1,healthy\n')
    settings = ImportSettings(table=csv)
    with pytest.raises(ManifestError, match=r"link '.*P2.png' leads out of .* \(--outside, `outside=True`\)"):
        import_folder(images, tmp_path / 'out', settings)
    assert not (tmp_path / 'out').exists()
    assert len(import_folder(images, tmp_path / 'all', settings.replace(outside=True))) == 2
    (images / 'P2.png').unlink()
    assert len(import_folder(images, tmp_path / 'out', settings)) == 2
