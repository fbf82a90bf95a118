"""A manifest of real lumbar MR for the training of a base: slices at 1 mm a pixel, with vertebral bodies.

    python benchmarks/real_slices.py spider_lumbar --out data/real-slices
    medsoft data validate data/real-slices/manifest.csv

The folder has `images/`, `index.csv` (columns file, patient_id, sequence and pixel_spacing_mm_of_series) and
`discs.csv` (file, ivd_label, x0, y0, x1, y1: boxes of discs in pixels, empty where nobody drew them). Patients get the
prefix spider-, so that they are told from patients of your own.

The stated spacing counts where it is not known to be wrong: from the disc L4/5 to the disc L5/S1 it is 25 to 46 mm.
Where it is not, the image is scaled so that this distance is 35 mm. An image without these two boxes is 280 mm wide.
Bodies lie between neighbouring boxes; an image without boxes has none. Every patient is in train or in test.

All slices have the label healthy, though all patients have back pain: what is learned from them is the anatomy of the
lumbar spine and the look of MR, not what is a disease.

The slices are those of SPIDER (van der Graaf et al., Scientific Data 11, 264, 2024) under CC BY 4.0: what is made of
them, weights included, may be given away with attribution.
"""

import argparse, ast
from pathlib import Path
import numpy as np, pandas as pd
from PIL import Image
from medsoft_nb.core.folders import check_empty, file_name, new_folder
from medsoft_nb.core.images import read_image, write_image
from medsoft_nb.core.logs import progress
from medsoft_nb.core.words import counted
from medsoft_nb.data.columns import HEALTHY, ManifestError
from medsoft_nb.data.folder import image_name
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.splits import split
from medsoft_nb.data.tables import read_cells
from medsoft_nb.lesions.bodies import bodies_between, order_discs

MODALITIES = dict(t1='MRI T1', t2='MRI T2')  # In the words of the knowledge base
LEVELS = ('1', '2')  # Labels of the discs L5/S1 and L4/5
DISTANCES = (25, 46)  # Between the two in mm, where the spacing is right
DISTANCE = 35  # The same where it is wrong
WIDTH = 280  # Of an image without boxes, in mm
SHARES = (0.7, 0, 0.3)  # Of the patients in train, val and test
CORNERS = ['x0', 'y0', 'x1', 'y1']
NEEDED = dict(
    index=['file', 'patient_id', 'sequence', 'pixel_spacing_mm_of_series'], discs=['file', 'ivd_label', *CORNERS]
)


def read(folder: Path, name: str) -> pd.DataFrame:
    "One of the two tables as text; `ManifestError` where it is not there or lacks a column"
    path = folder / f'{name}.csv'
    if not path.is_file():
        raise ManifestError(f'{folder} has no {path.name}. Give the folder that holds it beside images/.')
    df = read_cells(path)
    lacking = [column for column in NEEDED[name] if column not in df]
    if lacking:
        raise ManifestError(f'{path} lacks the column {lacking[0]!r}. Found: {", ".join(df.columns)}.')
    return df


def boxes_by_file(discs: pd.DataFrame) -> dict:
    "File -> table of its boxes; rows without a box are left out"
    corners = discs[CORNERS].apply(pd.to_numeric, errors='coerce')
    drawn = discs.assign(**corners)[corners.notna().all(axis=1)]
    return dict(list(drawn.groupby('file')))


def stated_spacing(cell: str) -> float | None:
    "Side of a pixel in mm out of a cell such as '[.625, .625]'; `None` where it is no size, or pixels are not square"
    try:
        sizes = np.atleast_1d(np.array(ast.literal_eval(cell), float))
    except (ValueError, SyntaxError, TypeError):
        return None
    right = np.isfinite(sizes).all() and len(sizes) and sizes.min() > 0 and np.ptp(sizes) < 0.01 * sizes.min()
    return float(sizes[0]) if right else None


def lowest_distance(boxes: pd.DataFrame | None) -> float | None:
    "Pixels from the middle of the disc L4/5 to that of L5/S1; `None` unless each of them has one box"
    if boxes is None:
        return None
    found = [order_discs(boxes.loc[boxes.ivd_label == level, CORNERS].to_numpy()) for level in LEVELS]
    if [len(discs) for discs in found] != [1, 1]:
        return None
    return float(np.hypot(*(found[0][0].centre - found[1][0].centre)))


def spacing(cell: str, boxes: pd.DataFrame | None, width: int) -> tuple[float, str]:
    "Side of a pixel in mm, and where it is from: stated, discs or width"
    stated, pixels = stated_spacing(cell), lowest_distance(boxes)
    if not pixels:
        return WIDTH / width, 'width'
    if stated and DISTANCES[0] <= stated * pixels <= DISTANCES[1]:
        return stated, 'stated'
    return DISTANCE / pixels, 'discs'


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    "An 8-bit image in another size, antialiased"
    shape = [max(1, round(n * factor)) for n in image.shape[::-1]]
    grey = Image.fromarray(np.float32(image)).resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(grey).round().clip(0, 255).astype(np.uint8)


def write_slice(folder: Path, row: dict, boxes: pd.DataFrame | None, out: Path) -> dict:
    "Write image and bodies of one row at 1 mm a pixel; gives the row of the manifest"
    if row['sequence'] not in MODALITIES:
        raise ManifestError(f'{row["file"]}: the sequence {row["sequence"]!r} is unknown; {" or ".join(MODALITIES)}.')
    image = read_image(folder / row['file'])
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ManifestError(f'{row["file"]} has type {image.dtype} and shape {image.shape}; 8-bit grey is needed.')
    mm, source = spacing(row['pixel_spacing_mm_of_series'], boxes, image.shape[1])
    name = file_name(image_name(Path(row['file']).name))
    small = scaled(image, mm)
    write_image(out / 'images' / f'{name}.png', small)
    made = dict(image_id=name, patient_id=f'spider-{row["patient_id"]}', image=f'images/{name}.png', label=HEALTHY)
    made |= dict(modality=MODALITIES[row['sequence']], plane='sagittal', spacing_mm=1, origin='real', scale=source)
    bodies = bodies_between([] if boxes is None else boxes[CORNERS].to_numpy() * mm, small.shape)
    if bodies.any():
        made['structures'] = f'structures/{name}.png'
        write_image(out / made['structures'], bodies)
    return made


def make_slices(folder: Path, out: Path, seed: int = 0) -> Manifest:
    "Write images, bodies and manifest, all or nothing"
    check_empty(out)
    index, boxes = read(folder, 'index'), boxes_by_file(read(folder, 'discs'))
    with new_folder(out) as part:
        records = progress(index.to_dict('records'), 'slices')
        rows = [write_slice(folder, row, boxes.get(row['file']), part) for row in records]
        made = split(Manifest(pd.DataFrame(rows), part), SHARES, seed)
        validate(made).save(part / 'manifest.csv')
    return Manifest.load(out / 'manifest.csv')


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, help='holds index.csv, discs.csv and images/')
    parser.add_argument('--out', type=Path, required=True, help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='of the split')
    a = parser.parse_args(argv)
    try:
        made = make_slices(a.folder, a.out, a.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for side, rows in made.df.groupby('split'):
        bodied = counted(int((rows.structures != '').sum()), 'slice')
        print(f'{side}: {counted(rows.patient_id.nunique(), "patient")}, {len(rows)} slices, {bodied} with bodies.')
    print(f'Scale by: {made.df["scale"].value_counts().to_dict()}. {a.out / "manifest.csv"}')


if __name__ == '__main__':
    main()
