"""Memory and speed of `medsoft data import` for few and for many small files that are made here.

    python benchmarks/importing.py --files 200 2000 20000 --kinds png nifti dicom

Each import runs in a process of its own, with two worker processes. `parent` and `worker` are the peaks of their resident
memory in MiB, `ratio` is that of the parent to the one with the fewest files.
"""

import argparse, logging, os, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, psutil
from medsoft_nb.core.images import write_image
from medsoft_nb.core.logs import get_logger

RULE = dict(patient='(?P<patient>P[0-9]+)', default_label='healthy')


def noise(k: int, shape: tuple = (32, 32)) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 2000, shape).astype(np.uint16)


def write_png(folder: Path, k: int) -> None:
    write_image(folder / 'healthy' / f'P{k:06d}.png', noise(k))


def write_nifti(folder: Path, k: int) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(noise(k, (32, 32, 3)), np.diag([0.5, 0.5, 0.5, 1])), folder / f'P{k:06d}.nii')


def write_dicom(folder: Path, k: int) -> None:
    "Series of ten slices"
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.SOPClassUID, ds.SOPInstanceUID = (
        ExplicitVRLittleEndian,
        MRImageStorage,
        f'1.2.{k}',
    )
    ds.Modality, ds.PatientID, ds.StudyInstanceUID = 'MR', f'P{k // 10:06d}', f'1.3.{k // 10}'
    ds.SeriesInstanceUID, ds.InstanceNumber = f'1.4.{k // 10}', k % 10
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 32, 32, 1, 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelSpacing, ds.ImageOrientationPatient = [0.5, 0.5], [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient, ds.PixelData = [0, 0, 3 * (k % 10)], noise(k).tobytes()
    ds.save_as(folder / f'{k:06d}.dcm', enforce_file_format=True)


SETTINGS = dict(
    png=(write_png, RULE),
    nifti=(write_nifti, RULE | dict(slices='middle', plane='axial')),
    dicom=(write_dicom, dict(default_label='healthy')),
)


def import_folder(source: Path, kind: str) -> None:
    from medsoft_nb.data.sources import import_any

    logging.disable(logging.WARNING)
    import_any(source, source.with_name('out'), workers=2, **SETTINGS[kind][1])


def watch(command: list, env: dict) -> dict:
    "Run a command; seconds, and peaks of memory of it and of the largest of its workers in MiB"
    begun, peaks = time.perf_counter(), dict(parent=0, worker=0)
    process = subprocess.Popen(command, env=env)
    known = psutil.Process(process.pid)
    while process.poll() is None:
        for name, processes in dict(parent=[known], worker=known.children(recursive=True)).items():
            for one in processes:
                try:
                    peaks[name] = max(peaks[name], one.memory_info().rss / 2**20)
                except psutil.Error:  # it has just ended
                    pass
        time.sleep(0.02)
    assert process.returncode == 0
    return dict(seconds=time.perf_counter() - begun, **peaks)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--files', type=int, nargs='+', default=[200, 2000, 20000])
    parser.add_argument('--kinds', nargs='+', choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument('--source', type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.source:
        import_folder(a.source, a.kinds[0])
        return
    rows = []
    for kind in a.kinds:
        for n in sorted(a.files):
            with tempfile.TemporaryDirectory() as d:
                source = Path(d) / 'in'
                source.mkdir()
                list(map(partial(SETTINGS[kind][0], source), range(n)))
                env = {**os.environ, 'MEDSOFT_SALT': str(Path(d) / 'salt'), 'MEDSOFT_PROGRESS': '0'}
                command = [sys.executable, __file__, '--kinds', kind, '--source', str(source)]
                rows.append(dict(kind=kind, files=n, **watch(command, env)))
            get_logger().info('%s', rows[-1])
    df = pd.DataFrame(rows)
    df['ratio'] = df.parent / df.groupby('kind').parent.transform('first')
    df['worker ratio'] = df.worker / df.groupby('kind').worker.transform('first')
    df['ms a file'] = 1000 * df.seconds / df.files
    print(df.round(2).to_markdown(index=False))


if __name__ == '__main__':
    main()
