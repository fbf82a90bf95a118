"""DICOM imports: kinds of files, peers, identity, and malformed files. MEDSOFT_REALSPINE adds a real CT."""

import copy, os, sys
from pathlib import Path
import numpy as np, pytest
from pydicom import dcmread, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid, ImplicitVRLittleEndian, MRImageStorage
from pydicom.uid import ExplicitVRBigEndian, RLELossless
from malformed import malformed
from medsoft_nb.core.images import read_image
from medsoft_nb.data.columns import ManifestError
from medsoft_nb.data.dicom import dicom_sources, DicomSettings
from medsoft_nb.data.importing import import_sources

AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
STUDY = generate_uid()
REAL = Path(os.environ.get('MEDSOFT_REALSPINE') or '/nowhere') / 'ct_dicom'
pytestmark = pytest.mark.filterwarnings('ignore')


def values(seed=0, shape=(20, 16), high=2000):
    return np.random.default_rng(seed).integers(0, high, shape)


def dataset(pixels, **tags):
    "A CT of 16 bit; `tags` replace or (as `None`) remove what it has"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = CTImageStorage, generate_uid(), STUDY
    ds.SeriesInstanceUID, ds.PatientID, ds.Modality = '1.2.3.4', 'MRN4711', 'CT'
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.5], 3
    ds.ImageOrientationPatient, ds.ImagePositionPatient = AXIAL, [0, 0, 0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.WindowCenter, ds.WindowWidth = [40, 300], [400, 1500]
    ds.PixelData = np.ascontiguousarray(pixels.astype(tags.pop('dtype', np.uint16))).tobytes()
    ds['PixelData'].VR = 'OW'
    for tag, value in tags.items():
        if value is None:
            delattr(ds, tag)
        else:
            setattr(ds, tag, value)
    return ds


def write(path, pixels=None, **tags):
    ds = dataset(values() if pixels is None else pixels, **tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def settings_of(tmp_path, **options):
    return DicomSettings(**dict(default_label='healthy', salt=tmp_path / 'keys/salt') | options)


def imported(tmp_path, name='out', skip=False, **options):
    "Rows, and images as they were written"
    sources = dicom_sources(tmp_path / 'in', settings_of(tmp_path, **options))
    df = import_sources(sources, tmp_path / name, workers=1, skip_unreadable=skip).df
    return df, [read_image(tmp_path / name / path) for path in df.image]


def volume(folder, n=5, gap=2.0, **tags):
    "Files of a CT volume whose names are in another order"
    arrays = [values(k) for k in range(n)]
    for k, array in enumerate(arrays):
        write(folder / f'x{(k * 3) % n}', array, ImagePositionPatient=[-7, 4, k * gap], InstanceNumber=n - k, **tags)
    return arrays


# ---------------------------------------------------------------- kinds of files


def test_ct_keeps_hounsfield_units_in_order_of_position(tmp_path):
    arrays = volume(tmp_path / 'in')
    df, images = imported(tmp_path)
    for image, array in zip(images, arrays, strict=True):
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, array)  # HU + 1024
    assert [*df.offset] == ['1024'] * 5 and [*df.window] == ['40,400'] * 5
    assert [*df.plane] == ['axial'] * 5 and [*df.spacing_mm] == [0.5] * 5 and [*df.modality] == ['CT'] * 5
    assert [*df['slice']] == list('01234') and [*df.thickness_mm] == ['3.0'] * 5
    assert df.patient_id.nunique() == df.series.nunique() == df.study.nunique() == 1


@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize('preamble', [True, False])
def test_byte_orders_and_files_without_preamble(tmp_path, syntax, preamble):
    ds = dataset(values())
    (tmp_path / 'in').mkdir()
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = values().astype('>u2').tobytes()
        ds['PixelData'].VR = 'OW'
    ds.file_meta.TransferSyntaxUID = syntax
    if preamble:
        ds.save_as(tmp_path / 'in/image', enforce_file_format=True)
    else:
        implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        del ds.file_meta
        ds.save_as(tmp_path / 'in/image', implicit_vr=implicit, little_endian=little)
    _, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, values())


def transcoded(path, syntax):
    gdcm = pytest.importorskip('gdcm')
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


LOSSLESS = ['JPEGLosslessProcess14_1', 'JPEG2000Lossless', 'JPEGLSLossless', 'RLELossless']


@pytest.mark.parametrize('syntax', LOSSLESS)
def test_compressed_files(tmp_path, syntax):
    transcoded(write(tmp_path / 'in/a'), syntax)
    assert dcmread(tmp_path / 'in/a').file_meta.TransferSyntaxUID.is_compressed
    _, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, values())


@pytest.mark.parametrize('syntax', LOSSLESS)
@pytest.mark.parametrize('part', [0.5, 0.9])
def test_compressed_files_cut_short(tmp_path, syntax, part):
    path = write(tmp_path / 'in/a', values(shape=(64, 64)))
    transcoded(path, syntax)
    content = path.read_bytes()
    start = content.rfind(b'\xe0\x7f\x10\x00')
    path.write_bytes(content[: start + int((len(content) - start) * part)])
    with pytest.raises(ManifestError):
        imported(tmp_path)


@pytest.mark.parametrize('syntax', LOSSLESS[:3])  # RLE does not say its size
@pytest.mark.parametrize('tags', [dict(Rows=10), dict(Columns=32), dict(Rows=16, Columns=20)])
def test_compressed_files_of_another_size(tmp_path, syntax, tags):
    path = write(tmp_path / 'in/a')
    transcoded(path, syntax)
    ds = dcmread(path)
    for tag, value in tags.items():
        setattr(ds, tag, value)
    ds.save_as(path)
    with pytest.raises(ManifestError, match='fault'):
        imported(tmp_path)


def test_signed_values_scale_and_fractions(tmp_path):
    signed = values() - 1000
    write(tmp_path / 'in/a', signed, dtype=np.int16, PixelRepresentation=1, RescaleIntercept=0)
    write(tmp_path / 'in/b', values(1), RescaleSlope=0.5, RescaleIntercept=-1000, SeriesInstanceUID='1.2.5')
    write(tmp_path / 'in/c', values(2) * 0, RescaleIntercept=-3000, SeriesInstanceUID='1.2.6')
    df, images = imported(tmp_path)
    by = dict(zip((image.dtype.name + str(image.min() < -2000) for image in images), images))
    np.testing.assert_array_equal(by['uint16False'].astype(int) - 1024, signed)
    np.testing.assert_array_equal(by['float32False'], values(1) * 0.5 - 1000)
    assert (by['float32True'] == -3000).all() and sorted(df.offset) == ['0', '0', '1024']


def test_padding_becomes_air(tmp_path):
    pixels = values() + 100
    pixels[0] = 60000
    write(tmp_path / 'in/a', pixels, PixelPaddingValue=60000)
    df, (image,) = imported(tmp_path)
    assert (image[0] == 0).all() and (image[1:] == pixels[1:]).all() and 'padding' in df.remark[0]


@pytest.mark.parametrize('window', ['bone', 'soft-tissue', 'brain', 'lung', 'file'])
def test_windows(tmp_path, window):
    centre, width = {'bone': (400, 1800), 'brain': (40, 80), 'lung': (-600, 1500)}.get(window, (40, 400))
    write(tmp_path / 'in/a')
    df, (image,) = imported(tmp_path, window=window)
    low = centre - width / 2
    wanted = np.clip((values() - 1024 - low) / (width - 1), 0, 1) * 255
    assert image.dtype == np.uint8 and np.abs(image - wanted).max() <= 0.51
    assert df.window[0] == f'{centre},{width}'


def mr(**tags):
    return dict(Modality='MR', SOPClassUID=MRImageStorage, **tags)


def test_mr_stays_as_stored(tmp_path):
    scale = dict(RescaleSlope=2.5, RescaleIntercept=5, WindowCenter=505, WindowWidth=250)
    write(tmp_path / 'in/a', **mr(ImageOrientationPatient=SAGITTAL, **scale))
    df, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, values())
    assert (df.plane[0], df.modality[0], df.window[0]) == ('sagittal', 'MR', '200,100')
    assert df.get('offset') is None


def test_mr_whose_scale_changes_is_rescaled(tmp_path):
    for k, slope in enumerate((1.5, 3.0)):
        place = [0, 0, k]
        write(tmp_path / f'in/{k}', **mr(RescaleSlope=slope, RescaleIntercept=0, ImagePositionPatient=place))
    _, images = imported(tmp_path)
    for image, slope in zip(images, (1.5, 3.0)):
        np.testing.assert_allclose(image, values() * slope)


@pytest.mark.parametrize('tags', [dict(RescaleSlope=None, RescaleIntercept=None), dict(RescaleType='MGML')])
def test_ct_without_hounsfield_units(tmp_path, caplog, tags):
    write(tmp_path / 'in/a', **dict(RescaleIntercept=0) | tags)
    df, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, values())
    assert df.get('offset') is None and df.remark[0] == 'no Hounsfield units' and 'no Hounsfield units' in caplog.text
    with pytest.raises(ManifestError, match='one of Hounsfield units'):
        imported(tmp_path, 'no', window='bone')


def test_what_the_settings_say_of_the_modality(tmp_path):
    write(tmp_path / 'in/a', Modality='')
    df, (image,) = imported(tmp_path, modality='CT')
    np.testing.assert_array_equal(image, values())
    assert df.modality[0] == 'CT' and df.offset[0] == '1024'


def radiograph(**tags):
    none = dict.fromkeys(('RescaleSlope', 'RescaleIntercept', 'ImageOrientationPatient', 'ImagePositionPatient'))
    return none | dict(Modality='DX', BitsStored=12, HighBit=11, **tags)


def test_radiographs(tmp_path, caplog):
    tags = dict(PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.2], WindowCenter=1000, WindowWidth=501)
    write(tmp_path / 'in/a', **radiograph(PhotometricInterpretation='MONOCHROME1', **tags))
    df, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, 4095 - values())
    assert (df.plane[0], df.modality[0], df.spacing_mm[0]) == ('', 'radiograph', 0.2)
    assert 'may have names in' in caplog.text
    _, (seen,) = imported(tmp_path, 'windowed', window='file')
    wanted = np.clip((values() - (1000 - 0.5 - 250)) / 500, 0, 1)
    assert np.abs(seen - (1 - wanted) * 255).max() <= 1  # the window was one of the values before


def table_of(descriptor, data):
    "A look-up table as a sequence"
    table = Dataset()
    table.LUTDescriptor, table.LUTData = descriptor, data
    table['LUTDescriptor'].VR = table['LUTData'].VR = 'US'
    return Sequence([table])


def test_modality_table(tmp_path):
    tables = table_of([2000, 0, 16], [(7 * k) % 5000 for k in range(2000)])
    write(tmp_path / 'in/a', **radiograph(ModalityLUTSequence=tables))
    _, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, (7 * values()) % 5000)
    np.testing.assert_array_equal(image, apply_modality_lut(values(), dcmread(tmp_path / 'in/a')))


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_tables_for_grey_levels(tmp_path, caplog, photometric):
    tables = table_of([1500, 100, 12], [round(4095 * (k / 1499) ** 2) for k in range(1500)])
    tags = dict(VOILUTSequence=tables, PhotometricInterpretation=photometric, WindowCenter=1000, WindowWidth=501)
    path = write(tmp_path / 'in/a', **radiograph(**tags))
    df, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, values() if photometric == 'MONOCHROME2' else 4095 - values())
    assert 'is left out' in df.remark[0] and '1 image has a table for its grey levels' in caplog.text
    df, (image,) = imported(tmp_path, 'shown', window='file')
    peer = np.round(apply_voi_lut(values(), dcmread(path)) / 4095 * 255)
    np.testing.assert_array_equal(image, peer if photometric == 'MONOCHROME2' else 255 - peer)
    assert image.dtype == np.uint8 and 'by the table of the file' in df.remark[0] and df.get('window') is None


@pytest.mark.parametrize('curve', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
def test_curves_of_windows(tmp_path, curve):
    path = write(tmp_path / 'in/a', **mr(VOILUTFunction=curve, WindowCenter=900, WindowWidth=600, RescaleIntercept=0))
    _, (image,) = imported(tmp_path, window='file')
    peer = apply_windowing(values(), dcmread(path)) / 65535 * 255
    assert np.abs(image - peer).max() <= 0.501


def test_colour_and_burned_in_text(tmp_path, caplog):
    pixels = values(shape=(20, 16, 3), high=256)
    colour = dict(SamplesPerPixel=3, PhotometricInterpretation='RGB', PlanarConfiguration=0, dtype=np.uint8)
    colour |= dict(BitsAllocated=8, BitsStored=8, HighBit=7, BurnedInAnnotation='YES')
    write(tmp_path / 'in/a', pixels, **radiograph() | colour | dict(Modality='US'))
    df, (image,) = imported(tmp_path)
    np.testing.assert_array_equal(image, pixels)
    assert 'BurnedInAnnotation' in caplog.text and df.modality[0] == 'ultrasound' and 'burned' in df.remark[0]


def enhanced(n=4, **tags):
    "A volume in one file"
    arrays = np.stack([values(k) for k in range(n)])
    ds = dataset(arrays[0], NumberOfFrames=n, SOPClassUID='1.2.840.10008.5.1.4.1.1.2.1', **tags)
    for tag in ('PixelSpacing', 'SliceThickness', 'ImageOrientationPatient', 'ImagePositionPatient'):
        delattr(ds, tag)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth
    shared, measures, plane, scale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2
    plane.ImageOrientationPatient, scale.RescaleSlope, scale.RescaleIntercept = AXIAL, 1, -1024
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([scale])
    frames = []
    for k in range(n):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, -2 * k]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    ds.PixelData = arrays.astype(np.uint16).tobytes()
    return ds, arrays


@pytest.mark.parametrize('compressed', [False, True])
def test_enhanced_files_with_several_frames(tmp_path, compressed):
    ds, arrays = enhanced()
    (tmp_path / 'in').mkdir()
    if compressed:
        ds.compress(RLELossless)
    ds.save_as(tmp_path / 'in/a', enforce_file_format=True)
    df, images = imported(tmp_path)
    for image, array in zip(images, arrays[::-1], strict=True):  # the last frame is the lowest
        np.testing.assert_array_equal(image, array)
    assert {*df.plane} == {'axial'} and {*df.spacing_mm} == {0.5} and {*df.thickness_mm} == {'2.0'}


def test_slices_that_are_taken(tmp_path):
    volume(tmp_path / 'in')
    assert [*imported(tmp_path, 'a', slices='middle')[0]['slice']] == ['2']
    assert [*imported(tmp_path, 'b', slices=2)[0]['slice']] == ['0', '2', '4']


@pytest.mark.parametrize('window', ['', 'file'])
def test_reformats(tmp_path, window):
    arrays = np.stack(volume(tmp_path / 'in', gap=0.5))
    df, images = imported(tmp_path, plane='sagittal', slices='middle', window=window)
    assert df.plane[0] == 'sagittal' and images[0].shape == (5, 20)
    if not window:
        np.testing.assert_array_equal(images[0], arrays[::-1, :, 16 - 1 - 8])
    df, images = imported(tmp_path, 'coronal', plane='coronal', slices='all')
    assert len(df) == 20 and {*df.plane} == {'coronal'}


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('window', ['', 'file'])
def test_windows_of_reformats_are_those_of_slices(tmp_path, photometric, window):
    scale = dict(RescaleSlope=2.5, RescaleIntercept=5, WindowCenter=2505, WindowWidth=1250)
    volume(tmp_path / 'in', **mr(PhotometricInterpretation=photometric, **scale))
    slices, images = imported(tmp_path, 'a', window=window)
    cut, reformatted = imported(tmp_path, 'b', window=window, plane='axial')
    np.testing.assert_array_equal(images, reformatted)
    assert np.unique(images).size > 20 and slices.window[0] == cut.window[0]


@pytest.mark.parametrize(
    ('heights', 'said'),
    [
        ((0, 2, 4, 8), 'slice is missing'),
        ((0, 2, 2, 4), 'lies where another one does'),
        ((0, 2, 4, 5), 'uneven gaps'),
        ((0,), 'it has one slice'),
    ],
)
def test_stacks_that_are_no_volume(tmp_path, caplog, heights, said):
    for k, z in enumerate(heights):
        write(tmp_path / f'in/{k}', values(k), ImagePositionPatient=[0, 0, z])
    assert len(imported(tmp_path)[0]) == len(heights)
    assert said in caplog.text or len(heights) == 1
    with pytest.raises(ManifestError, match=said):
        imported(tmp_path, 'no', plane='sagittal', resample=True)


def test_orientations_in_one_series_become_stacks(tmp_path, caplog):
    for k, orientation in enumerate((AXIAL, SAGITTAL, CORONAL)):
        write(tmp_path / f'in/{k}', values(k), ImageOrientationPatient=orientation)
    assert sorted(imported(tmp_path)[0].plane) == ['axial', 'coronal', 'sagittal']
    assert '3 orientations' in caplog.text


def test_oblique_slices_are_told(tmp_path, caplog):
    for k, degrees in enumerate((20, 40)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        write(tmp_path / f'in/{k}', values(k), ImageOrientationPatient=[1, 0, 0, 0, round(c, 6), round(s, 6)])
    assert sorted(imported(tmp_path)[0].plane) == ['', 'axial'] and 'oblique by 40' in caplog.text


def test_labels_and_patients_of_a_table(tmp_path):
    for k in range(3):
        write(
            tmp_path / f'in/{"ab"[k // 2]}/{k}', values(k), PatientID=f'Q{k // 2}', SeriesInstanceUID=f'1.2.{k // 2}'
        )
    (tmp_path / 'by_folder.csv').write_text('image,label\na,lytic\nb,healthy\n')
    (tmp_path / 'by_patient.csv').write_text('patient_id,label\nQ0,lytic\nQ1,healthy\n')
    for name in ('by_folder', 'by_patient'):
        df, _ = imported(tmp_path, name, table=tmp_path / f'{name}.csv', default_label='')
        assert sorted(df.label) == ['healthy', 'lytic', 'lytic'] and df.patient_id.nunique() == 2
    (tmp_path / 'more.csv').write_text('patient_id,label\nQ0,lytic\nQ9,healthy\n')
    with pytest.raises(ManifestError, match="'Q9' is not there"):
        imported(tmp_path, 'no', table=tmp_path / 'more.csv')


def test_sites_of_a_table_are_found_by_the_patients_before_they_are_hashed(tmp_path):
    for k in range(3):
        write(tmp_path / f'in/{k}', values(k), PatientID=f'Q{k}', SeriesInstanceUID=f'1.2.{k}')
    table = tmp_path / 'table.csv'
    table.write_text(
        'patient_id,hospital,scanner,series,split\nQ0,North,A,x,train\nQ1,South,B,y,test\nQ2,South,,z,test\n'
    )
    df, _ = imported(tmp_path, table=table, columns=dict(site='hospital'))
    assert [*df.site] == ['North', 'South', 'South'] and [*df.scanner] == ['A', 'B', '']
    assert [*df.split] == ['train', 'test', 'test'] and {*df.label} == {'healthy'}
    assert not df.patient_id.str.contains('Q').any() and not df.series.isin([*'xyz']).any()
    with pytest.raises(
        ManifestError, match="'spacing_mm' is not read of a table for DICOM. Fields: image, patient_id"
    ):
        imported(tmp_path, 'no', table=table, columns=dict(spacing_mm='hospital'))


def test_a_reformat_has_the_patient_and_the_label_of_all_its_slices(tmp_path):
    volume(tmp_path / 'in', n=4, gap=0.5)
    for column, said in (('label', 'labels or other fields'), ('patient_id', 'patients')):
        table = tmp_path / f'{column}.csv'
        table.write_text(f'image,{column}\nx0,a\nx1,a\nx2,a\nx3,b\n')
        df, _ = imported(tmp_path, f'slices-{column}', table=table)
        assert sorted(df[column].value_counts()) == [1, 3]
        with pytest.raises(ManifestError, match=f'its slices have different {said}, and a reformat shows all of them'):
            imported(tmp_path, 'no', table=table, plane='sagittal')


def test_files_without_patients(tmp_path, caplog):
    write(tmp_path / 'in/P1_x', PatientID='')
    assert len(imported(tmp_path)[0]) == 1 and 'names no patient' in caplog.text
    assert len(imported(tmp_path, 'rule', patient='(?P<patient>P[0-9]+)_')[0]) == 1


def test_one_id_of_several_names_is_told(tmp_path, caplog):
    for k, name in enumerate(('Roe^A', 'Poe^B')):
        write(tmp_path / f'in/{k}', values(k), PatientName=name, SeriesInstanceUID=f'1.2.{k}')
    assert imported(tmp_path)[0].patient_id.nunique() == 1
    assert '1 PatientID stands for several names' in caplog.text and 'Roe' not in caplog.text


def test_images_of_no_patient_study_and_series_are_one_patient(tmp_path):
    none = dict(PatientID='', StudyInstanceUID='', SeriesInstanceUID='')
    for k in range(3):
        write(tmp_path / f'in/{k}', values(k), ImagePositionPatient=[0, 0, k], **none)
    df, _ = imported(tmp_path)
    assert df.patient_id.nunique() == df.series.nunique() == 1 and [*df['slice']] == ['0', '1', '2']


def test_ids_do_not_depend_on_where_the_folder_is(tmp_path):
    "Patients, series and images that no id names are known by their place below the imported folder"
    none, found = dict(PatientID='', StudyInstanceUID='', SeriesInstanceUID=''), []
    for k, name in enumerate(('a/1', 'a/2', 'b/1')):
        write(tmp_path / f'in/{name}', values(k), ImagePositionPatient=[0, 0, k], **none)
    for place in ('in', 'else/where'):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        if place != 'in':
            (tmp_path / 'in').rename(tmp_path / place)
        sources = dicom_sources(tmp_path / place, settings_of(tmp_path))
        found.append(
            [[source.row[name] for name in ('image_id', 'patient_id', 'study', 'series')] for source in sources]
        )
    assert found[0] == found[1] and len({row[1] for row in found[0]}) == 2
    alone = [dicom_sources(tmp_path / f'else/where/a/{k}', settings_of(tmp_path))[0].row['patient_id'] for k in (1, 2)]
    assert alone[0] != alone[1]  # files that are imported one by one


def test_processes_give_the_same(tmp_path):
    arrays = volume(tmp_path / 'in', n=8)
    sources = dicom_sources(tmp_path / 'in', settings_of(tmp_path))
    one = import_sources(sources, tmp_path / 'one', workers=1).df
    two = import_sources(sources, tmp_path / 'two', workers=2).df
    assert one.equals(two)
    np.testing.assert_array_equal(read_image(tmp_path / 'two' / two.image[3]), arrays[3])


def test_a_decoder_that_lacks(tmp_path):
    path = write(tmp_path / 'in/a')
    transcoded(path, 'JPEG2000Lossless')
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = '1.2.840.10008.1.2.4.201'  # high-throughput JPEG 2000
    ds.save_as(path)
    with pytest.raises(
        ManifestError, match=r"a: it is compressed \(High-Throughput.*pip install 'medsoft_nb\[dicom\]'"
    ):
        imported(tmp_path)


def test_a_package_that_lacks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(ImportError, match=r"pip install 'medsoft_nb\[dicom\]'"):
        dicom_sources(tmp_path, settings_of(tmp_path))
    assert not (tmp_path / 'keys').exists()


# ---------------------------------------------------------------- identity


def identifying():
    "A file whose every text is a secret, and the secrets"
    secrets = [f'SECRET{k}X' for k in range(60)]
    names = iter(secrets)
    ds = dataset(values())
    for tag in ('PatientName', 'PatientID', 'OtherPatientNames', 'PatientAddress', 'PatientMotherBirthName'):
        setattr(ds, tag, next(names))
    for tag in ('InstitutionName', 'InstitutionAddress', 'ReferringPhysicianName', 'OperatorsName', 'StationName'):
        setattr(ds, tag, next(names))
    for tag in (
        'AccessionNumber',
        'StudyID',
        'StudyDescription',
        'SeriesDescription',
        'ProtocolName',
        'ImageComments',
    ):
        setattr(ds, tag, next(names))
    for tag in ('DeviceSerialNumber', 'MedicalRecordLocator', 'PatientComments', 'AdditionalPatientHistory'):
        setattr(ds, tag, next(names))
    for tag in ('BodyPartExamined', 'Manufacturer', 'ManufacturerModelName', 'WindowCenterWidthExplanation'):
        setattr(ds, tag, next(names))
    ds.Modality, ds.ImageType = next(names), ['ORIGINAL', next(names)]
    ds.PatientBirthDate, ds.StudyDate, ds.StudyTime, ds.PatientAge = '19471103', '20170419', '083117', '069Y'
    uids = [f'1.2.826.0.1.{k}.{10**11 + 7 * k}' for k in range(5)]
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids[:4]
    block = ds.private_block(0x0029, 'VENDOR SECRET', create=True)
    block.add_new(0x10, 'LO', next(names))
    block.add_new(0x11, 'OB', b'SECRETBYTES')
    inner, outer = Dataset(), Dataset()
    inner.PatientID, inner.IssuerOfPatientID, inner.ReferencedSOPInstanceUID = next(names), next(names), uids[4]
    outer.OtherPatientIDsSequence, outer.RequestedProcedureID = Sequence([inner]), next(names)
    ds.RequestAttributesSequence = Sequence([outer])
    return ds, ['SECRET', *uids, '19471103', '20170419', '083117', '069Y']


def test_no_identity_in_the_output(tmp_path, caplog):
    ds, secrets = identifying()
    place = tmp_path / 'in/SECRETFOLDER'
    place.mkdir(parents=True)
    ds.save_as(place / 'SECRETFILE.dcm', enforce_file_format=True)
    assert b'SECRET0X' in (place / 'SECRETFILE.dcm').read_bytes()
    df, images = imported(tmp_path)
    files = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert len(files) >= 2 and len(df) == 1 and df.modality[0] == ''
    for text in secrets + [(tmp_path / 'keys/salt').read_text().strip()]:
        for path in files:
            forms = [text.encode(), text.lower().encode(), text.encode('utf-16-le')]
            assert not any(form in path.read_bytes() for form in forms), (text, path)
            assert text.lower() not in str(path.relative_to(tmp_path)).lower()


def test_nothing_of_an_import_that_failed_names_anyone(tmp_path):
    ds, secrets = identifying()
    (tmp_path / 'in').mkdir()
    ds.save_as(tmp_path / 'in/SECRET', enforce_file_format=True)
    (tmp_path / 'in/SECRET.dcm').write_bytes(b'')
    with pytest.raises(ManifestError):
        imported(tmp_path)
    files = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert any(path.suffix == '.tif' for path in files)  # what goes on the next time
    assert not any(text.encode() in path.read_bytes() for path in files for text in secrets)


def test_one_salt_gives_one_id(tmp_path):
    write(tmp_path / 'in/a')
    one, two = (imported(tmp_path, name)[0] for name in ('one', 'two'))
    assert one.image_id[0] == two.image_id[0] and one.patient_id[0] == two.patient_id[0]
    other = imported(tmp_path, 'other', salt=tmp_path / 'another')[0]
    assert other.patient_id[0] != one.patient_id[0] and 'MRN4711' not in one.to_csv()
    assert (tmp_path / 'another').stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- malformed files

RAW = 'raw bytes'
huge = dict(Rows=65535, Columns=65535)
MALFORMED = {
    'slope 0': dict(RescaleSlope=0),
    'slope nan': dict(RescaleSlope='nan'),
    'slope inf': dict(RescaleSlope='inf'),
    'intercept nan': dict(RescaleIntercept='nan'),
    'spacing 0': dict(PixelSpacing=[0, 0]),
    'one spacing 0': dict(PixelSpacing=[0.5, 0]),
    'spacing negative': dict(PixelSpacing=[-1, 1]),
    'spacing nan': dict(PixelSpacing=['nan', 'nan']),
    'one number of spacing': dict(PixelSpacing=[0.5]),
    'three numbers of spacing': dict(PixelSpacing=[0.5, 0.5, 0.5]),
    'not square': dict(PixelSpacing=[0.5, 1]),
    'no pixels': dict(PixelData=None),
    'empty pixels': dict(PixelData=b''),
    'pixels cut short': dict(PixelData=b'\0' * 100),
    'one pixel less': dict(PixelData=b'\0' * (20 * 16 * 2 - 2)),
    'colour with one sample': dict(PhotometricInterpretation='RGB'),
    'ybr with one sample': dict(PhotometricInterpretation='YBR_FULL'),
    'grey with three samples': dict(SamplesPerPixel=3, PlanarConfiguration=0),
    'unknown photometric': dict(PhotometricInterpretation='PURPLE'),
    'empty photometric': dict(PhotometricInterpretation=''),
    'palette without a palette': dict(PhotometricInterpretation='PALETTE COLOR'),
    'no photometric': dict(PhotometricInterpretation=None),
    'no samples': dict(SamplesPerPixel=None),
    'two samples': dict(SamplesPerPixel=2),
    'stored more than allocated': dict(BitsStored=17, HighBit=16),
    'stored 0': dict(BitsStored=0),
    'allocated 0': dict(BitsAllocated=0),
    'allocated 13': dict(BitsAllocated=13, BitsStored=12, HighBit=11),
    'no bits': dict(BitsAllocated=None),
    'no bits stored': dict(BitsStored=None),
    'no sign': dict(PixelRepresentation=None),
    'sign 7': dict(PixelRepresentation=7),
    'rows 0': dict(Rows=0),
    'columns 0': dict(Columns=0),
    'no rows': dict(Rows=None),
    'no columns': dict(Columns=None),
    'huge': huge,
    'rather huge': dict(Rows=9000, Columns=9000),
    'frames -1': dict(NumberOfFrames=-1),
    'frames without end': dict(NumberOfFrames=2147483647),
    'more frames than there are': dict(NumberOfFrames=2),
    'frames that are not described': dict(NumberOfFrames=1, PerFrameFunctionalGroupsSequence=Sequence([])),
    'orientation 0': dict(ImageOrientationPatient=[0] * 6),
    'orientation nan': dict(ImageOrientationPatient=['nan'] * 6),
    'five numbers of orientation': dict(ImageOrientationPatient=[1, 0, 0, 0, 1]),
    'orientation not at a right angle': dict(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    'position nan': dict(ImagePositionPatient=['nan', 0, 0]),
    'two numbers of position': dict(ImagePositionPatient=[0, 0]),
    'thickness nan': dict(SliceThickness='nan'),
    'unknown syntax': RAW,
    'empty': RAW,
    'text': RAW,
    'only a preamble': RAW,
    'preamble and noise': RAW,
    'header cut short': RAW,
    'pixels cut off the file': RAW,
    'noise': RAW,
    'a PNG': RAW,
    'compressed syntax on plain pixels': RAW,
}


def raw_bytes(name, whole):
    noise = np.random.default_rng(0).bytes(3000)
    syntax = b'1.2.840.10008.1.2.1\0'
    return {
        'unknown syntax': whole.replace(syntax, b'1.2.840.10008.9.9.9\0'),
        'empty': b'',
        'text': b'patient: none\n' * 100,
        'only a preamble': b'\0' * 128 + b'DICM',
        'preamble and noise': b'\0' * 128 + b'DICM' + noise,
        'header cut short': whole[:400],
        'pixels cut off the file': whole[:-200],
        'noise': noise,
        'a PNG': b'\x89PNG\r\n\x1a\n' + noise,
        'compressed syntax on plain pixels': whole.replace(syntax, b'1.2.840.10008.1.2.5\0'),
    }[name]


@malformed('DICOM', MALFORMED)
def test_malformed_files_are_told_in_words(tmp_path, name):
    tags, path = MALFORMED[name], tmp_path / 'in/bad.dcm'
    if tags is RAW:
        write(path)
        path.write_bytes(raw_bytes(name, path.read_bytes()))
    else:
        write(path, **copy.deepcopy(tags))
    write(tmp_path / 'in/good', values(1), SeriesInstanceUID='1.2.99')
    with pytest.raises(ManifestError, match='fault') as caught:
        imported(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == (3 if name == 'more frames than there are' else 2)
    assert all('bad.dcm: ' in line and line.endswith('.') and len(line) < 600 for line in lines[1:])
    assert not (tmp_path / 'out/manifest.csv').exists()
    df, (image,) = imported(tmp_path, skip=True)
    np.testing.assert_array_equal(image, values(1))
    assert {path.name for path in tmp_path.iterdir()} == {'in', 'out', 'keys'}


HARMLESS = {
    'no window': dict(WindowCenter=None, WindowWidth=None),
    'window width 0': dict(WindowCenter=40, WindowWidth=0),
    'window nan': dict(WindowCenter='nan', WindowWidth='nan'),
    'no spacing': dict(PixelSpacing=None),
    'no orientation': dict(ImageOrientationPatient=None),
    'no position': dict(ImagePositionPatient=None),
    'no series': dict(SeriesInstanceUID=''),
    'no study': dict(StudyInstanceUID=''),
    'no number': dict(InstanceNumber=''),
    'ids with folders': dict(PatientID='../../../etc', StudyInstanceUID='../../x', SeriesInstanceUID='../y'),
    'ids that are not ASCII': dict(SpecificCharacterSet='ISO_IR 192', PatientID='Müller/Ω/名'),
    'over-long ids': dict(PatientID='x' * 5000, SeriesInstanceUID='1.' * 2000),
    'unknown modality': dict(Modality='../XX'),
    'thickness negative': dict(SliceThickness=-1),
}


@malformed('DICOM', HARMLESS)
def test_what_lacks_stays_empty(tmp_path, name):
    write(tmp_path / 'in/a', **copy.deepcopy(HARMLESS[name]))
    df, (image,) = imported(tmp_path)
    wanted = values() if df.modality[0] == 'CT' else values() - 1024.0
    np.testing.assert_array_equal(image, wanted)
    assert (df.plane[0] == '') == (name == 'no orientation') and np.isnan(df.spacing_mm[0]) == (name == 'no spacing')
    assert {path.name for path in tmp_path.iterdir()} == {'in', 'out', 'keys'}
    assert name not in ('unknown modality',) or df.modality[0] == ''


def test_links_are_not_followed(tmp_path, caplog):
    write(tmp_path / 'in/a')
    write(tmp_path / 'elsewhere/b', values(1))
    (tmp_path / 'in/out').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'in/file').symlink_to(tmp_path / 'elsewhere/b')
    (tmp_path / 'in/circle').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/self').symlink_to(tmp_path / 'in/self')
    assert len(imported(tmp_path)[0]) == 1 and '4 links are not followed' in caplog.text


def test_names_of_files(tmp_path):
    for k, name in enumerate(('é名', 'x' * 250, '.hidden', 'a b;c', 'image.txt')):
        write(tmp_path / 'in' / name, values(k), ImagePositionPatient=[0, 0, k])
    df, _ = imported(tmp_path)
    assert len(df) == 4 and all(path.isascii() and len(path) < 100 for path in df.image)


def test_copies_and_objects_without_images(tmp_path, caplog):
    ds = dataset(values())
    (tmp_path / 'in').mkdir()
    for name in 'ab':
        ds.save_as(tmp_path / 'in' / name, enforce_file_format=True)
    report = dataset(values(), Modality='SR', Rows=None, Columns=None, PixelData=None)
    report.save_as(tmp_path / 'in/report', enforce_file_format=True)
    write(tmp_path / 'in/scout', values(3), ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER'], SeriesInstanceUID='1.2.9')
    assert len(imported(tmp_path)[0]) == 1
    for said in ('1 copy of an image is', '1 DICOM file holds no image', '1 localizer is left out'):
        assert said in caplog.text


@pytest.mark.parametrize('options', [dict(slices=0), dict(window='bones'), dict(plane='oblique'), dict(patient='(')])
def test_settings_that_cannot_be(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        settings_of(tmp_path, **options)


def test_a_window_of_ct_is_not_one_of_mr(tmp_path):
    write(tmp_path / 'in/a', **mr())
    with pytest.raises(ManifestError, match="the window 'bone' is one of CT; this is MR"):
        imported(tmp_path, window='bone')


# ---------------------------------------------------------------- peers


def series_of_peer(folder):
    sitk = pytest.importorskip('SimpleITK')
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return sitk.GetArrayFromImage(image), image.GetSpacing(), np.reshape(image.GetDirection(), (3, 3)), sitk


@pytest.mark.parametrize(('slope', 'gap'), [(1, 2.0), (2, 0.5)])
def test_values_and_spacing_are_those_of_a_peer(tmp_path, slope, gap):
    volume(tmp_path / 'in', gap=gap, RescaleSlope=slope)
    array, spacing, direction, _ = series_of_peer(tmp_path / 'in')
    df, images = imported(tmp_path)
    np.testing.assert_array_equal(np.stack(images).astype(int) - df.offset.astype(int)[0], array)
    assert {*df.spacing_mm} == {spacing[0]} == {spacing[1]} and {*df.plane} == {'axial'}
    assert np.abs(direction[:, 2]).argmax() == 2 and spacing[2] == pytest.approx(gap)


@pytest.mark.parametrize('orientation', [SAGITTAL, CORONAL, AXIAL, [0, -1, 0, 0, 0, 1], [0, 0, 1, -1, 0, 0]])
def test_reformats_are_those_of_a_peer(tmp_path, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(5):
        place = [float(v) for v in normal * 0.5 * k]
        write(tmp_path / f'in/{k}', values(k), ImageOrientationPatient=orientation, ImagePositionPatient=place)
    sitk = series_of_peer(tmp_path / 'in')[3]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / 'in')))
    peer = sitk.GetArrayFromImage(sitk.DICOMOrient(reader.Execute(), 'LPS'))  # (head, back, left)
    shown = dict(sagittal=peer[::-1].transpose(2, 0, 1)[::-1], coronal=peer[::-1].transpose(1, 0, 2)[::-1], axial=peer)
    for plane, wanted in shown.items():
        _, images = imported(tmp_path, plane, plane=plane)
        np.testing.assert_array_equal(np.stack(images).astype(int) - 1024, wanted)


@pytest.mark.skipif(not REAL.is_dir(), reason='real CT: MEDSOFT_REALSPINE is not set, or has no ct_dicom')
def test_a_real_ct(tmp_path):
    options = settings_of(tmp_path)
    df = import_sources(dicom_sources(REAL, options), tmp_path / 'out', workers=1).df
    array, spacing, _, _ = series_of_peer(REAL)
    images = np.stack([read_image(tmp_path / 'out' / path) for path in df.image]).astype(int) - 1024
    np.testing.assert_array_equal(images, array)
    assert {*df.plane} == {'axial'} and df.spacing_mm[0] == pytest.approx(spacing[0])
    assert images.min() <= -990 and images.max() > 300
    assert len(df) == 20 and df.patient_id.nunique() == 1
