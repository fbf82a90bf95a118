"""The memorisation gate catches copies of every kind, whatever their masks and labels say, and no honest lesion."""

import numpy as np, pytest
from medsoft_nb.data.manifest import HEALTHY
from medsoft_nb.evaluation.memorisation import memorisation_gate, memorisation_report, MemorisationError
from medsoft_nb.evaluation.planted import KINDS, plant_copies
from medsoft_nb.phantom.benchmarks import make_benchmark

HARD = {'half', 'blend 30'}  # Not promised to be found, see the page


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
    "Training and held-out lesions, and copies and honest lesions with the report on them"
    folder = tmp_path_factory.mktemp('memorised')
    real = make_benchmark('phantom-tumour', folder / 'real', n_healthy=6, n_diseased=52, seed=7, per_patient=2)
    healthy, diseased = real.where(label=HEALTHY), real.where(label=real.diseases)
    train, held_out, honest = (diseased.rows(np.arange(*ends)) for ends in ((0, 8), (8, 32), (32, 52)))
    copies = plant_copies(train, folder / 'copies', 4, list(KINDS), healthy)
    report = memorisation_report(copies.concat(honest), train, held_out)
    return train, held_out, copies, honest, report


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind not in HARD])
def test_every_kind_of_copy_is_caught_and_its_original_named(judged, kind):
    train, report = judged[0], judged[-1]
    found = report[report.image_id.str.rpartition('-')[0] == kind]
    originals = [train.df.image_id[int(name.rpartition('-')[2])] for name in found.image_id]
    assert len(found) == 2 and found.copied.all()
    assert found.nearest_id.tolist() == originals


def test_honest_lesions_are_not_accused(judged):
    honest, report = judged[3], judged[-1]
    assert not report[report.image_id.isin(honest.df.image_id)].copied.any()


def test_every_number_is_one(judged):
    report = judged[-1]
    assert np.isfinite(report.evidence).all() and report.copied.dtype == bool and report.below.dtype == bool
    assert report.distance.isna().tolist() == report.image_id.str.startswith('labelled healthy').tolist()


def test_the_gate_refuses_a_copy_that_is_labelled_healthy(judged):
    train, held_out, copies = judged[:3]
    healthy = copies.where(label=HEALTHY)
    assert len(healthy) == 2
    with pytest.raises(MemorisationError, match='2 of 2 synthetic images repeat'):
        memorisation_gate(healthy, train, held_out)
    assert len(memorisation_gate(healthy, train, held_out, drop=True)) == 0
