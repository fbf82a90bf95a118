"""The benchmark `real-glioma`: a manifest of FLAIR slices of brains, and what tells its labels apart without a lesion.

    python benchmarks/real_glioma.py lgg_flair --out data/real-glioma
    medsoft data validate data/real-glioma/manifest.csv --knowledge data/real-glioma/knowledge.yml
    medsoft reproduce --profile real-glioma --manifest data/real-glioma/manifest.csv \
      --knowledge data/real-glioma/knowledge.yml --out runs/real-glioma --jobs 2

    python benchmarks/real_glioma.py lgg_flair --out data/glioma-du --test-site DU   # train on four sites, test on one

The folder has `images/`, `masks/` (of the slices with a glioma, under the same names) and `index.csv` with the
columns file, patient, site, slice, position (0 at the skull base, 1 at the vertex) and label (healthy or glioma).
Every patient has a tumour: healthy is a property of the slice. So patients are shared out whole, and each side keeps
as many healthy as diseased slices of each height.

The slices are those of TCGA-LGG with the outlines of Buda et al. (2019, doi:10.1016/j.compbiomed.2019.05.002). Their
licence, CC BY-NC-SA 4.0, admits evaluation here and no more: neither they nor weights that learned from them are part
of this project. Do not give away what this script writes, nor what was trained on it, under another licence.
"""

import argparse, tempfile
from pathlib import Path
import numpy as np, pandas as pd
from medsoft_nb.core.files import write_json, write_text
from medsoft_nb.core.folders import check_empty, new_folder
from medsoft_nb.core.images import pad_to_square, read_image, read_mask, to_uint8, write_image
from medsoft_nb.core.words import counted
from medsoft_nb.data.columns import HEALTHY, ManifestError, SPLITS
from medsoft_nb.data.folder import image_name, import_folder, ImportSettings
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.data.masks import mask_fault
from medsoft_nb.data.shortcuts import disease_shares, matched, properties, slice_positions
from medsoft_nb.data.splits import split
from medsoft_nb.data.tables import read_table
from medsoft_nb.data.traits import measure
from medsoft_nb.painting.window import resize, to_unit
from medsoft_nb.statistics.intervals import bootstrap_auc

DISEASE = 'glioma'
COLUMNS = dict(image_id='file', patient_id='patient', label='label', site='site', slice='slice', position='position')
SHARES = (0.42, 0.15, 0.43)  # Of the patients in train, val and test
SHARES_OF_OTHERS = (0.8, 0.2, 0)  # The same where the patients of a site are the test side
MANY = 30  # Test patients from which on intervals are of use
LEAST = 3  # Test patients of a class, for an interval
KNOWLEDGE = f"""# What a glioma looks like on FLAIR, for `--knowledge`; prompts have the first phrase.
organ: brain
diseases:
  {DISEASE}:
    appearance:
      any: mass with soft margin
      mr-flair: [bright patch with soft margin, bright swollen tissue]
"""


def read_rows(folder: Path) -> Manifest:
    "Rows of `index.csv`; `ManifestError` where they cannot be shared out and matched"
    table = folder / 'index.csv'
    if not table.is_file():
        raise ManifestError(f'{folder} has no index.csv. Give the folder that holds it beside images/ and masks/.')
    df = read_table(table, COLUMNS)
    if set(df.label) != {HEALTHY, DISEASE}:
        raise ManifestError(f'{table} has the labels {sorted(set(df.label))}; {HEALTHY} and {DISEASE} are needed.')
    unknown = df[slice_positions(df, finite=True).isna()]
    if len(unknown):
        where = f'row {unknown.index[0] + 2} of {table}: position is {unknown.position.iloc[0]!r}'
        raise ManifestError(f'{where}. Give a number from 0, at the skull base, to 1, at the vertex.')
    sites = df.groupby('patient_id').site.nunique()
    if sites.max() > 1:
        raise ManifestError(f'patient {sites.idxmax()!r} of {table} is from {sites.max()} sites. Name one.')
    return Manifest(df.assign(image=df.image_id), folder)


def share_out(manifest: Manifest, test_site: str | None = None, seed: int = 0) -> Manifest:
    "Fill the column `split`; all patients have the disease, so there is nothing to stratify by"
    sites = manifest.df.groupby('site').patient_id.nunique()
    if test_site is not None and test_site not in sites:
        known = ', '.join(f'{site} ({counted(n, "patient")})' for site, n in sites.items())
        raise ValueError(f'there is no site {test_site!r}. Known: {known}.')
    others = manifest.rows(manifest.df.site != test_site).assign(label=DISEASE)
    shared = split(others, SHARES if test_site is None else SHARES_OF_OTHERS, seed).df
    split_of = dict(zip(shared.patient_id, shared.split))
    return manifest.assign(split=manifest.df.patient_id.map(split_of).fillna('test'))


def match_heights(manifest: Manifest, seed: int = 0) -> Manifest:
    "As many healthy as diseased slices of each height on each side; `ManifestError` where too few patients are left"
    positions, kept = slice_positions(manifest.df), []
    for rows in manifest.df.groupby('split').indices.values():
        kept += list(rows[matched(manifest.df.iloc[rows], positions.iloc[rows], seed=seed)])
    chosen = manifest.rows(np.sort(np.array(kept, int)))
    for part in SPLITS[1:]:
        patients = chosen.where(split=part).df.groupby('label').patient_id.nunique()
        n, least = patients.reindex([HEALTHY, DISEASE], fill_value=0).min(), LEAST if part == 'test' else 1
        if n < least:
            raise ManifestError(
                f'{part} has healthy and diseased slices of the same height from {counted(n, "patient")}; {least} or '
                'more are needed. Add patients, or choose another seed or site.'
            )
    return chosen


def shrink(manifest: Manifest, i: int, size: int, out: Path) -> None:
    "Write image and lesion mask of a row as squares of `size` pixels; a lesion keeps one pixel at least"
    row = manifest.df.iloc[i]
    file, image = f'{image_name(row.image)}.png', read_image(manifest.root / 'images' / row.image)
    side = max(image.shape[:2])
    if side < size:
        raise ValueError(f'size is {size}, but image {row.image} has {side} pixels. Choose no more than that.')
    grey = resize(pad_to_square(to_unit(image)), size)
    write_image(out / 'images' / file, to_uint8(grey.clip(0, 1)))
    mask_file = manifest.root / 'masks' / row.image
    if row.label == HEALTHY and not mask_file.is_file():
        return
    mask = read_mask(mask_file)
    if fault := mask_fault(mask, image.shape[:2], binary=True):
        raise ManifestError(f'mask {mask_file} {fault}')
    if mask.any() != (row.label == DISEASE):
        found = 'outlines a lesion' if mask.any() else 'is empty'
        raise ManifestError(f'mask {mask_file} {found}, but the label is {row.label}. Mend index.csv or the mask.')
    share = resize(pad_to_square(np.float32(mask > 0)), size)
    write_image(out / 'masks' / file, (share > 0.5) | (share == share.max()) & (share > 0))


def shortcuts(manifest: Manifest, seed: int = 0) -> pd.DataFrame:
    "AUC on the test side of what needs no look at a lesion, with intervals over patients, as the arms are measured"
    test = manifest.where(split='test')
    numbers, _ = properties(test.df, measure(test, workers=1).table)
    diseased, place = (test.df.label != HEALTHY).astype(int), numbers['slice position']
    scores = {
        'position': place,
        'distance from the middle position': (place - place.median()).abs(),
        'brain area': numbers['area of the body'],
        'mean grey': numbers['mean grey'],
        'site': disease_shares(diseased, test.df.site, test.df.patient_id),
    }
    rows = test.df[['image_id', 'patient_id']].assign(y=diseased, seed=0)
    table = bootstrap_auc(pd.concat([rows.assign(arm=name, score=value) for name, value in scores.items()]), seed=seed)
    return table.rename(columns=dict(arm='property', value='auc'))[['property', 'auc', 'lo', 'hi']]


def make_benchmark(folder: Path, out: Path, size: int = 128, test_site: str | None = None, seed: int = 0) -> dict:
    "Write manifest, images, knowledge base and `shortcuts.json`, all or nothing; gives what the JSON file says"
    if size < 64:
        raise ValueError(f'size is {size}; lesions need images of 64 pixels or more.')
    check_empty(out)
    rows = match_heights(share_out(read_rows(folder), test_site, seed), seed)
    with tempfile.TemporaryDirectory() as tmp, new_folder(out) as part:
        for i in range(len(rows)):
            shrink(rows, i, size, Path(tmp))
        rows.df[['image_id', 'patient_id', 'label', 'split', 'site', 'slice', 'position']].to_csv(f'{tmp}/table.csv')
        settings = ImportSettings(table=f'{tmp}/table.csv', lesion_masks=f'{tmp}/masks', body=True)
        made = import_folder(f'{tmp}/images', part, settings.replace(modality='FLAIR', plane='axial'))
        patients = made.df.groupby('split').patient_id.nunique().to_dict()
        found = dict(size=size, test_site=test_site, seed=seed, images=made.df.split.value_counts().to_dict())
        found |= dict(patients=patients, auc=shortcuts(made, seed).to_dict('records'))
        write_text(part / 'knowledge.yml', KNOWLEDGE)
        write_json(part / 'shortcuts.json', found)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, help='holds index.csv, images/ and masks/')
    parser.add_argument('--out', type=Path, required=True, help='folder to make')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels')
    parser.add_argument('--test-site', help='its patients are the test side, those of the others train and val')
    parser.add_argument('--seed', type=int, default=0, help='of split and matching')
    a = parser.parse_args(argv)
    try:
        found = make_benchmark(a.folder, a.out, a.size, a.test_site, a.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    images, patients = found['images'], found['patients']
    sides = [f'{part} {counted(patients[part], "patient")}, {images[part]} slices' for part in SPLITS[1:]]
    print(f'{a.out / "manifest.csv"}: {"; ".join(sides)}.')
    if patients['test'] < MANY:
        print(f'With fewer than {MANY} test patients, intervals are wide.')
    print('AUC on the test side without a look at lesions. 0.5 is chance; below it, values are smaller with a glioma.')
    print(pd.DataFrame(found['auc']).round(3).to_markdown(index=False))


if __name__ == '__main__':
    main()
