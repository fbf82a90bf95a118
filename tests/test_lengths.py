"Lengths in millimetres: the same phantoms at twice the pixels give the same figures."

import numpy as np, pandas as pd, pytest
from scipy import ndimage as ndi
from medsoft_nb.core.images import write_image
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.evaluation.crops import healthy_crops, lesion_crops
from medsoft_nb.evaluation.edges import border_rows, detectability, overlap, seam_strips
from medsoft_nb.evaluation.memorisation import memorisation_report
from medsoft_nb.evaluation.planted import plant_copies
from medsoft_nb.painting.paste import copy_paste
from medsoft_nb.painting.places import place_lesion
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training.samples import sample_donor_mask

GREY = 0.035  # Mean difference of a crop, of greys in [0, 1]
SEAM, DICE, HD95 = 0.15, 0.03, 0.4  # Difference of means over images: share of the edge ratio, Dice, mm
AUROC = 0.05  # Difference of detectabilities
OVERLAP = 0.94  # Dice of placed masks, at the least
DISTANCE = 0.05  # Difference of distances of planted copies
RAMPS = ('ramp 0', 'ramp 6')


def twice(manifest, out):
    "The images and masks of a manifest at twice the pixels, of 0.5 mm"
    rows = []
    for i, row in enumerate(manifest.df.to_dict('records')):
        image = ndi.zoom(np.float32(manifest.image(i)), 2, order=1, mode='nearest', grid_mode=True)
        row |= dict(image=f'images/{i}.png', spacing_mm=0.5, sha256='')
        write_image(out / row['image'], np.round(image).astype(np.uint8))
        for column in ('structures', 'lesion_mask'):
            if row[column]:
                mask = np.kron(manifest.mask(i, column), np.ones((2, 2), np.uint8)).astype(np.uint8)
                row[column] = f'{column}/{i}.png'
                write_image(out / row[column], mask)
        if row.get('soft_mask'):
            soft = ndi.zoom(manifest.soft_mask(i), 2, order=1, mode='nearest', grid_mode=True)
            row['soft_mask'] = f'soft/{i}.tif'
            write_image(out / row['soft_mask'], soft.clip(0, 1))
        rows.append(row)
    return Manifest(pd.DataFrame(rows), out)


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    "Name -> manifest at 1 mm and at 0.5 mm a pixel"
    d = tmp_path_factory.mktemp('lengths')
    m = make_benchmark('phantom-tumour', d / 'm', n_healthy=24, n_diseased=40, seed=5)
    healthy, diseased = m.where(label=HEALTHY), m.where(label=m.diseases)
    donors, held_out = diseased.rows(np.arange(12)), diseased.rows(np.arange(12, 40))
    made = dict(healthy=healthy, donors=donors, held_out=held_out, copies=plant_copies(donors, d / 'copies', 6))
    for name in RAMPS:
        ramp = float(name.split()[1])
        made[name] = copy_paste(healthy, donors, d / name, ['lytic'], n_per_label=16, ramp=ramp)
    return {name: (manifest, twice(manifest, d / f'{name} twice')) for name, manifest in made.items()}


def test_crops_show_the_same(pairs):
    for name in ('donors', 'copies'):
        small, large = pairs[name]
        crops, same = lesion_crops(small), lesion_crops(large)
        assert all(np.abs(a - b).mean() < GREY for a, b in zip(crops, same))
        wrong = lesion_crops(large.assign(spacing_mm=1))  # half of the lesion's surroundings
        assert np.mean([np.abs(a - b).mean() for a, b in zip(crops, wrong)]) > 2 * GREY
    (small, large), (donors, others) = pairs['healthy'], pairs['donors']
    pair = healthy_crops(small, donors, 4), healthy_crops(large, others, 4)
    assert all(np.abs(a - b).mean() < GREY for a, b in zip(*pair))


def test_an_unknown_scale_is_128_mm(pairs):
    large = pairs['donors'][1]
    for a, b in zip(lesion_crops(large), lesion_crops(large.assign(spacing_mm=''))):
        assert np.array_equal(a, b)


@pytest.mark.parametrize('name', RAMPS)
def test_borders_are_the_same(pairs, name):
    small, large = (
        border_rows(made, healthy).mean(numeric_only=True) for made, healthy in zip(pairs[name], pairs['healthy'])
    )
    assert abs(large.edge_ratio / small.edge_ratio - 1) < SEAM
    assert abs(large.dice - small.dice) < DICE and abs(large.hd95 - small.hd95) < HD95
    assert small.background_changed == large.background_changed == 0


@pytest.mark.parametrize('name', RAMPS)
def test_seams_are_as_easy_to_detect(pairs, name):
    found = [detectability(seam_strips(*pair)).value for pair in zip(pairs[name], pairs['healthy'])]
    assert abs(found[0] - found[1]) < AUROC


def test_a_changed_background_has_an_area(pairs, tmp_path):
    areas = []
    for k, (made, healthy) in enumerate(zip(pairs['ramp 6'], pairs['healthy'])):
        image = made.image(0).copy()
        corner = 8 * (k + 1)
        image[:corner, :corner] = 255 - image[:corner, :corner]
        write_image(tmp_path / f'{k}.png', image)
        one = Manifest(made.rows([0]).df.assign(image=str(tmp_path / f'{k}.png')), made.root)
        areas.append(border_rows(one, healthy).background_changed[0])
    assert areas == [64, 64]


def test_lesions_are_placed_alike(pairs):
    (small, large), (donors, others) = pairs['healthy'], pairs['donors']
    for k in range(6):
        a, b = place_lesion(small, donors, 'lytic', 0, k), place_lesion(large, others, 'lytic', 0, k)
        assert (a.background, a.structure) == (b.background, b.structure)
        assert overlap(np.kron(a.mask, np.ones((2, 2), bool)), b.mask)['dice'] > OVERLAP
        a = sample_donor_mask((128, 128), small.structures(k), donors, rng(k), 1)
        b = sample_donor_mask((256, 256), large.structures(k), others, rng(k), 0.5)
        assert overlap(np.kron(a, np.ones((2, 2), bool)), b)['dice'] > OVERLAP


def test_copies_are_found_at_either_size(pairs):
    reports = [
        memorisation_report(*parts, everywhere=False)
        for parts in zip(*(pairs[n] for n in ('copies', 'donors', 'held_out')))
    ]
    assert all(report.copied.all() for report in reports)
    assert (reports[0].nearest_id == reports[1].nearest_id).all()
    assert np.abs(reports[0].distance - reports[1].distance).max() < DISTANCE


def test_ct_is_measured_in_its_window(pairs, tmp_path):
    "A marker of metal changes the greys of CT without a window, and none of those with one"
    small = pairs['donors'][0].rows([0, 1])
    rows, crops = [], {}
    for metal in (False, True):
        for i, row in enumerate(small.df.to_dict('records')):
            hounsfield = small.image(i).astype(np.float32) * 6 - 300
            if metal:
                hounsfield[:6, :12] = 12000
            name = f'{i}-{metal}'
            write_image(tmp_path / f'{name}.png', (hounsfield + 1024).astype(np.uint16))
            mask = str(small.path(i, 'lesion_mask').resolve())
            rows.append(row | dict(image_id=name, image=f'{name}.png', lesion_mask=mask, modality='CT', sha256=''))
    ct = Manifest(pd.DataFrame(rows), tmp_path)
    for window in ('400,1800', ''):
        found = np.stack(lesion_crops(ct.assign(window=window, offset=1024)))
        crops[window] = np.abs(found[:2] - found[2:]).mean()
    assert crops['400,1800'] == 0 and crops[''] > 0.1
