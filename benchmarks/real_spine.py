"""The benchmark `real-spine`: which finding of a lumbar disc can be learned from one slice, so that lesions may help?

    python benchmarks/real_spine.py spider_lumbar --out runs/real-spine
    python benchmarks/real_spine.py spider_lumbar --out runs/modic --findings modic --backbones cnn --seeds 1

For each finding a manifest is made, shared out by patient, and made scarce, as `prepare` does. Classifiers then learn
from the few diseased images (`real-only`, `classical`) and from all of them (`oracle`, and with classical augmentation
`oracle+augmented`). Synthetic images stand between these two. So a benchmark can answer whether they help where the
oracle reaches 0.90 and the few real images alone stay at 0.75 or below; where it cannot, no lesion is painted.
`calibration.csv` holds the AUCs on patients that no classifier has seen, with intervals over patients and seeds, and
that of the disc's level alone: lower discs are ill more often.

The folder is that of `real_slices.py`, whose `discs.csv` also has the columns herniation, narrowing, modic, pfirrmann
(the grade of degeneration, 4 and 5 with low signal) and spondylolisthesis. T2 alone is used. Findings of discs are
read in a window of 1.7 widths of the disc around its box, where somebody drew one and the window lies inside of the
slice; those of slices in the whole slice. Everybody in the data has back pain: healthy means that the one finding is
absent.

The slices are those of SPIDER (van der Graaf et al., Scientific Data 11, 264, 2024) under CC BY 4.0.
"""

import argparse
from pathlib import Path
from typing import NamedTuple
import numpy as np, pandas as pd
from medsoft_nb.core.files import make_folder, read_json, sha256, write_json, write_text
from medsoft_nb.core.folders import check_empty, file_name, new_folder
from medsoft_nb.core.images import read_image, write_image
from medsoft_nb.core.logs import progress
from medsoft_nb.data.columns import HEALTHY, ManifestError
from medsoft_nb.data.folder import image_name
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.splits import make_scarce, split
from medsoft_nb.data.variants import find_variants
from medsoft_nb.evaluation.arms import build_arms, train_and_score
from medsoft_nb.evaluation.classify import ClassifierSettings
from medsoft_nb.evaluation.variants import vary_arms
from medsoft_nb.statistics.intervals import bootstrap_auc
from real_slices import boxes_by_file, CORNERS, MODALITIES, read, scaled, spacing

SIDE = 64  # Pixels of a window around a disc
WIDTHS = 1.7  # The same in widths of the disc's box
LEAST = 8  # Pixels that a box is wide at least
SHARES = (0.5, 0.1, 0.4)  # Of the patients in train, val and test
CONTROLS = ('real-only', 'classical')
RATES = {'cnn': 0.004, 'efficientnet-lite0': 0.0005}  # Learning rate of each classifier
CLEAR, LOW = 0.9, 0.75  # The oracle's least AUC, and the largest of the few real images


class Finding(NamedTuple):
    "What makes an image diseased, and how it is learned"

    unit: str  # disc or slice
    few: tuple  # Numbers of diseased training images that are kept, one after the other
    size: int  # Side of the classifier's images in pixels
    present: str  # In words of `discs.csv`, for `pandas.eval`
    absent: str


FINDINGS = {
    'narrowing': Finding('disc', (5, 20), SIDE, 'narrowing == 1', 'narrowing == 0'),
    'dark-narrowing': Finding(
        'disc', (5, 20), SIDE, 'narrowing == 1 and pfirrmann >= 4', 'narrowing == 0 and pfirrmann <= 3'
    ),
    'modic': Finding('disc', (5, 20), SIDE, 'modic > 0', 'modic == 0'),
    'herniation': Finding('slice', (10,), 192, 'herniation == 1', 'herniation == 0'),
    'spondylolisthesis': Finding('slice', (5,), 192, 'spondylolisthesis == 1', 'spondylolisthesis == 0'),
}
GRADES = ('herniation', 'narrowing', 'spondylolisthesis', 'modic', 'pfirrmann')


def read_grades(folder: Path) -> pd.DataFrame:
    "`discs.csv` of T2 slices with grades as numbers; `ManifestError` where a column is not there"
    discs = read(folder, 'discs')
    lacking = [column for column in ('sequence', *GRADES) if column not in discs]
    if lacking:
        raise ManifestError(f'{folder / "discs.csv"} lacks the column {lacking[0]!r}. Found: {", ".join(discs)}.')
    grades = discs[list(GRADES)].apply(pd.to_numeric, errors='coerce')
    words = grades.isna() & (discs[list(GRADES)].apply(lambda column: column.str.strip()) != '')
    if words.any().any():
        row, column = words.stack()[lambda w: w].index[0]
        where = f'row {row + 2} of {folder / "discs.csv"}: {column}'
        raise ManifestError(f'{where} is {discs[column][row]!r}. Give a number, or nothing where it is not known.')
    return discs.assign(**grades)[discs.sequence.str.lower() == 't2'].reset_index(drop=True)


def window(image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    "`(SIDE, SIDE)` around the middle of a box `(x0, y0, x1, y1)`; `None` where it does not lie inside of the image"
    x, y = ((box[:2] + box[2:] - SIDE) / 2).round().astype(int)
    inside = 0 <= y <= image.shape[0] - SIDE and 0 <= x <= image.shape[1] - SIDE
    return image[y : y + SIDE, x : x + SIDE] if inside else None


def check_boxes(boxes: pd.DataFrame, shape: tuple) -> None:
    "`ManifestError` where a box is turned round, tiny, or not inside its image `(H, W)`"
    for row in boxes.itertuples():
        right = LEAST <= row.x1 - row.x0 and 0 < row.y1 - row.y0 and min(row.x0, row.y0) >= 0
        if not right or row.x1 > shape[1] or row.y1 > shape[0]:
            box = ', '.join(f'{getattr(row, name):g}' for name in CORNERS)
            raise ManifestError(
                f'{row.file}, disc {row.ivd_label}: the box ({box}) is none of an image of {shape[1]} x {shape[0]} '
                f'pixels. Give x0, y0, x1, y1 with x0 < x1 and y0 < y1 inside of it, {LEAST} pixels wide or more.'
            )


def is_present(rows: pd.DataFrame, finding: Finding) -> bool | None:
    "Of one disc or of any disc of a slice; `None` where a grade is neither present nor absent, or not known"
    if rows.eval(finding.present).any():
        return True
    return False if rows.eval(finding.absent).all() else None


def record(name: str, slice_row: dict, label: str) -> dict:
    "What a manifest says of an image"
    made = dict(image_id=name, patient_id=f'spider-{slice_row["patient_id"]}', image=f'images/{name}.png', label=label)
    return made | dict(modality=MODALITIES['t2'], plane='sagittal', origin='real')


def write_disc(image: np.ndarray, box: np.ndarray, name: str, diseased: bool, out: Path) -> dict | None:
    "Write the window around a disc, and its box as a mask where it is diseased; gives columns, or `None`: no window"
    factor = SIDE / WIDTHS / (box[2] - box[0])
    image, box = scaled(image, factor), box * factor
    found = window(image, box)
    if found is None:
        return None
    write_image(out / f'images/{name}.png', found)
    if not diseased:
        return {}
    x0, y0, x1, y1 = box.round().astype(int)
    mask = np.zeros(image.shape, bool)
    mask[y0:y1, x0:x1] = True
    write_image(out / f'masks/{name}.png', window(mask, box))
    return dict(lesion_mask=f'masks/{name}.png')


def write_slice(folder: Path, row: dict, graded: pd.DataFrame, boxes, name: str, out: Path) -> list:
    "Write what one slice holds of a finding; gives rows of the manifest"
    image = read_image(folder / row['file'])
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ManifestError(f'{row["file"]} has type {image.dtype} and shape {image.shape}; 8-bit grey is needed.')
    image_id, finding = file_name(image_name(Path(row['file']).name)), FINDINGS[name]
    if finding.unit == 'slice':
        found = is_present(graded, finding)
        if found is None:
            return []
        mm, _ = spacing(row['pixel_spacing_mm_of_series'], boxes, image.shape[1])
        write_image(out / f'images/{image_id}.png', scaled(image, mm))
        return [record(image_id, row, name if found else HEALTHY) | dict(spacing_mm=1)]
    if boxes is not None:
        check_boxes(boxes, image.shape)
    rows = []
    for level, box in () if boxes is None else zip(boxes.ivd_label, boxes[CORNERS].to_numpy()):
        found = is_present(graded[graded.ivd_label == level], finding) if (graded.ivd_label == level).any() else None
        if found is None:
            continue
        own = f'{image_id}-{file_name(level)}'
        columns = write_disc(image, box, own, found, out)
        if columns is not None:
            rows.append(record(own, row, name if found else HEALTHY) | columns | dict(level=level))
    return rows


def make_finding(folder: Path, out: Path, name: str, seed: int = 0) -> Manifest:
    "Write images and manifest of a finding, all or nothing"
    check_empty(out)
    index, graded = read(folder, 'index'), read_grades(folder)
    boxes, by_file = boxes_by_file(graded), dict(list(graded.groupby('file')))
    if strangers := sorted(set(by_file) - set(index.file)):
        raise ManifestError(f'{folder / "discs.csv"} has discs of {strangers[0]}, which index.csv does not name.')
    if nameless := [row['file'] for row in index.to_dict('records') if not row['patient_id'].strip()]:
        raise ManifestError(f'{folder / "index.csv"}: {nameless[0]} has no patient_id. Name the patient.')
    rows = []
    with new_folder(out) as part:
        for row in progress(index.to_dict('records'), name):
            if row['file'] in by_file:
                rows += write_slice(folder, row, by_file[row['file']], boxes.get(row['file']), name, part)
        if {row['label'] for row in rows} != {HEALTHY, name}:
            raise ManifestError(f'{folder} has not both images with and without {name}. Leave the finding out.')
        made = split(Manifest(pd.DataFrame(rows).fillna(''), part), SHARES, seed)
        validate(made).save(part / 'manifest.csv')
    return Manifest.load(out / 'manifest.csv')


def calibrate(manifest: Manifest, few: int, settings: ClassifierSettings, seeds: int, keep: Path) -> pd.DataFrame:
    "AUC of the few real images and of all of them, with intervals over patients and seeds"
    varied = find_variants(['oracle+augmented'], [], CONTROLS, False)
    scores = []
    for seed in range(seeds):
        scarce, withheld = make_scarce(manifest, few, seed)
        train, val, test = (scarce.where(split=name) for name in ('train', 'val', 'test'))
        arms = vary_arms(build_arms(train, withheld, {}, CONTROLS), varied, {})
        for name, arm in arms.items():
            file = keep / f'{settings.backbone}-{few}-{file_name(name)}-{seed}.json'
            scores.append(train_and_score(arm, test, settings, seed, val, file))
    aucs = bootstrap_auc(pd.concat(scores))
    return pd.concat([aucs, bootstrap_auc(level_scores(test))]) if 'level' in test.df else aucs


def check_number(manifest: Manifest, few: tuple, name: str) -> None:
    "`ValueError` unless there are more diseased training images than any of the numbers that are kept"
    n = int((manifest.where(split='train').df.label == name).sum())
    if n <= max(few):
        raise ValueError(
            f'{name}: {max(few)} diseased training images are to be kept, but there are {n}: nothing is left for the '
            'oracle. Add patients, or leave the finding out (--findings).'
        )


def level_scores(test: Manifest) -> pd.DataFrame:
    "What is known without a look: lower discs, which have smaller numbers, are ill more often"
    rows = test.df[['image_id', 'patient_id', 'label']].assign(y=(test.df.label != HEALTHY).astype(int))
    return rows.assign(arm='level alone', seed=0, split='test', score=-pd.to_numeric(test.df.level, errors='coerce'))


def verdict(aucs: pd.Series) -> str:
    "Whether a benchmark of this finding could answer: by the better oracle, and the few real images alone"
    oracle = max(aucs['oracle'], aucs['oracle+augmented'])
    return 'yes' if oracle >= CLEAR and aucs['real-only'] <= LOW else 'no'


def own_folder(folder: Path, out: Path) -> None:
    "`out` is new, or is of the same tables; `ValueError` where it holds something else"
    source = {f'{name}.csv': sha256(folder / f'{name}.csv') for name in ('index', 'discs')}
    note = out / 'source.json'
    if note.is_file():
        if read_json(note) != source:
            raise ValueError(f'{out} was made from other tables than {folder} holds now. Name another --out.')
        return
    check_empty(out)
    make_folder(out)
    write_json(note, source)


def make_table(folder: Path, out: Path, findings: list, backbones: list, seeds: int, steps: int) -> pd.DataFrame:
    "Calibrate findings, one after the other; scores that are there are kept"
    read(folder, 'index'), read_grades(folder)
    own_folder(folder, out)
    for name in dict.fromkeys(findings):
        finding, place, tables = FINDINGS[name], out / file_name(name), []
        file = place / 'data/manifest.csv'
        manifest = Manifest.load(file) if file.is_file() else make_finding(folder, place / 'data', name)
        check_number(manifest, finding.few, name)
        for backbone in dict.fromkeys(backbones):
            own = dict(backbone=backbone, learning_rate=RATES[backbone], image_size=finding.size)
            settings = ClassifierSettings(steps=steps, batch_size=16, **own)
            for few in finding.few:
                table = calibrate(manifest, few, settings, seeds, place / 'scores')
                answers = verdict(table.set_index('arm').value)
                tables.append(table.assign(finding=name, backbone=backbone, few=few, answers=answers))
        write_text(place / 'calibration.csv', pd.concat(tables).to_csv(index=False))
        found = [path for path in (out / file_name(each) / 'calibration.csv' for each in FINDINGS) if path.is_file()]
        table = pd.concat(map(pd.read_csv, found))
        write_text(out / 'calibration.csv', table.to_csv(index=False))
    return table


def number(text: str) -> int:
    "An integer of 1 or more, for argparse"
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of 1 or more')
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, help='holds index.csv, discs.csv and images/')
    parser.add_argument('--out', type=Path, required=True, help='folder of manifests, scores and calibration.csv')
    parser.add_argument('--findings', nargs='+', choices=FINDINGS, default=list(FINDINGS))
    parser.add_argument('--backbones', nargs='+', choices=RATES, default=list(RATES))
    parser.add_argument('--seeds', type=number, default=5, help='of classifiers and of the choice of few images')
    parser.add_argument('--steps', type=number, default=800, help='optimiser steps of each classifier')
    a = parser.parse_args(argv)
    try:
        table = make_table(a.folder, a.out, a.findings, a.backbones, a.seeds, a.steps)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    shown = table.assign(auc=[f'{r.value:.3f} [{r.lo:.3f}, {r.hi:.3f}]' for r in table.itertuples()])
    print(
        shown.pivot(index=['finding', 'backbone', 'few', 'answers'], columns='arm', values='auc')
        .reset_index()
        .to_markdown(index=False)
    )


if __name__ == '__main__':
    main()
